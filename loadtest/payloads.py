"""Requests for each task: real input lengths, filled with the words or series of the models' own examples.

Models and examples come from `GET /v1/models`. The same seed gives the same requests.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from loadtest.http_client import fetch

LENGTHS = Path(__file__).with_name("lengths.json")  # written by `python -m tests.support.length_counts`
TASKS = ("tag", "classify", "generate", "forecast", "translate", "caption", "fill")
JOINT_TASKS = ("tag", "classify")  # of a model with the task "joint"
# For a model without examples. Every English vocabulary has these letters.
PLAIN_WORDS = ("the", "king", "and", "a", "good", "old", "film", "was", "seen", "by", "many", "people", "in", "London")
PROMPT = "ROMEO:"
MERGED_SHARE, FRAME_RATES = 0.3, (1, 25, 30, 100)  # of requests with frames: merged ones; frames per second
GAP = "[MASK]"
SHORTEST_HORIZON = 4  # values: every forecaster forecasts as many
# An assumption, not a measurement: how much text the clients of a small language model request.
NEW_TOKENS, NEW_TOKENS_WEIGHTS = (20, 50, 100, 200), (4, 3, 2, 1)
BEAMS, BEAMS_WEIGHTS = (1, 5), (3, 1)
TRANSLATION_TOKENS = 60  # at most; a translation of Multi30k ends before


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """The part of a /v1/models entry that a load test needs."""

    id: str
    task: str
    variant: str
    labels: tuple[str, ...]
    max_length: int | None  # steps in one input: words, characters, bases or frames
    words: tuple[str, ...]
    codec: str = "words"  # defines a step
    text_labels: tuple[str, ...] = ()  # of the whole input of a joint model, whose `labels` are those of steps
    steps: tuple[Any, ...] = ()  # letters or frames of the examples, for codecs whose steps are these
    streams: bool = False
    examples: tuple[Any, ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        return JOINT_TASKS if self.task == "joint" else (self.task,)


@dataclass(frozen=True, kw_only=True)
class Payload:
    """One request. `task` is the route without its prefix; `form` is "" for a single input, else "list" or "tokens"."""

    task: str
    body: Mapping[str, Any]
    form: str = ""
    labels: tuple[str, ...] = ()
    encoded: bytes = field(repr=False, default=b"")

    @property
    def inputs(self) -> Any:
        return self.body["inputs"]

    @property
    def input_count(self) -> int:
        return len(self.inputs) if self.form else 1

    @property
    def parameters(self) -> Mapping[str, Any]:
        parameters: Mapping[str, Any] = self.body.get("parameters", {})
        return parameters

    def name(self, prefix: str) -> str:
        """Return the name of the report row that counts this request."""
        return f"{prefix}/{self.task} {self.form}".rstrip()


@dataclass(frozen=True, kw_only=True)
class LengthHistogram:
    """How often each input length occurs. `unit` is "words" or "characters"."""

    unit: str
    lengths: tuple[int, ...]
    counts: tuple[int, ...]

    def sample(self, random: Random, *, max_length: int | None = None) -> int:
        """Return a random length, cut to `max_length`."""
        length = random.choices(self.lengths, weights=self.counts)[0]
        return length if max_length is None else min(length, max_length)


def read_lengths(path: Path = LENGTHS) -> dict[str, LengthHistogram]:
    """Return the histogram of each task."""
    return {
        task: LengthHistogram(
            unit=entry["unit"], lengths=tuple(map(int, entry["counts"])), counts=tuple(entry["counts"].values())
        )
        for task, entry in json.loads(path.read_text("utf-8"))["tasks"].items()
    }


def read_models(url: str) -> tuple[ServedModel, ...]:
    """Return the models of the service at `url`. Raises ConnectionError, or ValueError for an unusable answer."""
    reply = fetch(f"{url.rstrip('/')}/v1/models")
    try:
        return tuple(parse_model(entry) for entry in json.loads(reply.body)["data"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{url}/v1/models returned status {reply.status} without a list of models ({error!r})"
        ) from None


def default_models(models: Sequence[ServedModel]) -> Mapping[str, ServedModel]:
    """Return the model of each task that answers a request without a model name: the first one."""
    return {task: model for model in reversed(models) for task in model.tasks}


def parse_model(entry: Mapping[str, Any]) -> ServedModel:
    """Read one entry of /v1/models."""
    limits, codec = entry.get("limits") or {}, str(entry.get("codec", "words"))
    examples = entry.get("examples")
    texts = _texts(examples)
    frames = [frame for example in examples or () for frame in example] if codec == "frames" else ()
    return ServedModel(
        id=entry["id"],
        task=entry["task"],
        variant=str(entry.get("variant", "")),
        labels=tuple(entry.get("labels") or ()),
        max_length=limits.get("max_length"),
        words=tuple(dict.fromkeys(re.findall(r"[^\W_]+", " ".join(texts)))) or PLAIN_WORDS,
        codec=codec,
        text_labels=tuple(entry.get("text_labels") or ()),
        steps=tuple("".join(texts)) if codec == "dna" else tuple(frames),
        streams=bool(entry.get("streams")),
        examples=tuple(examples or ()),
    )


def _texts(value: object) -> list[str]:
    """Return every string of an example: text, list of texts, list of token lists, or {"inputs": any of these}."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return _texts(value.get("inputs"))
    return [text for part in value for text in _texts(part)] if isinstance(value, Sequence) else []


