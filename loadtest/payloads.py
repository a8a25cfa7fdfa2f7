"""Requests to send: real input lengths, filled with the words, letters or frames of the models' own examples.

The models and their examples are read from `GET /v1/models`; the same seed gives the same requests. Knows the
request bodies of tag, classify and generate, and nothing about sending them.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from loadtest import lengths
from loadtest.lengths import Histogram
from loadtest.wire import fetch

TASKS = ("tag", "classify", "generate")
JOINT = ("tag", "classify")  # what a model of the task "joint" can be asked
# For a model whose card shows no examples; letters that every English vocabulary has.
PLAIN_WORDS = ("the", "king", "and", "a", "good", "old", "film", "was", "seen", "by", "many", "people", "in", "London")
# Stated, not measured: how much text a client of a small language model asks for.
NEW_TOKENS, NEW_TOKENS_WEIGHTS = (20, 50, 100, 200), (4, 3, 2, 1)


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a load test needs of one entry of /v1/models."""

    id: str
    task: str
    variant: str
    labels: tuple[str, ...]
    longest: int | None  # steps (words, characters, bases or frames) in one input
    words: tuple[str, ...]
    codec: str = "words"  # what a step is
    text_labels: tuple[str, ...] = ()  # of the whole, where `labels` are those of the steps
    steps: tuple[Any, ...] = ()  # letters or frames of the examples, where a step is one

    @property
    def tasks(self) -> tuple[str, ...]:
        """What it can be asked."""
        return JOINT if self.task == "joint" else (self.task,)


@dataclass(frozen=True, kw_only=True)
class Payload:
    """One request: `task` is the route without its prefix, `form` tells single inputs from lists."""

    task: str
    body: Mapping[str, Any]
    form: str = ""
    labels: tuple[str, ...] = ()
    encoded: bytes = field(repr=False, default=b"")

    @property
    def inputs(self) -> Any:
        return self.body["inputs"]

    @property
    def parameters(self) -> Mapping[str, Any]:
        parameters: Mapping[str, Any] = self.body.get("parameters", {})
        return parameters

    def name(self, prefix: str) -> str:
        """The row of a report that this request counts in."""
        return f"{prefix}/{self.task} {self.form}".rstrip()


def read_cards(url: str) -> tuple[Card, ...]:
    """The models that the service at `url` has; ConnectionError or ValueError with a sentence when it says nothing."""
    reply = fetch(f"{url.rstrip('/')}/v1/models")
    try:
        entries = json.loads(reply.body)["data"]
        return tuple(_card(entry) for entry in entries)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{url}/v1/models answered {reply.status} with no list of models ({error!r})") from None


def by_task(cards: Sequence[Card]) -> Mapping[str, Card]:
    """The first model that can do each task: what answers a request that names none."""
    return {task: card for card in reversed(cards) for task in card.tasks}


def _card(entry: Mapping[str, Any]) -> Card:
    limits, codec = entry.get("limits") or {}, str(entry.get("codec", "words"))
    texts = _texts(entry.get("examples"))
    words = re.findall(r"[^\W_]+", " ".join(texts))
    steps = _frames(entry.get("examples")) if codec == "frames" else "".join(texts)
    return Card(
        id=entry["id"],
        task=entry["task"],
        variant=str(entry.get("variant", "")),
        labels=tuple(entry.get("labels") or ()),
        longest=limits.get("max_length"),
        words=tuple(dict.fromkeys(words)) or PLAIN_WORDS,
        codec=codec,
        text_labels=tuple(entry.get("text_labels") or ()),
        steps=tuple(steps) if codec in ("dna", "frames") else (),
    )


