"""Spoken commands (SNIPS): slots in BIO tags, and an intent a sentence. Train and valid are the published files."""

from pathlib import Path

from training.data.examples import DataError, FileLocation, JointExample, LabeledExample, TaggedExample
from training.data.text_files import read_lines

Commands = list[TaggedExample] | list[LabeledExample] | list[JointExample]


def read(folder: Path, *, target: str = "slots") -> tuple[Commands, Commands]:
    """13,084 training commands and 700 of development, with their "slots", their "intent" or both ("joint")."""
    if target not in {"slots", "intent", "joint"}:
        raise DataError(f'snips: target is {target!r}; it must be "slots", "intent" or "joint"')
    return _commands(folder / "train", target), _commands(folder / "valid", target)


def _commands(folder: Path, target: str) -> Commands:
    names = ("seq.in", "seq.out", "label")
    commands, slots, intents = columns = [_rows(folder / name) for name in names]
    if len({len(rows) for rows in columns}) > 1:
        counts = ", ".join(f"{len(rows)} rows in {name}" for name, rows in zip(names, columns, strict=True))
        raise DataError(f"{folder}: {counts}; fetch it again")
    joint = []
    for (place, words), (_, tags), (_, intent) in zip(commands, slots, intents, strict=True):
        if len(words) != len(tags):
            raise DataError(f"{place}: {len(words)} words but {len(tags)} tags; fetch it again")
        joint.append(JointExample(tokens=words, tags=tags, label=intent[0], place=place))
    if target == "intent":
        return [LabeledExample(text=each.tokens, label=each.label, place=each.place) for each in joint]
    if target == "slots":
        return [TaggedExample(tokens=each.tokens, tags=each.tags, place=each.place) for each in joint]
    return joint


def _rows(path: Path) -> list[tuple[FileLocation, tuple[str, ...]]]:
    return [
        (FileLocation(str(path), line_number), tuple(line.split()))
        for line_number, line in enumerate(read_lines(path), start=1)
        if line.strip()
    ]
