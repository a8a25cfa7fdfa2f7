"""Readers for users' own files: CoNLL, CSV/TSV/JSONL and plain text; the published sets are read by them too.

Every error names the file, the line, what is wrong and the remedy. Knows nothing of codecs or tensors.
"""

import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from training.data.errors import DataError
from training.data.examples import Tagged

Row = TypeVar("Row")

CONLLU_COLUMNS = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
NOT_A_WORD = re.compile(r"\d+[-.]\d+")  # CoNLL-U ids of multiword ranges (1-2) and empty nodes (1.1)


def read_text(path: str | Path, *, encoding: str = "utf-8") -> str:
    """The whole file as text; line endings become "\\n", a byte order mark is dropped."""
    text = _decoded(Path(path), encoding)
    if not text.strip():
        raise DataError(f"{path}: the file is empty; give a file with text")
    return text


def read_tagged(
    path: str | Path,
    *,
    token_column: int | str | None = None,
    tag_column: int | str | None = None,
    encoding: str = "utf-8",
) -> list[Tagged]:
    """Sentences of a CoNLL file: a token a line, columns between tabs (or spaces), blank lines between sentences.

    Columns count from 0, from the end if negative; the default is the first and the last, in .conllu FORM and
    UPOS, where names ("XPOS") serve too. CoNLL-U multiword ranges and empty nodes are skipped.
    """
    path = Path(path)
    conllu = path.suffix == ".conllu"
    token_at = _column(path, token_column, default=1 if conllu else 0, conllu=conllu)
    tag_at = _column(path, tag_column, default=3 if conllu else -1, conllu=conllu)
    sentences: list[Tagged] = []
    tokens: list[str] = []
    tags: list[str] = []
    for line_number, cells in _conll_rows(path, _decoded(path, encoding).split("\n"), conllu, tag_at):
        if cells is None:
            if tokens:
                sentences.append(Tagged(tokens=tuple(tokens), tags=tuple(tags)))
                tokens, tags = [], []
            continue
        token, tag = _cell(path, line_number, cells, token_at), _cell(path, line_number, cells, tag_at)
        if conllu and tag == "_":
            raise DataError(f"{path}, line {line_number}: {token!r} has no tag ('_'); choose another tag_column")
        tokens.append(token)
        tags.append(tag)
    if not sentences:
        raise DataError(f"{path}: no sentence found; expected a token and its tag on each line")
    return sentences


def split(rows: Sequence[Row], *, dev_share: float = 0.1, seed: int = 0) -> tuple[list[Row], list[Row]]:
    """Train and dev rows, drawn at random but always the same for a seed; both keep the order of `rows`."""
    if not 0 < dev_share < 1:
        raise DataError(f"dev_share is {dev_share}; it must lie between 0 and 1, e.g. 0.1")
    dev_count = round(len(rows) * dev_share)
    if dev_count < 1 or dev_count >= len(rows):
        raise DataError(
            f"{len(rows)} rows are too few to hold out {dev_share:.0%} for development; "
            "add rows, change dev_share, or give a development file of your own"
        )
    draws = random.Random(seed)
    shuffled = sorted(range(len(rows)), key=lambda _: draws.random())  # random() is stable across versions
    held_out = set(shuffled[:dev_count])
    train = [row for i, row in enumerate(rows) if i not in held_out]
    return train, [rows[i] for i in sorted(held_out)]


def split_text(text: str, *, dev_share: float = 0.1) -> tuple[str, str]:
    """The text up to the last `dev_share` of its characters, and that last part."""
    if not 0 < dev_share < 1:
        raise DataError(f"dev_share is {dev_share}; it must lie between 0 and 1, e.g. 0.1")
    cut = round(len(text) * (1 - dev_share))
    if not 0 < cut < len(text):
        raise DataError(f"{len(text)} characters are too few to hold out {dev_share:.0%}; give a longer text")
    return text[:cut], text[cut:]


def _decoded(path: Path, encoding: str) -> str:
    """The file's text with "\\n" between lines; str.splitlines would also split at U+2028 and form feeds."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    try:
        text = data.decode(encoding)
    except LookupError:
        raise DataError(f"{path}: unknown encoding {encoding!r}; try 'utf-8', 'latin-1' or 'cp1252'") from None
    except UnicodeDecodeError as error:
        line_number = data.count(b"\n", 0, error.start) + 1
        byte = error.start - data.rfind(b"\n", 0, error.start)
        raise DataError(
            f"{path}, line {line_number}, byte {byte}: 0x{data[error.start]:02x} is not {encoding}; "
            "save the file as UTF-8, or name its encoding, e.g. encoding='cp1252'"
        ) from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _column(path: Path, column: int | str | None, *, default: int, conllu: bool) -> int:
    if column is None:
        return default
    if isinstance(column, int):
        return column
    if not conllu:
        raise DataError(f"{path}: column {column!r} is a name; only .conllu files name columns: give a number")
    if column.upper() not in CONLLU_COLUMNS:
        raise DataError(f"{path}: no column {column!r}; CoNLL-U has {', '.join(CONLLU_COLUMNS)}")
    return CONLLU_COLUMNS.index(column.upper())


def _conll_rows(
    path: Path, lines: list[str], conllu: bool, tag_at: int
) -> Iterator[tuple[int, list[str] | None]]:
    """(line number, cells) of every token, and (line number, None) where a sentence ends."""
    rows = [line.split("\t") if "\t" in line else line.split() for line in lines]
    plain = [row for line, row in zip(lines, rows, strict=True) if line.strip() and line[0] != "#"]
    width = len(plain[0]) if plain else 0
    known_tags = {row[tag_at] for row in plain if len(row) == width} if not conllu and width > 1 else set()
    for line_number, (line, row) in enumerate(zip(lines, rows, strict=True), start=1):
        if not line.strip() or line.startswith("-DOCSTART-"):
            yield line_number, None
        elif line[0] == "#" and (conllu or len(row) != width or row[tag_at] not in known_tags):
            continue  # a comment; "#tag O" in a file of tweets is a token, and known by its tag
        elif len(row) != width:
            raise DataError(
                f"{path}, line {line_number}: {len(row)} columns where the lines before have {width}; "
                "separate columns by one tab and end each sentence with a blank line"
            )
        elif not (conllu and NOT_A_WORD.fullmatch(row[0])):
            yield line_number, row
    yield len(lines) + 1, None


def _cell(path: Path, line_number: int, cells: list[str], column: int) -> str:
    try:
        cell = cells[column].strip()
    except IndexError:
        raise DataError(
            f"{path}, line {line_number}: no column {column}; the line has {len(cells)} (0 to {len(cells) - 1})"
        ) from None
    if not cell:
        raise DataError(f"{path}, line {line_number}: column {column} is empty; give a token and a tag")
    return cell
