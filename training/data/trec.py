"""Questions by the type of their answer (TREC, 6 types). A tenth of the training file is held out as dev data."""

from pathlib import Path

from training.data.examples import DataError, FileLocation, LabeledExample
from training.data.splitting import split
from training.data.text_files import read_lines

# In the order of the numbers in the file.
TYPES = ("description", "entity", "abbreviation", "human", "location", "number")


def read(folder: Path) -> tuple[list[LabeledExample], list[LabeledExample]]:
    """4,843 training and 538 development questions, split into words and punctuation as published.

    A question that stands twice is one example: it would else stand on both sides of the split.
    """
    path = folder / "train.txt"
    questions = []
    for line_number, line in enumerate(read_lines(path, encoding="latin-1"), start=1):
        number, *words = line.split() or [""]
        if words:
            place = FileLocation(str(path), line_number)
            if number not in {"0", "1", "2", "3", "4", "5"}:
                raise DataError(f"{place}: {number!r} is not a type from 0 to 5; fetch it again")
            questions.append(LabeledExample(text=tuple(words), label=TYPES[int(number)], place=place))
    distinct = list(dict.fromkeys(questions))
    return split(distinct, seed=0, labels=[each.label for each in distinct])
