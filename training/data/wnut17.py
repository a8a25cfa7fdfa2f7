"""Emerging entities in tweets and comments (WNUT 2017), BIO tags. Train and dev are the published files."""

from pathlib import Path

from training.data.conll import read_tagged
from training.data.examples import TaggedExample


def read(folder: Path) -> tuple[list[TaggedExample], list[TaggedExample]]:
    """3,394 training sentences and 1,009 of development; 6 entity types, so 13 tags."""
    return read_tagged(folder / "train.conll"), read_tagged(folder / "dev.conll")
