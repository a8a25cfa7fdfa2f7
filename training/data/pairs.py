"""Pairs of a source and its translation: tables, JSON, or two parallel files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.files.tables import check_characters, check_columns, check_header, is_json, json_objects, table_rows
from models.files.text_files import DEFAULT_ENCODING, read_lines
from training.data.examples import DataError, FileLocation, PairExample

MOST_SHOWN = 60  # characters of a wrong value


def read_pairs(
    path: Path, *, source: str = "source", target: str = "target", encoding: str = DEFAULT_ENCODING
) -> list[PairExample]:
    """Read a table with a header, or JSON. `source` and `target` name the columns or keys."""
    lines = read_lines(path, encoding=encoding)
    rows = _json_rows(path, lines, source, target) if is_json(path) else _table_rows(path, lines, source, target)
    pairs = [
        PairExample(source=_text(path, line, source, read), target=_text(path, line, target, written), place=place)
        for line, read, written in rows
        for place in (FileLocation(str(path), line),)
    ]
    if not pairs:
        raise DataError(f"{path}: no row below the header; give at least one pair")
    return pairs


def read_parallel(source: Path, target: Path, *, encoding: str = DEFAULT_ENCODING) -> list[PairExample]:
    """Read two files with one text a line, where line n of `target` translates line n of `source`."""
    parts = [read_lines(path, encoding=encoding) for path in (source, target)]
    if len(parts[0]) != len(parts[1]):
        raise DataError(
            f"{source} has {len(parts[0]):,} lines, but {target} has {len(parts[1]):,}; give one translation for each "
            "line, on the line of the same number"
        )
    return [
        PairExample(
            source=_text(source, line, "the line", read),
            target=_text(target, line, "the line", written),
            place=FileLocation(str(source), line),
        )
        for line, (read, written) in enumerate(zip(*parts, strict=True), 1)
    ]


def _text(path: Path, line: int, name: str, value: Any) -> str:
    """Return a text without blanks around it. Raises DataError for anything else, and for an empty one."""
    if not isinstance(value, str) or not value.strip():
        raise DataError(
            f"{path}, line {line}: {name!r} is {str(value)[:MOST_SHOWN]!r}; give a text, or remove the pair"
        )
    check_characters(f"{path}, line {line}", name, value)
    return value.strip()


def _json_rows(path: Path, lines: list[str], source: str, target: str) -> Iterator[tuple[int, Any, Any]]:
    for line, row in json_objects(path, lines):
        check_columns(f"{path}, line {line}", list(row), {"source": source, "target": target})
        yield line, row[source], row[target]


def _table_rows(path: Path, lines: list[str], source: str, target: str) -> Iterator[tuple[int, str, str]]:
    rows = table_rows(path, lines, (source, target))
    line, header = next(rows)
    check_header(f"{path}, line {line}", header, {"source": source, "target": target})
    source_at, target_at = header.index(source), header.index(target)
    for line, cells in rows:
        yield line, cells[source_at], cells[target_at]
