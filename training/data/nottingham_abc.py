"""Folk tunes in ABC notation (Nottingham Music Database), one text with a blank line after each tune."""

from pathlib import Path

from training.data.text_files import read_text


def read(folder: Path) -> tuple[str, str]:
    """828 training tunes and 103 of development: 356,894 and 43,165 characters."""
    return read_text(folder / "train.abc"), read_text(folder / "dev.abc")
