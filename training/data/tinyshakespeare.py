"""The tiny Shakespeare text, for character language models. The last tenth is held out as development data."""

from pathlib import Path

from training.data.splitting import split_text
from training.data.text_files import read_text


def read(folder: Path) -> tuple[str, str]:
    """903,469 characters of training text and the 100,385 after them; 65 different characters."""
    return split_text(read_text(folder / "train.txt"))
