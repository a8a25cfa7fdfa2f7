"""Tagged sentences in CoNLL files.

A CoNLL file has one token with its tag on each line, and a blank line after each sentence. A comment such as
"# label = greeting" before a sentence gives the label of the sentence to the readers of joint examples.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.files.text_files import read_lines
from training.data.examples import DataError, FileLocation, JointExample, TaggedExample

CONLLU_COLUMNS = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
NOT_A_WORD = re.compile(r"\d+[-.]\d+")  # ids of multiword ranges (1-2) and empty nodes (1.1)
LABEL_KEYS = ("label", "intent")
BLANKS = re.compile(r"[ \t]+")  # str.split would also cut at no-break spaces, which can be part of a token
MOST_SHOWN = 60  # characters of a wrong line

Column = int | str | None


@dataclass(slots=True)
class _Sentence:
    """The part of a sentence that has been read."""

    tokens: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    label: str | None = None


def read_tagged(
    path: str | Path,
    *,
    label: str | None = None,
    token_column: Column = None,
    tag_column: Column = None,
    encoding: str = "utf-8",
) -> list[TaggedExample] | list[JointExample]:
    """Read a CoNLL file with 2 or more columns between tabs or spaces. Comment lines start with "#".

    Columns count from 0, or from the end if negative. The defaults are the first and the last column; in .conllu files
    FORM and UPOS, and there names such as "XPOS" work too. Multiword ranges and empty nodes are skipped.

    With `label`, the examples are joint: a comment "# LABEL = …" before each sentence gives its label. "# intent = …"
    always works too.
    """
    keys = () if label is None else tuple(dict.fromkeys((label, *LABEL_KEYS)))
    examples: list[Any] = []
    for each in _sentences(Path(path), token_column, tag_column, encoding, keys):
        first, last = each.lines[0], each.lines[-1]
        unbroken = last - first + 1 == len(each.lines)
        place = FileLocation(str(path), first, range(first, last + 1) if unbroken else tuple(each.lines))
        fields: dict[str, Any] = {"tokens": tuple(each.tokens), "tags": tuple(each.tags), "place": place}
        if label is None:
            examples.append(TaggedExample(**fields))
        elif each.label:
            examples.append(JointExample(**fields, label=each.label))
        else:
            raise DataError(f'{place}: the sentence has no label; write "# {label} = …" on the line before it')
    return examples


def _sentences(
    path: Path, token_column: Column, tag_column: Column, encoding: str, keys: tuple[str, ...]
) -> Iterator[_Sentence]:
    conllu = path.suffix.lower() == ".conllu"
    token_at = _column_index(path, token_column, default=1 if conllu else 0, conllu=conllu)
    tag_at = _column_index(path, tag_column, default=3 if conllu else -1, conllu=conllu)
    sentence, count = _Sentence(), 0
    for line_number, cells in _rows(path, read_lines(path, encoding=encoding), (token_at, tag_at), conllu, keys):
        if isinstance(cells, str):
            if sentence.tokens:
                raise DataError(
                    f"{path}, line {line_number}: a label inside the sentence that starts in line {sentence.lines[0]}; "
                    "put a blank line between sentences and the label before the first token"
                )
            sentence.label = cells
        elif cells:
            token, tag = cells[token_at].strip(), cells[tag_at].strip()
            if not token or not tag or (conllu and tag == "_"):
                column, option = (tag_at, "tag-column") if token else (token_at, "token-column")
                raise DataError(
                    f"{path}, line {line_number}: column {column} is empty ({cells[column]!r}); fill it in, or choose "
                    f"another column with --{option} N"
                )
            sentence.tokens.append(token)
            sentence.tags.append(tag)
            sentence.lines.append(line_number)
        elif sentence.tokens:
            yield sentence
            sentence, count = _Sentence(), count + 1
    if not count:
        raise DataError(f"{path}: no sentence found; write a token and its tag on each line")


def _column_index(path: Path, column: Column, *, default: int, conllu: bool) -> int:
    if column is None:
        return default
    if isinstance(column, int):
        return column
    if not conllu:
        raise DataError(f"{path}: column {column!r} is a name, which needs a header or .conllu; give a number")
    if column.upper() not in CONLLU_COLUMNS:
        raise DataError(f"{path}: no column {column!r}; CoNLL-U has {', '.join(CONLLU_COLUMNS)}")
    return CONLLU_COLUMNS.index(column.upper())


def _rows(
    path: Path, lines: list[str], columns: tuple[int, int], conllu: bool, keys: tuple[str, ...]
) -> Iterator[tuple[int, list[str] | str]]:
    """Yield line numbers with the cells of a token, the label of a sentence (a string), or [] where one ends."""
    rows = _cells(lines)
    breaks = [not line.strip() or line.startswith("-DOCSTART-") for line in lines]
    hashes = [line.lstrip(" ").startswith("#") for line in lines]
    plain = [i for i in range(len(lines)) if not breaks[i] and not hashes[i]]
    width, usual = _width(rows, plain)
    for row in rows:
        while len(row) > width and not row[-1].strip():
            del row[-1]  # a tab at the end of the line
    if plain:
        _check_columns(path, columns, width, usual, lines[usual])
    tokens = _TokenRows([rows[i] for i in plain], width, columns[1])
    for i, (line, row) in enumerate(zip(lines, rows, strict=True)):
        if breaks[i]:
            yield i + 1, []
        elif keys and hashes[i] and (label := _comment_label(line, keys)) is not None:
            yield i + 1, label
        elif hashes[i] and (conllu or not tokens.have(row, tabs="\t" in line)):
            continue
        elif len(row) != width:
            raise DataError(
                f"{path}, line {i + 1}: {len(row)} columns, but line {usual + 1} has {width}: {line[:MOST_SHOWN]!r}; "
                "put one tab between columns and a blank line after each sentence"
            )
        elif not (conllu and NOT_A_WORD.fullmatch(row[0])):
            yield i + 1, row
    yield len(lines) + 1, []


def _check_columns(path: Path, columns: tuple[int, int], width: int, row: int, line: str) -> None:
    for column in columns:
        if width < 2 or not -width <= column < width:
            commas = ", not commas: replace each comma between columns by a tab" if "," in line else ""
            raise DataError(
                f"{path}, line {row + 1}: no column {column}, the line has {width}: {line[:MOST_SHOWN]!r}; columns "
                f"count from 0 and are separated by tabs or spaces{commas}"
            )


def _cells(lines: list[str]) -> list[list[str]]:
    """Split lines at tabs if there are any, else at spaces. A tab at the end of a line does not separate columns."""
    tabs = any("\t" in line.strip(" \t") for line in lines)
    return [line.split("\t") if tabs and "\t" in line else BLANKS.split(line.strip(" \t")) for line in lines]


def _width(rows: list[list[str]], plain: list[int]) -> tuple[int, int]:
    """Return the usual number of columns, without those that are empty in all rows, and the first row that has it."""
    if not plain:
        return 0, 0
    ((width, _),) = Counter(len(rows[i]) for i in plain).most_common(1)
    usual = [i for i in plain if len(rows[i]) == width]
    while width and not any(rows[i][width - 1].strip() for i in usual):
        width -= 1
    return width, usual[0]


class _TokenRows:
    """The rows that do not start with "#", which tell whether a row that does is a token."""

    def __init__(self, rows: list[list[str]], width: int, tag_at: int) -> None:
        self.width, self.tag_at = width, tag_at
        self.tags = {row[tag_at] for row in rows if len(row) == width}
        self.numbered = all(row[0].strip().isdecimal() for row in rows)

    def have(self, row: list[str], *, tabs: bool) -> bool:
        """Return whether a row is a token, such as a hashtag in a tweet. GermEval's comments have "#" in a cell alone.

        A token has as many cells as others, and a tag that others have. A hashtag between tabs may have a new tag.
        """
        first = row[0].strip()
        if len(row) != self.width or (first == "#" and self.numbered):
            return False
        return row[self.tag_at] in self.tags or (tabs and len(first) > 1 and not BLANKS.search(first))


def _comment_label(line: str, keys: tuple[str, ...]) -> str | None:
    key, equals, value = line.strip().lstrip("#").partition("=")
    return value.strip() if equals and key.strip() in keys else None
