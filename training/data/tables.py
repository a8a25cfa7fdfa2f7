"""Labelled texts in CSV, TSV or JSON lines, with a column (or key) for the text and one for the label."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.data.errors import DataError
from training.data.examples import Labelled
from training.data.plain import read_lines

JSON_SUFFIXES = {".json", ".jsonl", ".ndjson"}
DELIMITERS = {".tsv": "\t", ".tab": "\t"}
CANDIDATES = (
    ",",
    "\t",
    ";",
    "|",
)  # tried on the header of every other file; Excel writes ";" in half of Europe


def read_labelled(
    path: str | Path, *, text: str = "text", label: str = "label", encoding: str = "utf-8"
) -> list[Labelled]:
    """Rows of a table with a header, or of a file of JSON objects, one a line, by its suffix.

    `text` and `label` name the columns. In JSON the text may be a list of tokens and the label a whole number. TSV
    has no quoting, but a cell that stands in quotes altogether loses them.
    """
    path = Path(path)
    lines = read_lines(path, encoding=encoding)
    rows = _json_rows(path, lines, text, label) if path.suffix in JSON_SUFFIXES else _rows(path, lines, text, label)
    examples = [_example(path, line_number, a_text, a_label, text, label) for line_number, a_text, a_label in rows]
    if not examples:
        raise DataError(f"{path}: no row below the header; give at least one text with its label")
    return examples


def _example(path: Path, line_number: int, a_text: Any, a_label: Any, text: str, label: str) -> Labelled:
    where = f"{path}, line {line_number}"
    if isinstance(a_label, int):  # bool too: true and false are labels as good as 1 and 0
        a_label = json.dumps(a_label)
    if not isinstance(a_label, str) or not a_label.strip():
        raise DataError(f"{where}: {label!r} is {a_label!r}; fill in a label (a string or a whole number)")
    if isinstance(a_text, list) and a_text and all(isinstance(token, str) and token.strip() for token in a_text):
        return Labelled(text=tuple(a_text), label=a_label.strip())
    if not isinstance(a_text, str) or not a_text.strip():
        raise DataError(f"{where}: {text!r} is {a_text!r}; fill in a text, or remove the row")
    return Labelled(text=a_text, label=a_label.strip())


def _json_rows(path: Path, lines: list[str], text: str, label: str) -> Iterator[tuple[int, Any, Any]]:
    for line_number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {line_number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: not JSON ({error}); write one whole object a line") from None
        if not isinstance(row, dict):
            raise DataError(f"{where}: {type(row).__name__}, not an object; write one object a line, as JSON lines")
        _check_columns(where, list(row), text, label)
        yield line_number, row[text], row[label]


def _rows(path: Path, lines: list[str], text: str, label: str) -> Iterator[tuple[int, str, str]]:
    delimiter = DELIMITERS.get(path.suffix) or _sniff(next(filter(str.strip, lines)), text, label)
    rows = _cells(path, lines, delimiter)
    line_number, cells = next(rows)
    header = [name.strip() for name in cells]
    _check_columns(f"{path}, line {line_number}", header, text, label)
    text_at, label_at = header.index(text), header.index(label)
    for line_number, cells in rows:
        if len(cells) != len(header):
            raise DataError(
                f"{path}, line {line_number}: {len(cells)} columns, but the header has {len(header)}; put a text that "
                f"holds {delimiter!r} in double quotes"
            )
        yield line_number, cells[text_at], cells[label_at]


def _cells(path: Path, lines: list[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line number where it starts, cells) of every row that is not blank."""
    if delimiter == "\t":
        for line_number, line in enumerate(lines, start=1):
            if line.strip():
                yield line_number, [_unquoted(cell) for cell in line.split("\t")]
        return
    reader = csv.reader((line + "\n" for line in lines), delimiter=delimiter, strict=True)
    line_number = 1
    try:
        for cells in reader:
            if cells:
                yield line_number, cells
            line_number = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {line_number}: {error}; close every double quote, and double those inside a quoted text"
        ) from None


def _unquoted(cell: str) -> str:
    quoted = len(cell) > 1 and cell[0] == cell[-1] == '"'
    return cell[1:-1].replace('""', '"') if quoted else cell


def _sniff(header: str, text: str, label: str) -> str:
    """The delimiter that gives the header both columns, else the one that gives it the most."""

    def fit(delimiter: str) -> tuple[int, int]:
        names = [name.strip(' "') for name in header.split(delimiter)]
        return (text in names) + (label in names), len(names)

    return max(CANDIDATES, key=fit)


def _check_columns(where: str, columns: list[str], text: str, label: str) -> None:
    for option, name in (("text", text), ("label", label)):
        if name not in columns:
            there = ", ".join(repr(column) for column in columns) or "none"
            raise DataError(
                f"{where}: no column {name!r}; there are {there}: say which is the {option} (fit: --{option} NAME)"
            )
