"""Texts with one label each, in CSV, TSV, JSON, fastText or, for DNA, FASTA. Texts without labels, one on a line."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from models.files.tables import check_characters, column_rows, filled_label, is_json
from models.files.text_files import read_lines
from training.data.examples import DataError, FileLocation, LabeledExample, TextExample

TABLE_SUFFIXES = {".csv", ".tsv", ".json", ".jsonl", ".conll", ".conllu"}
FASTTEXT_PREFIX = "__label__"
FASTA_SUFFIXES = {".fa", ".fasta", ".fna"}
BASES = frozenset("ACGTURYSWKMBDHVN-acgturyswkmbdhvn")  # with the IUPAC codes of uncertain bases


def read_labeled(
    path: str | Path, *, text: str = "text", label: str = "label", encoding: str = "utf-8"
) -> list[LabeledExample]:
    """Read a table with a header, JSON, or fastText. `text` and `label` name the columns or keys.

    In JSON the text may be a list of tokens, and the label a number.
    """
    path = Path(path)
    lines = read_lines(path, encoding=encoding)
    if not is_json(path) and next(filter(str.strip, lines)).startswith(FASTTEXT_PREFIX):
        rows = _fasttext_rows(path, lines)
    else:
        rows = column_rows(path, lines, {"text": text, "label": label})
    examples = [_example(FileLocation(str(path), line), *values, text, label) for line, values in rows]
    if not examples:
        raise DataError(f"{path}: no row below the header; give at least one text with its label")
    return examples


def read_texts(path: Path, *, encoding: str = "utf-8") -> list[TextExample]:
    """Read a text file: every line that is not blank is an example."""
    if path.suffix.lower() in TABLE_SUFFIXES:
        raise DataError(f"{path}: a table; save its texts as a text file (.txt) with one on a line")
    lines = enumerate(read_lines(path, encoding=encoding), start=1)
    found = ((FileLocation(str(path), number), line.strip()) for number, line in lines)
    return [TextExample(text=text, place=place) for place, text in found if text]


def read_bases(
    path: str | Path, *, text: str = "text", label: str = "label", encoding: str = "utf-8"
) -> list[LabeledExample]:
    """Read DNA with labels: tables, JSON lines, or FASTA with ">name label" above each sequence.

    Allowed letters are A C G T (or U), the IUPAC codes of uncertain bases, and the gap "-".
    """
    path = Path(path)
    if path.suffix.lower() in FASTA_SUFFIXES:
        return _read_fasta(path, encoding)
    examples = []
    for example in read_labeled(path, text=text, label=label, encoding=encoding):
        if not isinstance(example.text, str):
            raise DataError(f"{example.place}: {text!r} is a list; write the bases of a sequence as one string")
        check_bases(str(example.place), example.text.strip())
        examples.append(replace(example, text=example.text.strip()))
    return examples


def check_bases(where: str, sequence: str) -> None:
    """Raise DataError for the first letter that is not a base."""
    for position, letter in enumerate(sequence, start=1):
        if letter not in BASES:
            raise DataError(
                f"{where}: letter {position} is {letter!r}; allowed are A C G T (or U), R Y S W K M B D H V N and "
                "the gap -"
            )


def _example(place: FileLocation, a_text: Any, a_label: Any, text: str, label: str) -> LabeledExample:
    label_text = filled_label(str(place), label, a_label)
    if isinstance(a_text, list) and a_text and all(isinstance(token, str) and token.strip() for token in a_text):
        check_characters(str(place), text, "".join(a_text))
        return LabeledExample(text=tuple(a_text), label=label_text, place=place)
    if not isinstance(a_text, str) or not a_text.strip():
        raise DataError(f"{place}: {text!r} is {a_text!r}; give a text, or remove the row")
    check_characters(str(place), text, a_text)
    return LabeledExample(text=a_text, label=label_text, place=place)


def _fasttext_rows(path: Path, lines: list[str]) -> Iterator[tuple[int, list[Any]]]:
    """Yield lines such as "__label__x some text". fastText allows several labels, a classifier here has one."""
    for line_number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        words = line.split()
        labels = list(takewhile(lambda word: word.startswith(FASTTEXT_PREFIX), words))
        if len(labels) != 1:
            raise DataError(
                f"{path}, line {line_number}: {len(labels)} labels; start the line with one, such as __label__x"
            )
        text = line.split(maxsplit=1)[1] if len(words) > 1 else ""
        yield line_number, [text, labels[0].removeprefix(FASTTEXT_PREFIX)]


def _read_fasta(path: Path, encoding: str) -> list[LabeledExample]:
    """Read FASTA. The last word of a header is the label; lines that start with ";" are comments."""
    examples: list[LabeledExample] = []
    header: tuple[FileLocation, str] | None = None  # place and label of the sequence that is being read
    parts: list[str] = []
    for line_number, line in enumerate([*read_lines(path, encoding=encoding), ">"], start=1):
        place = FileLocation(str(path), line_number)
        if line.startswith(">"):
            if header and not parts:
                raise DataError(f"{header[0]}: no sequence below this header; add its bases, or remove it")
            if header:
                examples.append(LabeledExample(text="".join(parts), label=header[1], place=header[0]))
            words = line[1:].split()
            if len(words) < 2 and line != ">":
                raise DataError(f'{place}: {line!r} has no label; write ">name label"')
            header, parts = (place, words[-1]) if words else None, []
        elif line.strip() and not line.startswith(";"):
            if not header:
                raise DataError(f'{place}: bases before the first header; write ">name label" on the line above them')
            check_bases(str(place), line.strip())
            parts.append(line.strip())
    if not examples:
        raise DataError(f'{path}: no sequence found; write ">name label" and the bases on the next line')
    return examples
