"""English web text with universal part-of-speech tags (UD English-EWT). Train and dev are the published files."""

from pathlib import Path

from training.data.conll import read_tagged
from training.data.examples import TaggedExample


def read(folder: Path) -> tuple[list[TaggedExample], list[TaggedExample]]:
    """12,544 training sentences (204,577 words) and 2,001 of development; 17 tags."""
    return read_tagged(folder / "train.conllu"), read_tagged(folder / "dev.conllu")
