"""Series of numeric frames with one label, or one for each frame: JSON lines, tables, and UEA's .ts files.

T steps, F features.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from models.files.tables import check_columns, check_header, filled_label, is_json, json_objects, table_rows
from models.files.text_files import read_lines
from training.data.examples import DataError, FileLocation, SeriesExample, TaggedSeries, where

LARGEST = 3.4e38  # frames are float32
SERIES, STEP = "id", "step"  # columns of a table: the series of a row, and its time, which is ignored

Frames = tuple[tuple[float, ...], ...]  # T x F


def read_frames(
    path: str | Path, *, frames: str = "frames", label: str = "label", series: str = SERIES, encoding: str = "utf-8"
) -> list[SeriesExample]:
    """Read .ts, JSON lines with {"frames": [[…], …], "label": …}, or a table with one row per frame.

    `frames` names the key in JSON. In a table the column `series` groups rows, which must be adjacent and in order.
    The column "step" and columns without a name, such as the index of pandas, are ignored; every other column but the
    label is a feature. All frames of a file must have the same
    count of finite numbers.
    """
    path = Path(path)
    lines = read_lines(path, encoding=encoding)
    if path.suffix.lower() == ".ts":
        examples = list(_read_ts(path, lines))
    elif is_json(path):
        examples = [
            SeriesExample(frames=rows, label=filled_label(str(place), label, value), place=place)
            for rows, value, place in _read_json(path, lines, frames, label)
        ]
    else:
        examples = [
            SeriesExample(frames=rows, label=_common_label(place, name, label, labels), place=place)
            for name, rows, labels, place in _read_table(path, lines, label, series)
        ]
    _check_widths(path, examples)
    return examples


def read_tagged_frames(
    path: str | Path, *, frames: str = "frames", labels: str = "labels", series: str = SERIES, encoding: str = "utf-8"
) -> list[TaggedSeries]:
    """Read JSON lines with {"frames": [[…], …], "labels": ["a", …]}, or a table with a frame and its label per row.

    `labels` names the key in JSON and the column in a table. Everything else is as for `read_frames`.
    """
    path = Path(path)
    lines = read_lines(path, encoding=encoding)
    if path.suffix.lower() == ".ts":
        raise DataError(f"{path}: a .ts file has one label for each series; write a table with a label in each row")
    if is_json(path):
        examples = [
            TaggedSeries(frames=rows, tags=_label_list(place, labels, value, len(rows)), place=place)
            for rows, value, place in _read_json(path, lines, frames, labels)
        ]
    else:
        examples = [
            TaggedSeries(
                frames=rows,
                tags=tuple(filled_label(str(place.of_step(t)), labels, cell) for t, cell in enumerate(cells)),
                place=place,
            )
            for _, rows, cells, place in _read_table(path, lines, labels, series)
        ]
    _check_widths(path, examples)
    return examples


def _label_list(place: FileLocation, name: str, value: Any, count: int) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise DataError(f"{place}: {name!r} is {str(value)[:60]!r}; give a list with a label for each frame")
    if len(value) != count:
        raise DataError(f"{place}: {len(value)} labels for {count} frames; give every frame one label")
    return tuple(filled_label(f"{place}, label {step}", name, label) for step, label in enumerate(value))


def _common_label(place: FileLocation, series: str, name: str, cells: Sequence[str]) -> str:
    label = filled_label(str(place), name, cells[0])
    for step, cell in enumerate(cells):
        if cell.strip() != label:
            raise DataError(
                f"{place.of_step(step)}: series {series!r} has the label {cell!r} here, but {label!r} in line "
                f"{place.line}; give a series one label, or a label to each frame (fit frame-tagger)"
            )
    return label


def _check_widths(path: Path, examples: Sequence[SeriesExample | TaggedSeries]) -> None:
    if not examples:
        raise DataError(f"{path}: no series found; give at least one with its label")
    width, first = len(examples[0].frames[0]), where(examples[0])
    for example in examples:
        for step, frame in enumerate(example.frames):
            if len(frame) != width:
                raise DataError(
                    f"{where(example, step)}: frame {step} has {len(frame)} numbers, but the first frame ({first}) has "
                    f"{width}; give every frame the same count"
                )


def _number(place: FileLocation, what: str, value: Any) -> float:
    """Return a number that is finite in float32. Strings are parsed."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= LARGEST:
        raise DataError(f"{place}: {what} is {value!r}; give a finite number, or leave the series out")
    return number


