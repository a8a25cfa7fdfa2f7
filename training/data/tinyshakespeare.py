"""The tiny Shakespeare text, for character language models. The last tenth is held out as development data."""

from pathlib import Path

from training.data.own import read_text, split_text


def read(folder: Path) -> tuple[str, str]:
    """903,469 characters of training text and the 100,385 after them; 65 different characters."""
    return split_text(read_text(folder / "train.txt"))