def build(models: Sequence[ServedModel], task: str, *, count: int, seed: int) -> list[Payload]:
    """Return `count` requests of one task, spread over its models. Raises LookupError if there is none."""
    able = [model for model in models if task in model.tasks]
    if not able:
        found = ", ".join(f"{model.id} ({model.task})" for model in models) or "no models"
        raise LookupError(f"no model for the task {task!r}: the service has {found}")
    random = Random(f"{task} {seed}")
    if task in _OF_EXAMPLES:
        return [_OF_EXAMPLES[task](random.choice(able), random) for _ in range(count)]
    histogram = read_lengths()["classify" if task == "fill" else task]  # fillers read sentences, as classifiers do
    make = _tag if task == "tag" else partial(_texts_of, task)
    return [make(random.choice(able), histogram, random) for _ in range(count)]


def sample_inputs(model: ServedModel, *, count: int, seed: int) -> list[Any]:
    """Return `count` single inputs of one model, for comparisons with peers."""
    random, task = Random(f"single {seed}"), model.tasks[0]
    if task == "caption":
        return random.choices(model.examples, k=count)
    histogram = read_lengths()["classify" if task == "fill" else task]
    make = _with_gaps if task == "fill" else _input
    return [make(model, histogram, random) for _ in range(count)]


def generate_bodies(count: int, new_tokens: int) -> list[dict[str, Any]]:
    """Return `count` requests for `new_tokens` each, with different seeds."""
    options = ({"max_new_tokens": new_tokens, "temperature": 0.8, "seed": seed} for seed in range(count))
    return [{"inputs": PROMPT, "parameters": each} for each in options]


def _tag(model: ServedModel, histogram: LengthHistogram, random: Random) -> Payload:
    kind, parameters = random.random(), None
    if model.codec == "frames" and random.random() < MERGED_SHARE:
        parameters = {"aggregation_strategy": "simple", "frame_rate": random.choice(FRAME_RATES)}
    if kind < 0.8:
        return _payload(model, "tag", _input(model, histogram, random), parameters=parameters)
    inputs = [_input(model, histogram, random) for _ in range(random.randint(2, 8))]
    if kind < 0.9 or model.codec == "frames":
        return _payload(model, "tag", inputs, form="list", parameters=parameters)
    tokens = [text.split() if model.codec == "words" else list(text) for text in inputs]
    return _payload(model, "tag", tokens, form="tokens")


def _sampling(random: Random) -> dict[str, Any]:
    """Return the parameters of a generation."""
    return {
        "max_new_tokens": random.choices(NEW_TOKENS, weights=NEW_TOKENS_WEIGHTS)[0],
        "temperature": random.choice((0.0, 0.7, 1.0)),
        "seed": random.randrange(1 << 16),
        "details": random.random() < 0.75,
    }


