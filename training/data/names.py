"""Surnames by nationality, 18 classes, one file each. A tenth is held out as development data."""

from pathlib import Path

from training.data.examples import FileLocation, LabeledExample
from training.data.splitting import split
from training.data.text_files import read_lines


def read(folder: Path) -> tuple[list[LabeledExample], list[LabeledExample]]:
    """Training and development names; a name that one nationality has twice is one example.

    Repeats are dropped before the split: the same name would else stand on both sides of it.
    """
    names = [
        LabeledExample(text=line.strip(), label=path.stem, place=FileLocation(str(path), line_number))
        for path in sorted(folder.glob("*.txt"))
        for line_number, line in enumerate(read_lines(path), start=1)
        if line.strip()
    ]
    distinct = list(dict.fromkeys(names))
    return split(distinct, seed=0, labels=[each.label for each in distinct])