def _read_json(path: Path, lines: list[str], frames: str, label: str) -> Iterator[tuple[Frames, Any, FileLocation]]:
    """Yield the frames, the value of the key `label` and the place of each series."""
    for line_number, row in json_objects(path, lines):
        place = FileLocation(str(path), line_number)
        check_columns(str(place), list(row), {"text": frames, "label": label})
        rows = row[frames]
        if not isinstance(rows, list) or not rows or not all(isinstance(frame, list) and frame for frame in rows):
            raise DataError(f"{place}: {frames!r} is {str(rows)[:60]!r}; give a list of frames, each a list of numbers")
        numbers = tuple(
            tuple(_number(place, f"number {i} of frame {step}", value) for i, value in enumerate(frame))
            for step, frame in enumerate(rows)
        )
        yield numbers, row[label], place


def _read_table(
    path: Path, lines: list[str], label: str, series_column: str
) -> Iterator[tuple[str, Frames, Sequence[str], FileLocation]]:
    """Yield the name, the frames, the cell of the label in each row, and the place of each series."""
    rows = table_rows(path, lines, (series_column, label))
    line_number, header = next(rows)
    header_place = FileLocation(str(path), line_number)
    check_header(str(header_place), header, {"label": label, "series": series_column})
    features = [column for column, name in enumerate(header) if name not in ("", series_column, STEP, label)]
    if not features:
        raise DataError(
            f"{header_place}: no column of numbers in addition to {series_column!r} and {label!r}; add at least one"
        )
    series_at, label_at = header.index(series_column), header.index(label)
    ended: dict[str, int] = {}  # last line of each series
    for series, adjacent in groupby(rows, key=lambda row: row[1][series_at]):
        group = list(adjacent)
        if series in ended:
            raise DataError(
                f"{path}, line {group[0][0]}: series {series!r} continues here, but ended in line {ended[series]}; "
                f"sort the rows by {series_column!r}"
            )
        ended[series] = group[-1][0]
        places = [FileLocation(str(path), line_number) for line_number, _ in group]
        frames = tuple(
            tuple(_number(place, repr(header[column]), cells[column]) for column in features)
            for place, (_, cells) in zip(places, group, strict=True)
        )
        whole = FileLocation(str(path), places[0].line, tuple(place.line for place in places))
        yield series, frames, [cells[label_at] for _, cells in group], whole


def _read_ts(path: Path, lines: list[str]) -> Iterator[SeriesExample]:
    """Read one series per line: values between commas, features and the label between colons."""
    data_at = next((i for i, line in enumerate(lines) if line.strip().lower() == "@data"), None)
    if data_at is None:
        raise DataError(f"{path}: no line @data; put one before the series")
    fields = {line.split()[0].lower(): line.split()[1:] for line in lines[:data_at] if line.startswith("@")}
    if fields.get("@timestamps", ["false"])[0].lower() == "true":
        raise DataError(f"{path}: @timeStamps true is not supported; write evenly spaced values without times")
    classes = fields.get("@classlabel", [])
    if classes[:1] != ["true"]:
        raise DataError(f"{path}: no line '@classLabel true …'; add one, and a label to every series")
    for line_number, line in enumerate(lines[data_at + 1 :], start=data_at + 2):
        if line.strip():
            yield _ts_series(FileLocation(str(path), line_number), line, classes[1:])


def _ts_series(place: FileLocation, line: str, classes: list[str]) -> SeriesExample:
    *features, label = line.strip().split(":")
    if classes and label.strip() not in classes:
        raise DataError(f"{place}: the label {label!r} is not in @classLabel: {', '.join(classes)}")
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
        raise DataError(f"{place}: the features have {lengths} values; give every feature the same count")
    return SeriesExample(
        frames=tuple(zip(*columns, strict=True)), label=filled_label(str(place), "label", label), place=place
    )