def _search(random: Random) -> dict[str, Any]:
    """Return the parameters of a search."""
    beams = random.choices(BEAMS, weights=BEAMS_WEIGHTS)[0]
    search = {
        "num_beams": beams,
        "num_return_sequences": random.randint(1, beams),
        "max_new_tokens": TRANSLATION_TOKENS,
        "details": random.random() < 0.25,
    }
    return {"generate_parameters": search}


def _caption(model: ServedModel, random: Random) -> Payload:
    """Return a request for the picture or the vectors of one example, for several, or for a plain square of pixels."""
    parameters, kind = _search(random), random.random()
    if kind < 0.1 and model.codec == "image":
        color, side = [random.randrange(256) for _ in range(3)], random.choice((8, 16, 64))
        return _payload(model, "caption", [[color] * side] * side, parameters=parameters)
    if kind < 0.9:
        return _payload(model, "caption", random.choice(model.examples), parameters=parameters)
    inputs = random.choices(model.examples, k=random.randint(2, 4))
    return _payload(model, "caption", inputs, form="list", parameters=parameters)


def _forecast(model: ServedModel, random: Random) -> Payload:
    """Return a request for one to four series: examples on other scales, with gaps."""
    series = []
    for _ in range(random.choices((1, 2, 4), weights=(8, 1, 1))[0]):
        factor, gaps = random.choice((0.01, 1, 1000)), random.choice((0, 0, 0.01, 0.5))
        values = [value if value is None else value * factor for value in random.choice(model.examples)]
        series.append({"target": [None if random.random() < gaps else value for value in values[:-1]] + values[-1:]})
    parameters = {"prediction_length": random.randint(1, SHORTEST_HORIZON)}
    return _payload(model, "forecast", series, form="list", parameters=parameters)


def _with_gaps(model: ServedModel, histogram: LengthHistogram, random: Random) -> str:
    """Return a text of the model's words with one gap, rarely two."""
    words = _input(model, histogram, random).split() or [GAP]
    for _ in range(random.choice((1, 1, 1, 2))):
        words[random.randrange(len(words))] = GAP
    return " ".join(words)


# Requests for texts: their parameters, the share of those with one text, and the most texts of the others.
_OF_TEXTS: Mapping[str, tuple[Callable[[Random], dict[str, Any] | None], float, int]] = {
    "classify": (lambda random: {"top_k": 1} if random.random() < 0.2 else None, 0.85, 8),
    "generate": (_sampling, 0.9, 4),
    "translate": (_search, 0.9, 4),
    "fill": (lambda random: {"top_k": random.choice((1, 10))} if random.random() < 0.3 else None, 0.85, 8),
}
_OF_EXAMPLES: Mapping[str, Callable[[ServedModel, Random], Payload]] = {"forecast": _forecast, "caption": _caption}


def _texts_of(task: str, model: ServedModel, histogram: LengthHistogram, random: Random) -> Payload:
    """Return a request for one text, or for several."""
    parameters_of, single, most = _OF_TEXTS[task]
    parameters, make = parameters_of(random), _with_gaps if task == "fill" else _input
    if random.random() < single:
        return _payload(model, task, make(model, histogram, random), parameters=parameters)
    texts = [make(model, histogram, random) for _ in range(random.randint(2, most))]
    return _payload(model, task, texts, form="list", parameters=parameters)


def _input(model: ServedModel, histogram: LengthHistogram, random: Random) -> Any:
    """Return one input: steps of the model's examples in random order, with a length from the histogram."""
    length = histogram.sample(random, max_length=model.max_length)
    if model.steps:
        steps = random.choices(model.steps, k=length)
        return steps if model.codec == "frames" else "".join(steps)
    if histogram.unit == "words" and model.codec in ("words", "pieces"):
        return " ".join(random.choices(model.words, k=length))
    text = random.choice(model.words)
    while len(text) < length:
        text += " " + random.choice(model.words)
    return text[:length]


def _payload(
    model: ServedModel, task: str, inputs: object, *, form: str = "", parameters: Mapping[str, Any] | None = None
) -> Payload:
    body = {"inputs": inputs, "model": model.id, **({"parameters": dict(parameters)} if parameters else {})}
    encoded = json.dumps(body, ensure_ascii=False).encode()
    labels = model.text_labels if model.task == "joint" and task == "classify" else model.labels
    return Payload(task=task, body=body, form=form, labels=labels, encoded=encoded)
