"""Tagged sentences in tables with one token per row, such as Kaggle's NER data: Sentence #,Word,POS,Tag."""

import re
from collections.abc import Iterator
from pathlib import Path

from models.files.tables import table_rows
from models.files.text_files import read_lines
from training.data.examples import DataError, FileLocation, TaggedExample

SENTENCES = ("sentence #", "sentence", "sentence_id", "sentence id", "sent_id", "sentence_idx")
TOKENS = ("word", "words", "token", "tokens")
TAGS = ("tag", "tags", "ner", "ner_tag", "ner_tags", "label", "labels")

DELIMITER = re.compile(r"[,;|\t]")

MOST_SHOWN = 60  # characters of a wrong line

Column = int | str | None
Columns = tuple[int | None, int, int]  # of the sentence, the token and the tag


def read_token_table(
    path: Path, *, token_column: Column = None, tag_column: Column = None, encoding: str = "utf-8"
) -> list[TaggedExample] | None:
    """Read a table with a header. Returns None if the first line does not name a token and a tag.

    The column of the sentence may be empty in all rows of a sentence but the first.
    """
    lines = read_lines(path, encoding=encoding)
    first = next(filter(str.strip, lines))
    names = {name.strip(' "').casefold() for name in DELIMITER.split(first)}
    if not names & ({token_column.casefold()} if isinstance(token_column, str) else set(TOKENS)):
        if path.suffix.lower() == ".csv" and "\t" not in first and first.count(",") > 1:
            raise DataError(
                f"{path}: no column of tokens in the first line, {first[:MOST_SHOWN]!r}; name the columns of "
                f"sentence, token and tag there, such as {SENTENCES[0]}, {TOKENS[0]} and {TAGS[0]}, or choose with "
                "--token-column NAME --tag-column NAME"
            )
        return None
    rows = table_rows(path, lines, ())
    header_line, header = next(rows)
    columns = _columns(header, token_column, tag_column)
    if columns is None:
        return None
    if columns[0] is None:
        names = ", ".join(map(repr, header))
        raise DataError(
            f"{path}, line {header_line}: no column numbers the sentences, the columns are {names}; add a column "
            f"{SENTENCES[0]!r}, or remove this line, separate columns by tabs and put a blank line after each sentence"
        )
    examples = list(_sentences(path, rows, header, columns))
    if not examples:
        raise DataError(f"{path}: no row below the header; give at least one sentence")
    return examples


def _columns(header: list[str], token_column: Column, tag_column: Column) -> Columns | None:
    names = [name.casefold() for name in header]

    def find(column: Column, known: tuple[str, ...]) -> int | None:
        if isinstance(column, int):
            return column if -len(names) <= column < len(names) else None
        wanted = known if column is None else (column.casefold(),)
        return next((names.index(name) for name in wanted if name in names), None)

    token_at, tag_at = find(token_column, TOKENS), find(tag_column, TAGS)
    return None if token_at is None or tag_at is None else (find(None, SENTENCES), token_at, tag_at)


def _sentences(
    path: Path, rows: Iterator[tuple[int, list[str]]], header: list[str], columns: Columns
) -> Iterator[TaggedExample]:
    sentence_at, token_at, tag_at = columns
    assert sentence_at is not None
    current = ""
    tokens: list[str] = []
    tags: list[str] = []
    lines: list[int] = []
    for line_number, cells in rows:
        sentence = cells[sentence_at].strip() or current
        if tokens and sentence != current:
            yield _example(path, tokens, tags, lines)
            tokens, tags, lines = [], [], []
        current = sentence
        for column in (token_at, tag_at):
            if not cells[column].strip():
                raise DataError(
                    f"{path}, line {line_number}: {header[column]!r} is {cells[column]!r}; fill it in, or remove it"
                )
        tokens.append(cells[token_at].strip())
        tags.append(cells[tag_at].strip())
        lines.append(line_number)
    if tokens:
        yield _example(path, tokens, tags, lines)


def _example(path: Path, tokens: list[str], tags: list[str], lines: list[int]) -> TaggedExample:
    place = FileLocation(str(path), lines[0], tuple(lines))
    return TaggedExample(tokens=tuple(tokens), tags=tuple(tags), place=place)
