"""Series of frames of numbers with one label each: JSON lines, tables with a row a frame, and UEA's .ts files.

T steps, F features.
"""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from training.data.examples import DataError, FileLocation, SeriesExample, where
from training.data.tables import check_columns, check_header, delimited, filled, is_json, objects
from training.data.text_files import read_lines

Frames = tuple[tuple[float, ...], ...]  # T x F

LARGEST = 3.4e38  # what a float32 can hold, in which frames are fed
SERIES, STEP = "id", "step"  # columns of a table: which series a row belongs to, and, if it is there, its time


def read_framed(
    path: str | Path, *, frames: str = "frames", label: str = "label", series: str = SERIES, encoding: str = "utf-8"
) -> list[SeriesExample]:
    """By the suffix: .ts, .jsonl with {"frames": [[…], …], "label": …}, else a table with a row a frame.

    In a table the rows of one series stand together and in order; the column `series` says which they are, "step" is
    left alone, and every other column but the label is a feature. In JSON `frames` names the key. Every frame of the
    file has the same count of finite numbers.
    """
    path = Path(path)
    lines = read_lines(path, encoding=encoding)
    if path.suffix.lower() == ".ts":
        examples = list(_ts(path, lines))
    else:
        examples = list(_objects(path, lines, frames, label) if is_json(path) else _table(path, lines, label, series))
    if not examples:
        raise DataError(f"{path}: no series found; give at least one with its label")
    _check_width(examples)
    return examples


def _check_width(examples: Iterable[SeriesExample]) -> None:
    width, first = 0, ""
    for example in examples:
        for step, frame in enumerate(example.frames):
            if not width:
                width, first = len(frame), where(example)
            if len(frame) != width:
                raise DataError(
                    f"{where(example, step)}: frame {step} has {len(frame)} numbers, but the first frame of the file "
                    f"({first}) has {width}; give every frame the same count"
                )


def _number(place: FileLocation, what: str, value: Any) -> float:
    """A number that is finite, as float32 too; strings are read."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= LARGEST:
        raise DataError(f"{place}: {what} is {value!r}; give a finite number, or leave the series out")
    return number


def _objects(path: Path, lines: list[str], frames: str, label: str) -> Iterator[SeriesExample]:
    for line_number, row in objects(path, lines):
        place = FileLocation(str(path), line_number)
        check_columns(str(place), list(row), {"text": frames, "label": label})
        found = row[frames]
        if not isinstance(found, list) or not found or not all(isinstance(frame, list) and frame for frame in found):
            raise DataError(
                f"{place}: {frames!r} is {str(found)[:60]!r}; give a list of frames, each a list of numbers"
            )
        yield SeriesExample(
            frames=tuple(
                tuple(_number(place, f"number {i} of frame {step}", value) for i, value in enumerate(frame))
                for step, frame in enumerate(found)
            ),
            label=filled(str(place), label, row[label]),
            place=place,
        )


def _table(path: Path, lines: list[str], label: str, series_column: str) -> Iterator[SeriesExample]:
    rows = delimited(path, lines, (series_column, label))
    line_number, header = next(rows)
    head = FileLocation(str(path), line_number)
    check_header(str(head), header, {"label": label, "series": series_column})
    features = [column for column, name in enumerate(header) if name not in (series_column, STEP, label)]
    if not features:
        raise DataError(f"{head}: no column of numbers beside {series_column!r} and {label!r}; add at least one")
    series_at, label_at = header.index(series_column), header.index(label)
    for series, group in _together(path, rows, series_at, series_column):
        places = [FileLocation(str(path), line_number) for line_number, _ in group]
        given = filled(str(places[0]), label, group[0][1][label_at])
        for place, (_, cells) in zip(places, group, strict=True):
            if cells[label_at].strip() != given:
                raise DataError(
                    f"{place}: series {series!r} has the label {cells[label_at]!r} here, but {given!r} in line "
                    f"{places[0].line}; give a series one label"
                )
        frames = tuple(
            tuple(_number(place, repr(header[column]), cells[column]) for column in features)
            for place, (_, cells) in zip(places, group, strict=True)
        )
        whole = FileLocation(str(path), places[0].line, tuple(place.line for place in places))
        yield SeriesExample(frames=frames, label=given, place=whole)


def _together(
    path: Path, rows: Iterable[tuple[int, list[str]]], series_at: int, series_column: str
) -> Iterator[tuple[str, list[tuple[int, list[str]]]]]:
    """The rows of one series after another; a series that goes on after another one is refused."""
    done: dict[str, int] = {}  # series -> its last line
    group: list[tuple[int, list[str]]] = []
    for line_number, cells in rows:
        series = cells[series_at]
        if group and series != group[0][1][series_at]:
            done[group[0][1][series_at]] = group[-1][0]
            yield group[0][1][series_at], group
            group = []
        if series in done:
            raise DataError(
                f"{path}, line {line_number}: series {series!r} goes on here, after line {done[series]}; sort the rows "
                f"by {series_column!r}"
            )
        group.append((line_number, cells))
    if group:
        yield group[0][1][series_at], group


def _ts(path: Path, lines: list[str]) -> Iterator[SeriesExample]:
    """A series a line: the values of each feature over time between commas, features and the label between colons."""
    data_at = next((i for i, line in enumerate(lines) if line.strip().lower() == "@data"), None)
    if data_at is None:
        raise DataError(f"{path}: no line @data; a .ts file has one before its series")
    fields = {line.split()[0].lower(): line.split()[1:] for line in lines[:data_at] if line.startswith("@")}
    if fields.get("@timestamps", ["false"])[0].lower() == "true":
        raise DataError(
            f"{path}: @timeStamps true is not read; write the values at even distances, without their times"
        )
    known = fields.get("@classlabel", [])
    if known[:1] != ["true"]:
        raise DataError(f"{path}: no line '@classLabel true …'; a series to learn from has a label")
    for line_number, line in enumerate(lines[data_at + 1 :], start=data_at + 2):
        if line.strip():
            yield _series(FileLocation(str(path), line_number), line, known[1:])


def _series(place: FileLocation, line: str, known: list[str]) -> SeriesExample:
    *features, label = line.strip().split(":")
    if known and label.strip() not in known:
        raise DataError(f"{place}: the label {label!r} is none of @classLabel: {', '.join(known)}")
    if not features:
        raise DataError(f"{place}: no value before the label; write the values of a feature, then a colon")
    columns = [
        [
            _number(place, f"value {step} of feature {number}", value.strip())
            for step, value in enumerate(cells.split(","))
        ]
        for number, cells in enumerate(features)
    ]
    if len({len(column) for column in columns}) != 1:
        lengths = ", ".join(str(len(column)) for column in columns)
        raise DataError(f"{place}: the features have {lengths} values; give each a value for every step")
    return SeriesExample(
        frames=tuple(zip(*columns, strict=True)), label=filled(str(place), "label", label), place=place
    )
