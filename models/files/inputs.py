"""Inputs for `seqserve predict`: one on each line, a column of a table, JSON, CoNLL, FASTA, frames, or series."""

import base64
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from models.files.tables import check_columns, check_header, json_objects, table_rows
from models.files.text_files import DataError, read_lines

Format = Literal["lines", "table", "json", "conll", "conllu", "fasta"]
FORMATS: dict[Format, tuple[str, ...]] = {
    "table": (".csv", ".tsv", ".tab"),
    "json": (".json", ".jsonl", ".ndjson"),
    "conll": (".conll", ".iob", ".bio", ".iob2"),
    "conllu": (".conllu",),
    "fasta": (".fa", ".fasta", ".fna"),
}
KEYS = {"frames": "frames", "series": "target"}  # codec -> key of its inputs in JSON
TEXT = "text"  # key of the inputs of other codecs, and their column in a table
MISSING = {"", "nan", "na", "n/a", "null", "none"}  # cells of a series that are missing values
PICTURES = (".png", ".jpg", ".jpeg")  # suffixes of files that are one input
STEP = "step"  # a column of frames that is ignored
NOT_A_WORD = re.compile(r"\d+[-.]\d+")  # ids of multiword ranges (1-2) and empty nodes (1.1) in CoNLL-U


def format_of(path: Path) -> Format:
    """Return the format that the suffix names: one input on each line, if it names none."""
    return next((form for form, suffixes in FORMATS.items() if path.suffix.lower() in suffixes), "lines")


def read_inputs(
    path: Path,
    *,
    codec: str,
    form: Format | None = None,
    text: str | None = None,
    label: str = "label",
    series: str = "id",
    token_column: int | None = None,
    encoding: str = "utf-8",
) -> list[Any]:
    """Return the inputs of a kind of `codec`: strings, lists of tokens or of frames, or series. Raises DataError.

    `text` names the column or key of the input. In a table of frames, `series` groups adjacent rows, and every other
    column but `label` and "step" is a number of the frame. In a table for the codec "series", each column of numbers is
    one series, or one for each cell of the column `series`. An empty cell is a missing value, None. The file of a
    picture is one input, in base64.
    """
    if codec == "image" and path.suffix.lower() in PICTURES:
        return [base64.b64encode(path.read_bytes()).decode()]
    form = form or format_of(path)
    lines = read_lines(path, encoding=encoding)
    if form == "json":
        return _json_inputs(path, lines, text or KEYS.get(codec, TEXT))
    if codec in KEYS and form != "table":
        wanted = ", ".join(FORMATS["table"] + FORMATS["json"])
        raise DataError(f"{path}: a file in the format {form} has no {codec}; give one of {wanted}")
    if codec == "frames":
        return _table_frames(path, lines, series, label)
    if codec == "series":
        return _table_series(path, lines, text, series)
    if form == "table":
        return _column(path, lines, text or TEXT)
    if form == "fasta":
        return _fasta(path, lines)
    if form in ("conll", "conllu"):
        return _sentences(path, lines, token_column, conllu=form == "conllu")
    return lines


def _json_inputs(path: Path, lines: list[str], key: str) -> list[Any]:
    inputs = []
    for line, row in json_objects(path, lines):
        name = "tokens" if key == TEXT and key not in row else key
        if name not in row:
            check_columns(f"{path}, line {line}", list(row), {"text": key})
        inputs.append(row[name])
    return inputs


def _column(path: Path, lines: list[str], name: str) -> list[str]:
    rows = table_rows(path, lines, (name,))
    line, header = next(rows)
    check_header(f"{path}, line {line}", header, {"text": name})
    place = header.index(name)
    return [cells[place] for _, cells in rows]


def _table_frames(path: Path, lines: list[str], series: str, label: str) -> list[list[list[float]]]:
    rows = table_rows(path, lines, (series, label))
    line, header = next(rows)
    check_header(f"{path}, line {line}", header, {"series": series})
    places = [place for place, name in enumerate(header) if name not in ("", series, STEP, label)]
    return [
        [[_number(path, line, cells[place]) for place in places] for line, cells in group]
        for _, group in groupby(rows, key=lambda row: row[1][header.index(series)])
    ]


def _table_series(path: Path, lines: list[str], name: str | None, series: str) -> list[list[float | None]]:
    """Return the column `name`, or every column of numbers, of each group of rows with the same cell in `series`."""
    (line, header), *rows = table_rows(path, lines, (series, name or ""))
    groups: dict[str, list[tuple[int, list[str]]]] = {}
    for number, cells in rows:
        groups.setdefault(cells[header.index(series)] if series in header else "", []).append((number, cells))
    places = [place for place, each in enumerate(header) if each != series]
    if name is not None:
        check_header(f"{path}, line {line}", header, {"text": name})
        places = [header.index(name)]
    columns = []
    for place in places:
        try:
            column = [[_optional_number(path, at, cells[place]) for at, cells in group] for group in groups.values()]
        except DataError:
            if name is not None:
                raise
            continue  # a column such as the times
        if name is not None or any(number is not None for one in column for number in one):
            columns.append(column)
    if not columns:
        raise DataError(f"{path}: has no column of numbers; give one for each series, or name one with --text")
    return [one for group in zip(*columns, strict=True) for one in group]


def _optional_number(path: Path, line: int, cell: str) -> float | None:
    return None if cell.strip().lower() in MISSING else _number(path, line, cell)


def _number(path: Path, line: int, cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise DataError(f"{path}, line {line}: {cell!r} is not a number; correct it, or remove the column") from None


def _fasta(path: Path, lines: list[str]) -> list[str]:
    sequences: list[str] = []
    for number, line in enumerate(lines, 1):
        if line.startswith(">"):
            sequences.append("")
        elif sequences:
            sequences[-1] += line.strip()
        elif line.strip():
            raise DataError(f"{path}, line {number}: bases before the first name; write a line '>name' above them")
    return sequences


def _sentences(path: Path, lines: list[str], column: int | None, *, conllu: bool) -> list[list[str]]:
    """Return the tokens of each sentence. A blank line ends one; lines that start with "# " are comments."""
    place = column if column is not None else int(conllu)
    sentences: list[list[str]] = [[]]
    for number, line in enumerate(lines, 1):
        cells: Sequence[str] = line.split("\t") if "\t" in line else line.split()
        if not line.strip() or line.startswith("-DOCSTART-"):
            sentences.append([])
        elif line.startswith("#" if conllu else "# ") or (conllu and NOT_A_WORD.fullmatch(cells[0])):
            continue
        elif not -len(cells) <= place < len(cells):
            raise DataError(f"{path}, line {number}: no column {place}, the line has {len(cells)}; set --token-column")
        else:
            sentences[-1].append(cells[place].strip())
    return [sentence for sentence in sentences if sentence]
