"""Tagged sentences in JSON: tokens with their tags, or a text with spans as doccano, Prodigy, and spaCy write them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from models.codecs.words import tokenize
from models.files.tables import check_characters, check_columns, filled_label, json_objects
from models.files.text_files import read_lines
from training.data.examples import DataError, FileLocation, JointExample, TaggedExample

SPAN_KEYS = ("entities", "spans", "label", "labels")
START_KEYS, END_KEYS, KIND_KEYS = ("start", "start_offset"), ("end", "end_offset"), ("label", "entity", "type")
MOST_SHOWN = 60  # characters of a wrong value

Row = dict[str, Any]
Sentences = Iterator[tuple[FileLocation, tuple[str, ...], tuple[str, ...], Row]]


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
    wanted = {} if label is None else {"label": label}
    examples: list[Any] = []
    for place, words, labels, row in _sentences(Path(path), tokens, tags, tokenizer, encoding, wanted):
        fields: dict[str, Any] = {"tokens": words, "tags": labels, "place": place}
        if label is None:
            examples.append(TaggedExample(**fields))
        else:
            examples.append(JointExample(**fields, label=filled_label(str(place), label, row[label])))
    return examples


def _sentences(
    path: Path, tokens_key: str, tags_key: str, tokenizer: str, encoding: str, wanted: dict[str, str]
) -> Sentences:
    for line_number, row in json_objects(path, read_lines(path, encoding=encoding)):
        place = FileLocation(str(path), line_number)
        check_columns(str(place), list(row), wanted)
        spans_key = next((key for key in SPAN_KEYS if isinstance(row.get(key), list)), None)
        if tags_key not in row and "ner_tags" in row:
            tags_key = "ner_tags"  # as data sets of Hugging Face call it
        if tags_key not in row and spans_key is not None and isinstance(row.get("text"), str):
            tokens, tags = _tokens_of_spans(place, row["text"], row[spans_key], tokenizer)
            if tokens:
                yield place, tokens, tags, row
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
        yield place, tokens, tags, row


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
