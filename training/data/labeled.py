"""Texts with one label each, in CSV, TSV, JSON lines or, for DNA, FASTA."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from training.data.examples import DataError, FileLocation, LabeledExample
from training.data.tables import check_characters, check_columns, check_header, delimited, filled, is_json, objects
from training.data.text_files import read_lines

FASTA_SUFFIXES = {".fa", ".fasta", ".fna"}
BASES = frozenset("ACGTURYSWKMBDHVN-acgturyswkmbdhvn")  # with the IUPAC codes of what is not known for sure


def read_labelled(
    path: str | Path, *, text: str = "text", label: str = "label", encoding: str = "utf-8"
) -> list[LabeledExample]:
    """Rows of a table with a header, or of a file of JSON objects, one a line, by its suffix.

    `text` and `label` name the columns. In JSON the text may be a list of tokens and the label a whole number.
    """
    path = Path(path)
    lines = read_lines(path, encoding=encoding)
    rows = _objects(path, lines, text, label) if is_json(path) else _rows(path, lines, text, label)
    examples = [_example(FileLocation(str(path), line), a_text, a_label, text, label) for line, a_text, a_label in rows]
    if not examples:
        raise DataError(f"{path}: no row below the header; give at least one text with its label")
    return examples


def read_bases(
    path: str | Path, *, text: str = "text", label: str = "label", encoding: str = "utf-8"
) -> list[LabeledExample]:
    """DNA with labels: the same tables, or FASTA (.fa, .fasta, .fna) with ">name label" above each sequence.

    A letter that is no base is refused: A C G T (or U), the IUPAC codes of what is not known for sure, and the gap "-".
    """
    path = Path(path)
    if path.suffix.lower() in FASTA_SUFFIXES:
        return _fasta(path, encoding)
    examples = []
    for example in read_labelled(path, text=text, label=label, encoding=encoding):
        if not isinstance(example.text, str):
            raise DataError(f"{example.place}: {text!r} is a list; write the bases of a sequence as one string")
        check_bases(str(example.place), example.text.strip())
        examples.append(replace(example, text=example.text.strip()))
    return examples


def check_bases(where: str, sequence: str) -> None:
    """Every letter must be a base."""
    for position, letter in enumerate(sequence, start=1):
        if letter not in BASES:
            raise DataError(
                f"{where}: letter {position}, {letter!r}, is no base; allowed are A C G T (or U), R Y S W K M B D H V "
                "N and the gap -"
            )


def _example(place: FileLocation, a_text: Any, a_label: Any, text: str, label: str) -> LabeledExample:
    given = filled(str(place), label, a_label)
    if isinstance(a_text, list) and a_text and all(isinstance(token, str) and token.strip() for token in a_text):
        check_characters(str(place), text, "".join(a_text))
        return LabeledExample(text=tuple(a_text), label=given, place=place)
    if not isinstance(a_text, str) or not a_text.strip():
        raise DataError(f"{place}: {text!r} is {a_text!r}; fill in a text, or remove the row")
    check_characters(str(place), text, a_text)
    return LabeledExample(text=a_text, label=given, place=place)


def _objects(path: Path, lines: list[str], text: str, label: str) -> Iterator[tuple[int, Any, Any]]:
    for line_number, row in objects(path, lines):
        check_columns(f"{path}, line {line_number}", list(row), {"text": text, "label": label})
        yield line_number, row[text], row[label]


def _rows(path: Path, lines: list[str], text: str, label: str) -> Iterator[tuple[int, str, str]]:
    rows = delimited(path, lines, (text, label))
    line_number, header = next(rows)
    check_header(f"{path}, line {line_number}", header, {"text": text, "label": label})
    text_at, label_at = header.index(text), header.index(label)
    for line_number, cells in rows:
        yield line_number, cells[text_at], cells[label_at]


def _fasta(path: Path, encoding: str) -> list[LabeledExample]:
    """The last word of a header is the label; a sequence may run over lines. Lines that start with ";" are comments."""
    examples: list[LabeledExample] = []
    opened: tuple[FileLocation, str] | None = None  # of the sequence that is being read, its header and label
    parts: list[str] = []
    for line_number, line in enumerate([*read_lines(path, encoding=encoding), ">"], start=1):
        place = FileLocation(str(path), line_number)
        if line.startswith(">"):
            if opened and not parts:
                raise DataError(f"{opened[0]}: no sequence below this header; give its bases, or remove it")
            if opened:
                examples.append(LabeledExample(text="".join(parts), label=opened[1], place=opened[0]))
            opened, parts = (place, _label(place, line)) if line != ">" else None, []
        elif line.strip() and not line.startswith(";"):
            if not opened:
                raise DataError(f'{place}: bases before any header; write ">name label" on the line above them')
            check_bases(str(place), line.strip())
            parts.append(line.strip())
    if not examples:
        raise DataError(f'{path}: no sequence found; write ">name label" and the bases on the next line')
    return examples


def _label(place: FileLocation, header: str) -> str:
    words = header[1:].split()
    if len(words) < 2:
        raise DataError(f'{place}: {header!r} has no label; write ">name label"')
    return words[-1]
