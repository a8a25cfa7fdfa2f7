"""Sentences with a tag a token in JSON lines: {"tokens": […], "tags": […]}, and "label" where the whole has one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.data.examples import DataError, FileLocation, JointExample, TaggedExample
from training.data.tables import check_characters, check_columns, filled, objects
from training.data.text_files import read_lines


def read_tagged_lines(path: str | Path, *, encoding: str = "utf-8") -> list[TaggedExample]:
    """One sentence a line; other keys are left alone."""
    rows = _rows(Path(path), encoding, {})
    return [TaggedExample(tokens=tokens, tags=tags, place=place) for place, tokens, tags, _ in rows]


def read_joint_lines(path: str | Path, *, label: str = "label", encoding: str = "utf-8") -> list[JointExample]:
    """The same with a label of the whole sentence under the key `label`."""
    return [
        JointExample(tokens=tokens, tags=tags, label=filled(str(place), label, row[label]), place=place)
        for place, tokens, tags, row in _rows(Path(path), encoding, {"label": label})
    ]


def _rows(
    path: Path, encoding: str, wanted: dict[str, str]
) -> Iterator[tuple[FileLocation, tuple[str, ...], tuple[str, ...], dict[str, Any]]]:
    for line_number, row in objects(path, read_lines(path, encoding=encoding)):
        place = FileLocation(str(path), line_number)
        for key in ("tokens", "tags"):
            if key not in row:
                there = ", ".join(map(repr, row)) or "none"
                raise DataError(f'{place}: no key {key!r}; there are {there}: write {{"tokens": […], "tags": […]}}')
        check_columns(str(place), list(row), wanted)
        tokens, tags = _strings(place, "tokens", row["tokens"]), _strings(place, "tags", row["tags"])
        if len(tokens) != len(tags):
            raise DataError(f"{place}: {len(tokens)} tokens but {len(tags)} tags; give one tag a token")
        yield place, tokens, tags, row


def _strings(place: FileLocation, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{place}: {key!r} is {str(value)[:60]!r}; give a list of at least one string")
    for step, string in enumerate(value):
        if not isinstance(string, str) or not string.strip():
            raise DataError(f"{place}: entry {step} of {key!r} is {string!r}; give a string that is not blank")
    check_characters(str(place), key, "".join(value))
    return tuple(value)
