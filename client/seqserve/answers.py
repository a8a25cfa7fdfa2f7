"""Answers as values, and how they are read from JSON. Knows no HTTP.

A reader raises KeyError, TypeError or ValueError for what is no such answer.
"""

import base64
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Entity:
    """A step of an input with its tag, or with `aggregation_strategy="simple"` a span of steps.

    `start`, `end`: characters of the text as it was sent, `text[start:end] == word`; steps, where the input was
    already split or has frames, whose `word` is "". `score`: a probability.
    """

    label: str
    score: float
    word: str
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Label:
    """A label of the whole input and its probability; over all labels they sum to 1."""

    label: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Token:
    """One generated token. `logprob`: the natural logarithm of the probability that it had when it was drawn."""

    id: int
    text: str
    logprob: float
    special: bool = False


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A generated text. `finish_reason`: `length`, `stop` or `eos`. `seed`: the one that gives this text again.

    `state`, where it was asked for: give it to the next call to go on where this text stopped.
    """

    text: str
    finish_reason: str | None = None
    generated_tokens: int | None = None
    seed: int | None = None
    state: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Model:
    """One bundle that is served; `card` is all that the service tells of it.

    `task`: tag, classify, generate, or joint (tag and classify). `codec`: what a step is (words, characters, dna,
    frames, …). `max_length`: steps that one input may have. `scores`: by variant and metric.
    """

    id: str
    task: str
    codec: str
    labels: tuple[str, ...]
    text_labels: tuple[str, ...]
    languages: tuple[str, ...]
    max_length: int | None
    variant: str
    scores: Mapping[str, Mapping[str, float]]
    card: Mapping[str, Any] = field(repr=False)


def tags(answer: Any) -> list[Entity] | list[list[Entity]]:
    """One list for one input, a list of lists for several."""
    if answer and isinstance(answer[0], list):
        return [[_entity(raw) for raw in each] for each in answer]
    return [_entity(raw) for raw in answer]


def _entity(raw: Mapping[str, Any]) -> Entity:
    label = raw["entity_group"] if "entity_group" in raw else raw["entity"]
    return Entity(label=label, score=raw["score"], word=raw["word"], start=raw["start"], end=raw["end"])


def labels(answer: Any) -> list[list[Label]]:
    """A list an input, best first."""
    return [[Label(label=raw["label"], score=raw["score"]) for raw in each] for each in answer]


def generations(answer: Any) -> Generation | list[Generation]:
    """One for one prompt, a list for several."""
    return [generation(each) for each in answer] if isinstance(answer, list) else generation(answer)


def generation(answer: Any) -> Generation:
    """Of one prompt: an answer of /v1/generate, or the last event of /v1/generate_stream."""
    details = answer.get("details") or {}
    return Generation(
        text=_text(answer["generated_text"]),
        finish_reason=details.get("finish_reason"),
        generated_tokens=details.get("generated_tokens"),
        seed=details.get("seed"),
        state=answer.get("state") or details.get("state"),
    )


def written(event: Any) -> tuple[Token | None, Generation | None]:
    """The token of one event of a stream, and the whole text in the last event."""
    token = None if event.get("token") is None else _token(event["token"])
    return token, None if event.get("generated_text") is None else generation(event)


def _token(raw: Mapping[str, Any]) -> Token:
    return Token(id=raw["id"], text=_text(raw["text"]), logprob=raw["logprob"], special=raw["special"])


def embeddings(answer: Any) -> list[list[float]]:
    """One vector an input, in the order of the inputs."""
    rows = sorted(answer["data"], key=lambda row: int(row["index"]))
    return [_floats(row["embedding"]) for row in rows]


def _floats(packed: str) -> list[float]:
    """Numbers as they travel: little-endian float32 in base64."""
    data = base64.b64decode(packed, validate=True)
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def models(answer: Any) -> list[Model]:
    """In the order of the service: the first that can do a task answers where none is named."""
    return [model(card) for card in answer["data"]]


def model(card: Any) -> Model:
    return Model(
        id=card["id"],
        task=card["task"],
        codec=card.get("codec", "words"),
        labels=tuple(card.get("labels") or ()),
        text_labels=tuple(card.get("text_labels") or ()),
        languages=tuple(card.get("languages") or ()),
        max_length=(card.get("limits") or {}).get("max_length"),
        variant=card.get("variant", ""),
        scores=card.get("scores") or {},
        card=card,
    )


def _text(raw: Any) -> str:
    if not isinstance(raw, str):
        raise TypeError(f"a text was expected, not {type(raw).__name__}")
    return raw
