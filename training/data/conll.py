"""CoNLL files: a token a line with its tag in another column, a blank line after each sentence.

A comment such as "# label = greeting" before a sentence gives the label of the whole, where one is asked for.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from training.data.examples import DataError, FileLocation, JointExample, TaggedExample
from training.data.text_files import read_lines

CONLLU_COLUMNS = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
NOT_A_WORD = re.compile(r"\d+[-.]\d+")  # ids of multiword ranges (1-2) and empty nodes (1.1)
LABEL_KEYS = ("label", "intent")
BLANKS = re.compile(r"[ \t]+")  # str.split would cut at no-break spaces too, which stand inside tokens

Column = int | str | None


@dataclass(slots=True)
class _Sentence:
    """What has been read of a sentence so far."""

    tokens: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    label: str | None = None

    def place(self, file: str) -> FileLocation:
        first, last = self.lines[0], self.lines[-1]
        unbroken = last - first + 1 == len(self.lines)
        return FileLocation(file, first, range(first, last + 1) if unbroken else tuple(self.lines))


def read_tagged(
    path: str | Path, *, token_column: Column = None, tag_column: Column = None, encoding: str = "utf-8"
) -> list[TaggedExample]:
    """Sentences of a file with 2 or more columns between tabs (or spaces); lines of comment start with "#".

    Columns count from 0, or from the end if negative; the default is the first and the last, in .conllu FORM and
    UPOS, where names (`tag_column="XPOS"`) serve too. CoNLL-U multiword ranges and empty nodes are skipped.
    """
    file = str(path)
    return [
        TaggedExample(tokens=tuple(found.tokens), tags=tuple(found.tags), place=found.place(file))
        for found in _sentences(Path(path), token_column, tag_column, encoding)
    ]


def read_joint(
    path: str | Path,
    *,
    label: str = "label",
    token_column: Column = None,
    tag_column: Column = None,
    encoding: str = "utf-8",
) -> list[JointExample]:
    """The same with a comment "# LABEL = …" before each sentence; `label` is its key, "# intent = …" serves always."""
    keys = tuple(dict.fromkeys((label, *LABEL_KEYS)))
    sentences, file = [], str(path)
    for found in _sentences(Path(path), token_column, tag_column, encoding, keys=keys):
        place = found.place(file)
        if not found.label:
            raise DataError(f'{place}: this sentence has no label; write "# {label} = …" on the line before it')
        sentences.append(
            JointExample(tokens=tuple(found.tokens), tags=tuple(found.tags), label=found.label, place=place)
        )
    return sentences


def _sentences(
    path: Path, token_column: Column, tag_column: Column, encoding: str, keys: tuple[str, ...] = ()
) -> Iterator[_Sentence]:
    conllu = path.suffix.lower() == ".conllu"
    token_at = _column(path, token_column, default=1 if conllu else 0, conllu=conllu)
    tag_at = _column(path, tag_column, default=3 if conllu else -1, conllu=conllu)
    sentence, count = _Sentence(), 0
    for line_number, cells in _rows(path, read_lines(path, encoding=encoding), (token_at, tag_at), conllu, keys):
        if isinstance(cells, str):
            _check_label_first(path, line_number, sentence)
            sentence.label = cells
        elif cells:
            token, tag = cells[token_at].strip(), cells[tag_at].strip()
            if not token or not tag or (conllu and tag == "_"):
                raise DataError(f"{path}, line {line_number}: {_empty((token_at, token), (tag_at, tag))}")
            sentence.tokens.append(token)
            sentence.tags.append(tag)
            sentence.lines.append(line_number)
        elif sentence.tokens:
            yield sentence
            sentence, count = _Sentence(), count + 1
    if not count:
        raise DataError(f"{path}: no sentence found; expected a token and its tag on each line")


def _check_label_first(path: Path, line_number: int, sentence: _Sentence) -> None:
    if sentence.tokens:
        raise DataError(
            f"{path}, line {line_number}: a label inside the sentence that starts in line {sentence.lines[0]}; put a "
            "blank line between sentences and the label before the first token"
        )


def _empty(token: tuple[int, str], tag: tuple[int, str]) -> str:
    (column, value), option = (tag, "tag-column") if token[1] else (token, "token-column")
    return f"column {column} is empty ({value!r}); fill it in, or name another column (fit: --{option} N)"


def _column(path: Path, column: Column, *, default: int, conllu: bool) -> int:
    if column is None:
        return default
    if isinstance(column, int):
        return column
    if not conllu:
        raise DataError(f"{path}: column {column!r} is a name; only .conllu files name columns: give a number")
    if column.upper() not in CONLLU_COLUMNS:
        raise DataError(f"{path}: no column {column!r}; CoNLL-U has {', '.join(CONLLU_COLUMNS)}")
    return CONLLU_COLUMNS.index(column.upper())


def _not_commas(line: str) -> str:
    return ", not commas: turn each comma between columns into a tab" if "," in line else ""


def _label(line: str, keys: tuple[str, ...]) -> str | None:
    key, equals, value = line.lstrip("#").partition("=")
    return value.strip() if equals and key.strip() in keys else None


def _rows(
    path: Path, lines: list[str], columns: tuple[int, int], conllu: bool, keys: tuple[str, ...]
) -> Iterator[tuple[int, list[str] | str]]:
    """(line number, cells) of every token, a string for the label of a sentence, and no cells where one ends."""
    rows = [line.split("\t") if "\t" in line else BLANKS.split(line.strip(" ")) for line in lines]
    breaks = [not line.strip() or line.startswith("-DOCSTART-") for line in lines]
    plain = [i for i, line in enumerate(lines) if not breaks[i] and line[0] != "#"]
    width = len(rows[plain[0]]) if plain else 0
    for column in columns if plain else ():
        if width < 2 or not -width <= column < width:
            raise DataError(
                f"{path}, line {plain[0] + 1}: no column {column}, there are {width}: {lines[plain[0]]!r}; "
                f"columns are numbered from 0 and stand between tabs or spaces{_not_commas(lines[plain[0]])}"
            )
    # In a file of tweets "#now O" is a token: it has as many columns as the others, and a tag that they have too.
    tag_at = columns[1]
    known_tags = {rows[i][tag_at] for i in plain if len(rows[i]) == width}
    for i, (line, row) in enumerate(zip(lines, rows, strict=True)):
        same_width = len(row) == width
        if breaks[i]:
            yield i + 1, []
        elif keys and line[0] == "#" and (label := _label(line, keys)) is not None:
            yield i + 1, label
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
