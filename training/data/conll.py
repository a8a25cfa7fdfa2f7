"""CoNLL files: a token a line with its tag in another column, a blank line after each sentence."""

import re
from collections.abc import Iterator
from pathlib import Path

from training.data.errors import DataError
from training.data.examples import Tagged
from training.data.plain import read_lines

CONLLU_COLUMNS = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
NOT_A_WORD = re.compile(r"\d+[-.]\d+")  # ids of multiword ranges (1-2) and empty nodes (1.1)


def read_tagged(
    path: str | Path,
    *,
    token_column: int | str | None = None,
    tag_column: int | str | None = None,
    encoding: str = "utf-8",
) -> list[Tagged]:
    """Sentences of a file with 2 or more columns between tabs (or spaces); lines of comment start with "#".

    Columns count from 0, or from the end if negative; the default is the first and the last, in .conllu FORM and
    UPOS, where names (`tag_column="XPOS"`) serve too. CoNLL-U multiword ranges and empty nodes are skipped.
    """
    path = Path(path)
    conllu = path.suffix == ".conllu"
    token_at = _column(path, token_column, default=1 if conllu else 0, conllu=conllu)
    tag_at = _column(path, tag_column, default=3 if conllu else -1, conllu=conllu)
    sentences: list[Tagged] = []
    tokens: list[str] = []
    tags: list[str] = []
    for line_number, cells in _rows(path, read_lines(path, encoding=encoding), (token_at, tag_at), conllu):
        if not cells:
            if tokens:
                sentences.append(Tagged(tokens=tuple(tokens), tags=tuple(tags)))
                tokens, tags = [], []
            continue
        token, tag = cells[token_at].strip(), cells[tag_at].strip()
        if not token or not tag or (conllu and tag == "_"):
            empty, value, option = (token_at, token, "token_column") if not token else (tag_at, tag, "tag_column")
            raise DataError(
                f"{path}, line {line_number}: column {empty} is empty ({value!r}); fill it in, or change {option}"
            )
        tokens.append(token)
        tags.append(tag)
    if not sentences:
        raise DataError(f"{path}: no sentence found; expected a token and its tag on each line")
    return sentences


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


def _rows(path: Path, lines: list[str], columns: tuple[int, int], conllu: bool) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of every token, and no cells where a sentence ends."""
    rows = [line.split("\t") if "\t" in line else line.split() for line in lines]
    breaks = [not line.strip() or line.startswith("-DOCSTART-") for line in lines]
    plain = [i for i, line in enumerate(lines) if not breaks[i] and line[0] != "#"]
    width = len(rows[plain[0]]) if plain else 0
    for column in columns if plain else ():
        if width < 2 or not -width <= column < width:
            raise DataError(
                f"{path}, line {plain[0] + 1}: no column {column}, there are {width}: {lines[plain[0]]!r}; "
                "columns are numbered from 0 and stand between tabs or spaces"
            )
    # In a file of tweets "#now O" is a token: it has as many columns as the others, and a tag that they have too.
    tag_at = columns[1]
    known_tags = {rows[i][tag_at] for i in plain if len(rows[i]) == width}
    for i, (line, row) in enumerate(zip(lines, rows, strict=True)):
        same_width = len(row) == width
        if breaks[i]:
            yield i + 1, []
        elif line[0] == "#" and (conllu or not (same_width and ("\t" in line or row[tag_at] in known_tags))):
            continue
        elif not same_width:
            raise DataError(
                f"{path}, line {i + 1}: {len(row)} columns, but {width} in line {plain[0] + 1}; put one tab between "
                "columns and a blank line after each sentence"
            )
        elif not (conllu and NOT_A_WORD.fullmatch(row[0])):
            yield i + 1, row
    yield len(lines) + 1, []