def _texts(value: object) -> list[str]:
    """Every string in an example's inputs: a string, a list of strings, of token lists, or {"inputs": any of them}."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return _texts(value.get("inputs"))
    return [text for part in value for text in _texts(part)] if isinstance(value, Sequence) else []


def _frames(examples: Any) -> list[Any]:
    """Every frame in the examples, each of which is a list of them."""
    return [frame for example in examples or () for frame in example]


def build(cards: Sequence[Card], task: str, *, count: int, seed: int) -> list[Payload]:
    """`count` requests of one task, spread over all its models; LookupError when the service has none."""
    able = [card for card in cards if task in card.tasks]
    if not able:
        found = ", ".join(f"{card.id} ({card.task})" for card in cards) or "none at all"
        raise LookupError(f"no model for the task {task!r}: the service has {found}")
    random, histogram = Random(f"{task} {seed}"), lengths.load()[task]
    return [_BUILDERS[task](random.choice(able), histogram, random) for _ in range(count)]


def build_single(card: Card, *, count: int, seed: int) -> list[Payload]:
    """`count` requests of one model with one input each and no parameters: what peers are compared with."""
    task = card.tasks[0]
    random, histogram = Random(f"single {seed}"), lengths.load()[task]
    return [_payload(card, task, _input(card, histogram, random)) for _ in range(count)]


def _tag(card: Card, histogram: Histogram, random: Random) -> Payload:
    draw = random.random()
    if draw < 0.8:
        return _payload(card, "tag", _input(card, histogram, random))
    inputs = [_input(card, histogram, random) for _ in range(random.randint(2, 8))]
    if draw < 0.9 or card.codec == "frames":
        return _payload(card, "tag", inputs, form="list")
    return _payload(
        card, "tag", [text.split() if card.codec == "words" else list(text) for text in inputs], form="tokens"
    )


def _classify(card: Card, histogram: Histogram, random: Random) -> Payload:
    parameters = {"top_k": 1} if random.random() < 0.2 else None
    if random.random() < 0.85:
        return _payload(card, "classify", _input(card, histogram, random), parameters=parameters)
    inputs = [_input(card, histogram, random) for _ in range(random.randint(2, 8))]
    return _payload(card, "classify", inputs, form="list", parameters=parameters)


def _generate(card: Card, histogram: Histogram, random: Random) -> Payload:
    parameters = {
        "max_new_tokens": random.choices(NEW_TOKENS, weights=NEW_TOKENS_WEIGHTS)[0],
        "temperature": random.choice((0.0, 0.7, 1.0)),
        "seed": random.randrange(1 << 16),
        "details": random.random() < 0.75,
    }
    if random.random() < 0.9:
        return _payload(card, "generate", _input(card, histogram, random), parameters=parameters)
    texts = [_input(card, histogram, random) for _ in range(random.randint(2, 4))]
    return _payload(card, "generate", texts, form="list", parameters=parameters)


_BUILDERS: Mapping[str, Callable[[Card, Histogram, Random], Payload]] = {
    "tag": _tag,
    "classify": _classify,
    "generate": _generate,
}


def _input(card: Card, histogram: Histogram, random: Random) -> Any:
    """Steps of the model's examples in any order, as many as the histogram draws: words, letters or frames."""
    length = histogram.draw(random, longest=card.longest)
    if card.steps:
        steps = random.choices(card.steps, k=length)
        return steps if card.codec == "frames" else "".join(steps)
    if histogram.unit == "words" and card.codec == "words":
        return " ".join(random.choices(card.words, k=length))
    text = random.choice(card.words)
    while len(text) < length:
        text += " " + random.choice(card.words)
    return text[:length]


def _payload(
    card: Card, task: str, inputs: object, *, form: str = "", parameters: Mapping[str, Any] | None = None
) -> Payload:
    body = {"inputs": inputs, "model": card.id, **({"parameters": dict(parameters)} if parameters else {})}
    encoded = json.dumps(body, ensure_ascii=False).encode()
    labels = card.text_labels if card.task == "joint" and task == "classify" else card.labels
    return Payload(task=task, body=body, form=form, labels=labels, encoded=encoded)
