"""Rows of CSV, TSV and JSON with the line number where each starts.

The csv module is used because pandas does not report the line of a wrong row.
"""

import csv
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from models.files.text_files import DataError

JSON_SUFFIXES = {".json", ".jsonl", ".ndjson"}
DELIMITERS = {".tsv": "\t", ".tab": "\t"}
JSON_BLANKS = re.compile(r"[ \t\n\r]*")
EXCEL_SEPARATOR = re.compile(r'\s*"?sep=([^"])"?[\s,;]*', re.IGNORECASE)
MOST_SHOWN = 60  # characters of a wrong line
CANDIDATES = (",", "\t", ";", "|")  # for other suffixes; Excel writes ";" in half of Europe


def is_json(path: Path) -> bool:
    return path.suffix.lower() in JSON_SUFFIXES


def json_objects(path: Path, lines: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the first line number and each object: one on every line that is not blank, or those of one array."""
    first = next(filter(str.strip, lines), "")
    rows = _array_items(path, "\n".join(lines)) if first.lstrip().startswith("[") else _json_lines(path, lines)
    for line_number, row in rows:
        if not isinstance(row, dict):
            raise DataError(
                f"{path}, line {line_number}: {type(row).__name__}, not an object; write one object on each line"
            )
        yield line_number, row


def _json_lines(path: Path, lines: list[str]) -> Iterator[tuple[int, Any]]:
    for line_number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield line_number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _not_json(path, line_number, error, lines) from None


def _not_json(path: Path, line_number: int, error: Exception, lines: list[str]) -> DataError:
    """Return the error for a wrong line. It may be the first one of an object that is the whole file."""
    place = f"{path}, line {line_number}"
    try:
        keys = ", ".join(map(repr, json.loads("\n".join(lines))))
    except (ValueError, RecursionError):
        return DataError(
            f"{place}: not JSON ({error}): {lines[line_number - 1][:MOST_SHOWN]!r}; write one whole object on each line"
        )
    return DataError(f"{place}: the file is one object with the keys {keys[:MOST_SHOWN]}; write an array of objects")


def _array_items(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Yield the line number and value of each item of a JSON array."""
    decoder, line_number, seen = json.JSONDecoder(), 1, 0
    position = JSON_BLANKS.match(text, text.index("[") + 1).end()  # type: ignore[union-attr]
    while text[position : position + 1] != "]":
        line_number, seen = line_number + text.count("\n", seen, position), position
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {line_number}: not JSON ({error}); correct the item of the array") from None
        yield line_number, value
        position = JSON_BLANKS.match(text, position).end()  # type: ignore[union-attr]
        if text[position : position + 1] == ",":
            position = JSON_BLANKS.match(text, position + 1).end()  # type: ignore[union-attr]
        elif text[position : position + 1] != "]":
            line_number += text.count("\n", seen, position)
            raise DataError(f"{path}, line {line_number}: no comma after an item of the array; add one, or end with ]")
    if text[position + 1 :].strip():
        line_number += text.count("\n", seen, position + 1)
        raise DataError(
            f"{path}, line {line_number}: text after the array; write one array, or one object on each line"
        )


def table_rows(path: Path, lines: list[str], likely: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line number and the cells of every row that is not blank, the header first.

    The suffix decides the delimiter, or a first line such as "sep=;", which Excel writes. Else it is the one that gives
    the header most of the `likely` names. Empty cells after the last name of the header are dropped.
    """
    first = next(i for i, line in enumerate(lines) if line.strip())
    delimiter = DELIMITERS.get(path.suffix.lower(), "")
    if separator := EXCEL_SEPARATOR.fullmatch(lines[first]):
        delimiter, lines = separator[1], [*lines[:first], "", *lines[first + 1 :]]
        if not any(map(str.strip, lines)):
            raise DataError(f"{path}: no header; write the names of the columns on the line below")
    delimiter = delimiter or _sniff(next(filter(str.strip, lines)), likely)
    rows = _cells(path, lines, delimiter)
    line_number, cells = next(rows)
    header = [name.strip() for name in cells]
    while header and not header[-1]:
        del header[-1]
    yield line_number, header
    for line_number, cells in rows:
        while len(cells) > len(header) and not cells[-1].strip():
            del cells[-1]  # a delimiter at the end of the line
        if len(cells) != len(header):
            remedy = f"put texts that contain {delimiter!r} in double quotes"
            if delimiter == "\t":
                remedy += ", on one line (save multi-line texts as .csv or .jsonl)"
            raise DataError(
                f"{path}, line {line_number}: {len(cells)} columns, but the header has {len(header)}: "
                f"{delimiter.join(cells)[:MOST_SHOWN]!r}; {remedy}"
            )
        if [cell.strip() for cell in cells] == header:
            raise DataError(f"{path}, line {line_number}: the header again; remove this line")
        yield line_number, cells


def column_rows(path: Path, lines: list[str], wanted: dict[str, str]) -> Iterator[tuple[int, list[Any]]]:
    """Yield the first line number of each row, and its values in the wanted columns of a table, or keys of JSON.

    `wanted` maps the option that names a column to its name.
    """
    if is_json(path):
        for line_number, row in json_objects(path, lines):
            check_columns(f"{path}, line {line_number}", list(row), wanted)
            yield line_number, [row[name] for name in wanted.values()]
        return
    rows = table_rows(path, lines, list(wanted.values()))
    line_number, header = next(rows)
    check_header(f"{path}, line {line_number}", header, wanted)
    places = [header.index(name) for name in wanted.values()]
    for line_number, cells in rows:
        yield line_number, [cells[place] for place in places]


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
    """Return a label as a string. It must be a string that is not blank, a number or a boolean."""
    if isinstance(value, list) and len(value) == 1:  # as doccano writes labels
        (value,) = value
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        value = json.dumps(value)  # 1.0 and true, as in a table
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {name!r} is {value!r}; give one label (a string or a number)")
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
    """Yield rows. Blanks before a cell are dropped only before a quote, because a quote must start its cell."""
    quote_after_blanks = re.compile(rf'(?:^|{re.escape(delimiter)}) +"')
    skip = any(map(quote_after_blanks.search, lines))
    if delimiter == "\t":
        for line_number, line in enumerate(lines, start=1):
            if line.strip():
                yield line_number, _tsv_cells(line, skip)
        return
    reader = csv.reader((line + "\n" for line in lines), delimiter=delimiter, skipinitialspace=skip, strict=True)
    line_number = 1
    try:
        for cells in reader:
            if cells:
                yield line_number, cells
            line_number = reader.line_num + 1
    except csv.Error as error:
        message = _cell_too_long(lines[line_number - 1 :], delimiter) or (
            f"{error}; close every double quote, without a blank after it, and double those inside a quoted text"
        )
        raise DataError(f"{path}, line {line_number}: {message}") from None


def _tsv_cells(line: str, skip: bool) -> list[str]:
    """Return the cells of a TSV line. It is read as CSV only if every quote that opens a cell also closes it.

    csv.writer, pandas and Excel write "a ""good"" film"; other programs leave quotes in texts as they are.
    """
    if '"' in line:
        try:
            return next(csv.reader([line], delimiter="\t", skipinitialspace=skip, strict=True))
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
