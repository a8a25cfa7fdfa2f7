"""Spoken commands (SNIPS): slots in BIO tags, and an intent a sentence. Train and valid are the published files."""

from pathlib import Path

from training.data.errors import DataError
from training.data.examples import Labelled, Tagged
from training.data.plain import read_lines

Commands = list[Tagged] | list[Labelled]


def read(folder: Path, *, target: str = "slots") -> tuple[Commands, Commands]:
    """13,084 training commands and 700 of development, with their "slots" or their "intent"."""
    if target not in {"slots", "intent"}:
        raise DataError(f'snips: target is {target!r}; it must be "slots" or "intent"')
    return _commands(folder / "train", target), _commands(folder / "valid", target)


def _commands(folder: Path, target: str) -> Commands:
    answers_in = "seq.out" if target == "slots" else "label"
    commands, answers = _rows(folder / "seq.in"), _rows(folder / answers_in)
    if len(commands) != len(answers):
        raise DataError(f"{folder}: {len(commands)} rows in seq.in, {len(answers)} in {answers_in}; fetch it again")
    if target == "intent":
        return [Labelled(text=w, label=a[0]) for w, a in zip(commands, answers, strict=True)]
    for row, (words, tags) in enumerate(zip(commands, answers, strict=True), start=1):
        if len(words) != len(tags):
            raise DataError(f"{folder}, line {row}: {len(words)} words but {len(tags)} tags; fetch it again")
    return [Tagged(tokens=w, tags=t) for w, t in zip(commands, answers, strict=True)]


def _rows(path: Path) -> list[tuple[str, ...]]:
    return [tuple(line.split()) for line in read_lines(path) if line.strip()]
