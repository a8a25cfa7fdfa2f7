"""Rows of CSV, TSV and JSON lines with the line number where each starts.

The csv module is used because pandas does not report the line of a wrong row.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from training.data.examples import DataError

JSON_SUFFIXES = {".json", ".jsonl", ".ndjson"}
DELIMITERS = {".tsv": "\t", ".tab": "\t"}
CANDIDATES = (",", "\t", ";", "|")  # for other suffixes; Excel writes ";" in half of Europe


def is_json(path: Path) -> bool:
    return path.suffix.lower() in JSON_SUFFIXES


def json_objects(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line number and the object of every line that is not blank."""
    for line_number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {line_number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not JSON ({error}); write one whole object on each line") from None
        if not isinstance(row, dict):
            raise DataError(f"{where}: {type(row).__name__}, not an object; write one object on each line")
        yield line_number, row


def table_rows(path: Path, lines: list[str], likely: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line number and the cells of every row that is not blank, the header first.

    The suffix decides the delimiter. Else it is the one that gives the header most of the `likely` names.
    """
    suffix, header = path.suffix.lower(), next(filter(str.strip, lines))
    delimiter = DELIMITERS.get(suffix) or _sniff(header, likely)
    rows = _cells(path, lines, delimiter)
    line_number, cells = next(rows)
    names = [name.strip() for name in cells]
    yield line_number, names
    for line_number, cells in rows:
        if len(cells) != len(names):
            remedy = f"put texts that contain {delimiter!r} in double quotes"
            if delimiter == "\t":
                remedy += ", on one line (save multi-line texts as .csv or .jsonl)"
            raise DataError(
                f"{path}, line {line_number}: {len(cells)} columns, but the header has {len(names)}; {remedy}"
            )
        yield line_number, cells


def check_header(where: str, columns: Sequence[str], wanted: dict[str, str]) -> None:
    """Check the columns of a table's first line, which may not be a header."""
    try:
        check_columns(where, columns, wanted)
    except DataError as error:
        raise DataError(f"{error}; if this line is not a header, add one above it") from None


def check_columns(where: str, columns: Sequence[str], wanted: dict[str, str]) -> None:
    """Check that every wanted column exists once. `wanted` maps the option that names a column to its name."""
    for option, name in wanted.items():
        if columns.count(name) > 1:
            raise DataError(f"{where}: {columns.count(name)} columns are called {name!r}; rename all but the {option}")
        if name not in columns:
            names = ", ".join(map(repr, columns)) or "none"
            raise DataError(f"{where}: no column {name!r}, the columns are {names}; choose one with --{option} NAME")


def filled_label(where: str, name: str, value: Any) -> str:
    """Return a label as a string. It must be a string that is not blank, a whole number or a boolean."""
    if isinstance(value, int):
        value = json.dumps(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {name!r} is {value!r}; give a label (a string or a whole number)")
    check_characters(where, name, value)
    return value.strip()


def check_characters(where: str, name: str, text: str) -> None:
    r"""Refuse unpaired surrogates, which JSON can write ("\ud83d") but UTF-8 files cannot hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start].encode("unicode_escape").decode()
        raise DataError(f"{where}: {name!r} contains {half}, half a character; write all of it, or none") from None


def _cells(path: Path, lines: list[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    if delimiter == "\t":
        for line_number, line in enumerate(lines, start=1):
            if line.strip():
                yield line_number, _tsv_cells(line)
        return
    reader = csv.reader((line + "\n" for line in lines), delimiter=delimiter, strict=True)
    line_number = 1
    try:
        for cells in reader:
            if cells:
                yield line_number, cells
            line_number = reader.line_num + 1
    except csv.Error as error:
        message = _cell_too_long(lines[line_number - 1 :], delimiter) or (
            f"{error}; close every double quote, and double those inside a quoted text"
        )
        raise DataError(f"{path}, line {line_number}: {message}") from None


def _tsv_cells(line: str) -> list[str]:
    """Return the cells of a TSV line. It is read as CSV only if every quote that opens a cell also closes it.

    csv.writer, pandas and Excel write "a ""good"" film"; other programs leave quotes in texts as they are.
    """
    if '"' in line:
        try:
            return next(csv.reader([line], delimiter="\t", strict=True))
        except csv.Error:
            pass
    return line.split("\t")


def _cell_too_long(lines: list[str], delimiter: str) -> str:
    """Return a message about the first cell over the csv module's limit, or ""."""
    limit = csv.field_size_limit()
    cell = re.compile(rf'"(?:[^"]|"")*"?|[^{re.escape(delimiter)}\n]+')
    sizes = (len(match.group()) for match in cell.finditer("\n".join(lines)))
    size = next((size for size in sizes if size > limit), 0)
    if not size:
        return ""
    return (
        f"a cell of {size:,} characters, over the limit of {limit:,}; cut it, or write such texts as JSON lines "
        "(.jsonl). If no text is so long, a double quote is not closed"
    )


def _sniff(header: str, likely: Sequence[str]) -> str:
    """Return the delimiter that gives the header most of the likely names, or else the most cells."""

    def score(delimiter: str) -> tuple[int, int]:
        names = [name.strip(' "') for name in header.split(delimiter)]
        return sum(name in names for name in likely), len(names)

    return max(CANDIDATES, key=score)
