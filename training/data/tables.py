"""Rows of CSV, TSV and JSON lines with the line that each starts in. Knows no task and no example."""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from training.data.examples import DataError

JSON_SUFFIXES = {".json", ".jsonl", ".ndjson"}
DELIMITERS = {".tsv": "\t", ".tab": "\t"}
CANDIDATES = (
    ",",
    "\t",
    ";",
    "|",
)  # tried on the header of every other file; Excel writes ";" in half of Europe


def is_json(path: Path) -> bool:
    return path.suffix.lower() in JSON_SUFFIXES


def objects(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line that is not blank."""
    for line_number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {line_number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not JSON ({error}); write one whole object a line") from None
        if not isinstance(row, dict):
            raise DataError(f"{where}: {type(row).__name__}, not an object; write one object a line, as JSON lines")
        yield line_number, row


def delimited(path: Path, lines: list[str], likely: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """(line number where it starts, cells) of every row that is not blank, the header first.

    The suffix says what stands between cells, or else the header does: what gives it most of the `likely` names.
    Between tabs a row is one line, see `_between_tabs`.
    """
    suffix, header = path.suffix.lower(), next(filter(str.strip, lines))
    delimiter = DELIMITERS.get(suffix) or _sniff(header, likely)
    rows = _cells(path, lines, delimiter)
    line_number, cells = next(rows)
    names = [name.strip() for name in cells]
    yield line_number, names
    for line_number, cells in rows:
        if len(cells) != len(names):
            remedy = f"put a text that holds {delimiter!r} in double quotes"
            if delimiter == "\t":
                remedy += ", on one line (texts that run over lines: as .csv or .jsonl)"
            raise DataError(
                f"{path}, line {line_number}: {len(cells)} columns, but the header has {len(names)}; {remedy}"
            )
        yield line_number, cells


def check_header(where: str, there: Sequence[str], wanted: dict[str, str]) -> None:
    """The same for the first line of a table, which may not be a header at all."""
    try:
        check_columns(where, there, wanted)
    except DataError as error:
        raise DataError(f"{error}; if this line is no header, put one above it") from None


def check_columns(where: str, there: Sequence[str], wanted: dict[str, str]) -> None:
    """`wanted`: from the option of fit that names a column to the name that it has."""
    for option, name in wanted.items():
        if there.count(name) > 1:
            raise DataError(f"{where}: {there.count(name)} columns are called {name!r}; rename all but the {option}")
        if name not in there:
            names = ", ".join(repr(column) for column in there) or "none"
            thing = "series (the same in all its rows)" if option == "series" else option
            raise DataError(
                f"{where}: no column {name!r}; there are {names}: say which is the {thing} (fit: --{option} NAME)"
            )


def filled(where: str, name: str, value: Any) -> str:
    """A label as a string: a string that is not blank, or a whole number."""
    if isinstance(value, int):  # bool too: true and false are labels as good as 1 and 0
        value = json.dumps(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {name!r} is {value!r}; fill in a label (a string or a whole number)")
    check_characters(where, name, value)
    return value.strip()


def check_characters(where: str, name: str, text: str) -> None:
    r"""Half a pair of UTF-16, which JSON can write ("\ud83d"), is no character, and no file could hold it again."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start].encode("unicode_escape").decode()
        raise DataError(
            f"{where}: {name!r} holds {half}, half a character; write the whole one, or remove it"
        ) from None


def _cells(path: Path, lines: list[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line number where it starts, cells) of every row that is not blank."""
    if delimiter == "\t":
        for line_number, line in enumerate(lines, start=1):
            if line.strip():
                yield line_number, _between_tabs(line)
        return
    reader = csv.reader((line + "\n" for line in lines), delimiter=delimiter, strict=True)
    line_number = 1
    try:
        for cells in reader:
            if cells:
                yield line_number, cells
            line_number = reader.line_num + 1
    except csv.Error as error:
        said = _too_long(lines[line_number - 1 :], delimiter) or (
            f"{error}; close every double quote, and double those inside a quoted text"
        )
        raise DataError(f"{path}, line {line_number}: {said}") from None


def _between_tabs(line: str) -> list[str]:
    """The cells of a line of TSV: as CSV has them if every quote that opens a cell closes it, else quotes are text.

    Programs that quote (csv.writer, pandas, Excel) write "a ""good"" film"; others leave quotes as they stand in texts.
    """
    if '"' in line:
        try:
            return next(csv.reader([line], delimiter="\t", strict=True))
        except csv.Error:
            pass
    return line.split("\t")


def _too_long(lines: list[str], delimiter: str) -> str:
    """What to say of the first cell over the limit of Python's reader of CSV, if there is one."""
    limit = csv.field_size_limit()
    cell = re.compile(rf'"(?:[^"]|"")*"?|[^{re.escape(delimiter)}\n]+')
    sizes = (len(found.group()) for found in cell.finditer("\n".join(lines)))
    size = next((size for size in sizes if size > limit), 0)
    if not size:
        return ""
    return (
        f"a cell of {size:,} characters, and the limit of a table is {limit:,}: cut it, or write such texts as JSON "
        "lines (.jsonl); if no text here is so long, a double quote was opened and not closed"
    )


def _sniff(header: str, likely: Sequence[str]) -> str:
    """The delimiter that gives the header most of the likely names, else the one that gives it the most cells."""

    def fit(delimiter: str) -> tuple[int, int]:
        names = [name.strip(' "') for name in header.split(delimiter)]
        return sum(name in names for name in likely), len(names)

    return max(CANDIDATES, key=fit)
