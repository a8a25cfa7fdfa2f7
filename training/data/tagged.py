"""Tagged sentences: CoNLL files, JSON, and tables with one token in each row.

A CoNLL file has one token with its tag on each line, and a blank line after each sentence. A comment such as
"# label = greeting" before a sentence gives the label of the sentence to the readers of joint examples. JSON has tokens
with their tags, or a text with spans as doccano, Prodigy, and spaCy write them. Tables have a header, such as Kaggle's
NER data: Sentence #,Word,POS,Tag.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from models.codecs.words import tokenize
from models.files.tables import check_characters, check_columns, filled_label, json_objects, table_rows
from models.files.text_files import read_lines
from training.data.examples import DataError, FileLocation, JointExample, TaggedExample

CONLLU_COLUMNS = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
NOT_A_WORD = re.compile(r"\d+[-.]\d+")  # ids of multiword ranges (1-2) and empty nodes (1.1)
LABEL_KEYS = ("label", "intent")
BLANKS = re.compile(r"[ \t]+")  # str.split would also cut at no-break spaces, which can be part of a token
SPAN_KEYS = ("entities", "spans", "label", "labels")
START_KEYS, END_KEYS, KIND_KEYS = ("start", "start_offset"), ("end", "end_offset"), ("label", "entity", "type")
SENTENCES = ("sentence #", "sentence", "sentence_id", "sentence id", "sent_id", "sentence_idx")
TOKENS = ("word", "words", "token", "tokens")
TAGS = ("tag", "tags", "ner", "ner_tag", "ner_tags", "label", "labels")
DELIMITER = re.compile(r"[,;|\t]")
MOST_SHOWN = 60  # characters of a wrong line or value

Column = int | str | None
Columns = tuple[int | None, int, int]  # of the sentence, the token and the tag


@dataclass(slots=True)
class _Sentence:
    """The part of a sentence that has been read."""

    tokens: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    label: str | None = None

    def add(self, line: int, token: str, tag: str) -> None:
        self.tokens.append(token)
        self.tags.append(tag)
        self.lines.append(line)

    def place(self, path: Path) -> FileLocation:
        first, last = self.lines[0], self.lines[-1]
        unbroken = last - first + 1 == len(self.lines)
        return FileLocation(str(path), first, range(first, last + 1) if unbroken else tuple(self.lines))


def _example(place: FileLocation, tokens: Sequence[str], tags: Sequence[str], label: str | None = None) -> Any:
    fields: dict[str, Any] = {"tokens": tuple(tokens), "tags": tuple(tags), "place": place}
    return TaggedExample(**fields) if label is None else JointExample(**fields, label=label)


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
    for each in _conll_sentences(Path(path), token_column, tag_column, encoding, keys):
        place = each.place(Path(path))
        if label is not None and not each.label:
            raise DataError(f'{place}: the sentence has no label; write "# {label} = …" on the line before it')
        examples.append(_example(place, each.tokens, each.tags, None if label is None else each.label))
    return examples


def _conll_sentences(
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
            sentence.add(line_number, token, tag)
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


class Span(NamedTuple):
    """A span of a text in characters, without blanks at its ends."""

    start: int
    end: int
    kind: str


def read_tagged_json(
    path: str | Path,
    *,
    label: str | None = None,
    tokens: str = "tokens",
    tags: str = "tags",
    tokenizer: str = "words",
    encoding: str = "utf-8",
) -> list[TaggedExample] | list[JointExample]:
    """Read objects with the keys `tokens` and `tags`, or with "text" and spans. Other keys are ignored.

    A span is [start, end, kind], or an object with these, in characters. Its text is split by `tokenizer`, one of the
    tokenizers of words or "characters". With `label`, the key of the label, the examples are joint.
    """
    return list(_json_sentences(Path(path), tokens, tags, tokenizer, encoding, label))


def _json_sentences(
    path: Path, tokens_key: str, tags_key: str, tokenizer: str, encoding: str, label: str | None
) -> Iterator[Any]:
    for line_number, row in json_objects(path, read_lines(path, encoding=encoding)):
        place = FileLocation(str(path), line_number)
        check_columns(str(place), list(row), {} if label is None else {"label": label})
        sentence_label = None if label is None else filled_label(str(place), label, row[label])
        spans_key = next((key for key in SPAN_KEYS if isinstance(row.get(key), list)), None)
        if tags_key not in row and "ner_tags" in row:
            tags_key = "ner_tags"  # as data sets of Hugging Face call it
        if tags_key not in row and spans_key is not None and isinstance(row.get("text"), str):
            tokens, tags = _tokens_of_spans(place, row["text"], row[spans_key], tokenizer)
            if tokens:
                yield _example(place, tokens, tags, sentence_label)
            continue
        for option, key in (("tokens", tokens_key), ("tags", tags_key)):
            if key not in row:
                keys = ", ".join(map(repr, row)) or "none"
                raise DataError(
                    f"{place}: no key {key!r}, the keys are {keys}; choose one with --{option} KEY, or write "
                    '{"tokens": […], "tags": […]}'
                )
        tokens, tags = _strings(place, tokens_key, row[tokens_key]), _strings(place, tags_key, row[tags_key])
        if len(tokens) != len(tags):
            raise DataError(f"{place}: {len(tokens)} tokens but {len(tags)} tags; give one tag for each token")
        yield _example(place, tokens, tags, sentence_label)


def _strings(place: FileLocation, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{place}: {key!r} is {str(value)[:MOST_SHOWN]!r}; give a list of at least one string")
    for step, string in enumerate(value):
        if isinstance(string, int):
            raise DataError(
                f"{place}: entry {step} of {key!r} is the number {string}; give names, with Hugging Face datasets: "
                f"names = dataset.features[{key!r}].feature.names; [names[tag] for tag in row[{key!r}]]"
            )
        if not isinstance(string, str) or not string.strip():
            raise DataError(f"{place}: entry {step} of {key!r} is {string!r}; give a string that is not blank")
    check_characters(str(place), key, "".join(value))
    return tuple(value)


def _tokens_of_spans(
    place: FileLocation, text: str, spans: Sequence[Any], tokenizer: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the tokens of a text and their IOB2 tags."""
    check_characters(str(place), "text", text)
    if tokenizer == "characters":
        tokens, starts, ends = list(text), list(range(len(text))), list(range(1, len(text) + 1))
    else:
        tokens, starts, ends = tokenize(text, tokenizer)
    tags = ["O"] * len(tokens)
    for number, raw in enumerate(spans):
        span = _span(f"{place}: span {number}", text, raw)
        inside = [step for step in range(len(tokens)) if starts[step] < span.end and ends[step] > span.start]
        shown = f"{place}: span {number}, {text[span.start : span.end]!r} from {span.start} to {span.end},"
        if starts[inside[0]] != span.start or ends[inside[-1]] != span.end:
            whole = text[starts[inside[0]] : ends[inside[-1]]]
            raise DataError(
                f"{shown} is a part of the tokens of {whole!r}, from {starts[inside[0]]} to {ends[inside[-1]]}; mark "
                "whole tokens, or tag characters with --set codec.kind=characters"
            )
        if any(tags[step] != "O" for step in inside):
            raise DataError(f"{shown} overlaps another span; keep one of them")
        tags[inside[0] : inside[-1] + 1] = [f"B-{span.kind}"] + [f"I-{span.kind}"] * (len(inside) - 1)
    return tuple(tokens), tuple(tags)


