"""Splice junctions in primate DNA (UCI), 60 bases each, in 3 classes. A tenth is held out as development data."""

from pathlib import Path

from training.data.examples import DataError, FileLocation, LabeledExample
from training.data.labeled import check_bases
from training.data.splitting import split
from training.data.text_files import read_lines

CLASSES = ("EI", "IE", "N")
BASES = 60


def read(folder: Path) -> tuple[list[LabeledExample], list[LabeledExample]]:
    """2,452 training and 272 development sequences; one that stands twice with the same class is one example.

    Repeats are dropped before the split: the same sequence would else stand on both sides of it.
    """
    path = folder / "train.txt"
    sequences = []
    for line_number, line in enumerate(read_lines(path), start=1):
        label, _, bases = (cell.strip() for cell in line.split(",")) if line.count(",") == 2 else ("", "", "")
        place = FileLocation(str(path), line_number)
        if label not in CLASSES or len(bases) != BASES:
            raise DataError(f"{place}: not a class of {', '.join(CLASSES)}, a name and {BASES} bases; fetch it again")
        check_bases(str(place), bases)
        sequences.append(LabeledExample(text=bases, label=label, place=place))
    distinct = list(dict.fromkeys(sequences))
    return split(distinct, seed=0, labels=[each.label for each in distinct])
