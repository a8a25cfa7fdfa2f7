"""What can be asked: routes, bodies and options. Sends nothing.

Options that are left out, or None, are not sent: the service's own defaults hold.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypedDict, TypeVar
from urllib.parse import quote

from seqserve import answers
from seqserve.answers import Entity, Generation, Label, Model

T = TypeVar("T")

Frames = Sequence[Sequence[float]]  # (T, F): T steps of F numbers
One = str | Frames
# Lists and tuples, since a string would be a Sequence of strings, too.
Texts = list[str] | tuple[str, ...]
Split = list[list[str]] | tuple[tuple[str, ...], ...]  # texts as lists of their steps


class Options(TypedDict, total=False):
    """For every call."""

    model: str | None  # the name of a bundle; none: the first that can do the task
    timeout_s: float | None  # for the whole call, all tries and pauses; none: the client's


class TagOptions(Options, total=False):
    """`none`: a tag for every step; `simple`: steps of one span merged, where the bundle marks spans."""

    aggregation_strategy: Literal["none", "simple"] | None


class ClassifyOptions(Options, total=False):
    """How many labels, best first; none: all."""

    top_k: int | None


class GenerateOptions(Options, total=False):
    """How to draw. The same seed, prompt and options give the same text."""

    max_new_tokens: int | None
    temperature: float | None  # 0: the likeliest token always
    top_k: int | None  # 0: the whole vocabulary
    top_p: float | None  # in (0, 1]; 1: the whole vocabulary
    seed: int | None
    stop: Sequence[str] | None  # ends after the first of these, which stays in the text
    return_full_text: bool | None
    state: str | None  # of an earlier Generation: goes on where that stopped
    return_state: bool | None


@dataclass(frozen=True, kw_only=True)
class Ask(Generic[T]):
    """One call: a GET where there is no body. `read` makes the answer of its JSON."""

    path: str
    read: Callable[[Any], T]
    body: Mapping[str, Any] | None = None
    timeout_s: float | None = None


def tag(inputs: One | Texts | Split | Sequence[Frames], options: TagOptions) -> Ask[list[Entity] | list[list[Entity]]]:
    return _inputs("/v1/tag", inputs, options, answers.tags)


def classify(inputs: One | Texts | Sequence[Frames], options: ClassifyOptions) -> Ask[list[Label] | list[list[Label]]]:
    def read(answer: Any) -> list[Label] | list[list[Label]]:
        rows = answers.labels(answer)
        return rows[0] if is_one(inputs) else rows

    return _inputs("/v1/classify", inputs, options, read)


def generate(inputs: str | Texts, options: GenerateOptions) -> Ask[Generation | list[Generation]]:
    return _inputs("/v1/generate", inputs, options, answers.generations, details=True)


def generate_stream(prompt: str, options: GenerateOptions) -> Ask[Any]:
    """Its answer comes in events, see streams.py."""
    return _inputs("/v1/generate_stream", prompt, options, lambda event: event, details=True)


def embed(inputs: str | Texts, options: Options) -> Ask[list[float] | list[list[float]]]:
    def read(answer: Any) -> list[float] | list[list[float]]:
        rows = answers.embeddings(answer)
        return rows[0] if isinstance(inputs, str) else rows

    body = {"input": inputs, "encoding_format": "base64"}
    return Ask(path="/v1/embeddings", read=read, body=_with_model(body, options), timeout_s=options.get("timeout_s"))


def models(timeout_s: float | None) -> Ask[list[Model]]:
    return Ask(path="/v1/models", read=answers.models, timeout_s=timeout_s)


def model(name: str, timeout_s: float | None) -> Ask[Model]:
    return Ask(path=f"/v1/models/{quote(name, safe='')}", read=answers.model, timeout_s=timeout_s)


def is_one(inputs: object) -> bool:
    """Whether this is one input: a text, or a list of frames, which are lists of numbers."""
    return isinstance(inputs, str) or isinstance(_first(_first(inputs)), int | float)


def _first(value: object) -> object:
    return value[0] if isinstance(value, list | tuple) and value else None


def _inputs(
    path: str,
    inputs: object,
    options: TagOptions | ClassifyOptions | GenerateOptions,
    read: Callable[[Any], T],
    **always: object,
) -> Ask[T]:
    apart = Options.__annotations__.keys()
    asked = {name: value for name, value in options.items() if name not in apart and value is not None}
    parameters = {**always, **asked}
    body = {"inputs": inputs, **({"parameters": parameters} if parameters else {})}
    return Ask(path=path, read=read, body=_with_model(body, options), timeout_s=options.get("timeout_s"))


def _with_model(body: Mapping[str, Any], options: Options) -> Mapping[str, Any]:
    name = options.get("model")
    return body if name is None else {**body, "model": name}