def _span(place: str, text: str, raw: Any) -> Span:
    if isinstance(raw, dict):
        fields = [next((raw[key] for key in keys if key in raw), None) for keys in (START_KEYS, END_KEYS, KIND_KEYS)]
    else:
        fields = raw if isinstance(raw, list) else []
    if [type(field) for field in fields] != [int, int, str] or not 0 <= fields[0] < fields[1] <= len(text):
        raise DataError(
            f"{place} is {str(raw)[:MOST_SHOWN]!r}; give [start, end, kind] with offsets from 0 to {len(text)}"
        )
    start, end, kind = fields
    inner = text[start:end]
    if not inner.strip() or not kind.strip():
        raise DataError(f"{place} is {raw!r}, {inner!r}; mark at least one character that is not blank, with a kind")
    return Span(start + len(inner) - len(inner.lstrip()), end - len(inner) + len(inner.rstrip()), kind.strip())


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
    columns = _table_columns(header, token_column, tag_column)
    if columns is None:
        return None
    if columns[0] is None:
        names = ", ".join(map(repr, header))
        raise DataError(
            f"{path}, line {header_line}: no column numbers the sentences, the columns are {names}; add a column "
            f"{SENTENCES[0]!r}, or remove this line, separate columns by tabs and put a blank line after each sentence"
        )
    sentences = _table_sentences(path, rows, header, columns)
    examples = [_example(each.place(path), each.tokens, each.tags) for each in sentences]
    if not examples:
        raise DataError(f"{path}: no row below the header; give at least one sentence")
    return examples


def _table_columns(header: list[str], token_column: Column, tag_column: Column) -> Columns | None:
    names = [name.casefold() for name in header]

    def find(column: Column, known: tuple[str, ...]) -> int | None:
        if isinstance(column, int):
            return column if -len(names) <= column < len(names) else None
        wanted = known if column is None else (column.casefold(),)
        return next((names.index(name) for name in wanted if name in names), None)

    token_at, tag_at = find(token_column, TOKENS), find(tag_column, TAGS)
    return None if token_at is None or tag_at is None else (find(None, SENTENCES), token_at, tag_at)


def _table_sentences(
    path: Path, rows: Iterator[tuple[int, list[str]]], header: list[str], columns: Columns
) -> Iterator[_Sentence]:
    sentence_at, token_at, tag_at = columns
    assert sentence_at is not None
    current, sentence = "", _Sentence()
    for line_number, cells in rows:
        name = cells[sentence_at].strip() or current
        if sentence.tokens and name != current:
            yield sentence
            sentence = _Sentence()
        current = name
        for column in (token_at, tag_at):
            if not cells[column].strip():
                raise DataError(
                    f"{path}, line {line_number}: {header[column]!r} is {cells[column]!r}; fill it in, or remove it"
                )
        sentence.add(line_number, cells[token_at].strip(), cells[tag_at].strip())
    if sentence.tokens:
        yield sentence
