"""OpenAI's /v1/completions, whole or as server-sent events, over texts that the engine writes.

A field whose meaning is not honoured is refused by name, unless it asks for nothing. Knows no HTTP and no model.
"""

import contextlib
import hashlib
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any, Literal, NotRequired

import orjson
from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from service.api import schemas
from service.api.openai import OPENAI, body_of, named
from service.api.request_context import RequestContext
from service.api.routes import Docs, Route, Stream
from service.api.sse import KEEP_ALIVE, event
from service.api.sse import MEDIA as EVENTS
from service.api.stop_strings import Parting, Token
from service.errors import InvalidRequest, TooLarge
from service.generation import GenerateOptions
from service.generation_stream import GenerationStream, TokenDelta
from service.settings import Settings

SAMPLES = 128  # of one prompt, as OpenAI has it
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Neutral = Annotated[float, Field(ge=0, le=0)]  # no penalties: the only value that asks for nothing


class StreamOptions(schemas.Body):
    """`include_usage`: a last chunk without choices that counts the tokens."""

    include_usage: bool | None = None
    include_obfuscation: schemas.No | None = None


class CompletionRequest(schemas.Body):
    """Body of ``/v1/completions``. A text ends before its stop string."""

    prompt: schemas.Texts
    model: schemas.ModelName | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=SAMPLES)] | None = None
    best_of: Annotated[int, Field(ge=1, le=SAMPLES)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4, fail_fast=True)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(default=None, description="accepted and not used")
    suffix: Literal[""] | None = None
    presence_penalty: Neutral | None = None
    frequency_penalty: Neutral | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @property
    def prompts(self) -> list[str]:
        """The prompts, of which there is mostly one."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def choices(self) -> int:
        """Texts to be answered for each prompt."""
        return self.n or 1

    @property
    def samples(self) -> int:
        """Texts to be written for each prompt."""
        return self.best_of or self.choices

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


COMPLETION: TypeAdapter[CompletionRequest] = TypeAdapter(CompletionRequest)


class Logprobs(TypedDict):
    """One entry a token. ``top_logprobs``: the likeliest pieces and the chosen one; null if none were asked for."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class Choice(TypedDict):
    """A text, or the next part of one."""

    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"] | None


class Usage(TypedDict):
    """``completion_tokens`` counts every text that was written, those of ``best_of`` too."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(TypedDict):
    """An answer, or with ``stream`` one chunk of it."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str | None
    choices: list[Choice]
    usage: NotRequired[Usage | None]


def parse(body: bytes, settings: Settings) -> CompletionRequest:
    """Return the request in ``body``. Raises InvalidRequest, and TooLarge for too many texts."""
    asked: CompletionRequest = schemas.validated(COMPLETION, body)
    wanted = asked.max_tokens or 0
    if wanted > settings.max_new_tokens:
        said = f"max_tokens is {wanted}; at most {settings.max_new_tokens} are generated for one text"
        raise InvalidRequest(said, field="max_tokens", limit=settings.max_new_tokens, value=wanted)
    if asked.samples < asked.choices:
        said = f"best_of is {asked.samples}, but n is {asked.choices} of them: raise best_of"
        raise InvalidRequest(said, field="best_of", limit=asked.choices, value=asked.samples)
    if asked.stream and asked.samples > asked.choices:
        said = "best_of: which text is best is known at the end, so it cannot be streamed; leave one of them out"
        raise InvalidRequest(said, field="best_of")
    if asked.stream_options is not None and not asked.stream:
        raise InvalidRequest("stream_options: only with stream true; leave it out", field="stream_options")
    if asked.echo and asked.logprobs is not None:
        said = "logprobs: those of a prompt are not offered, so not together with echo; leave one of them out"
        raise InvalidRequest(said, field="logprobs")
    texts = len(asked.prompts) * asked.samples
    if texts > settings.inputs_max:
        said = f"prompts times samples (best_of or n) are {texts}; the limit is {settings.inputs_max}"
        raise TooLarge(f"{said}: send several requests", field="prompt", limit=settings.inputs_max, value=texts)
    return asked


def options(asked: CompletionRequest, settings: Settings) -> list[GenerateOptions]:
    """Return what is asked for each sample of a prompt. The first has the request's own seed, as if it were alone."""
    seeds = [None] * asked.samples if asked.seed is None else [fork(asked.seed, i) for i in range(asked.samples)]
    return [
        GenerateOptions(
            max_new_tokens=min(16, settings.max_new_tokens) if asked.max_tokens is None else asked.max_tokens,
            temperature=1.0 if asked.temperature is None else asked.temperature,
            top_p=1.0 if asked.top_p is None else asked.top_p,
            seed=seed,
            stop=asked.stops,
            logprobs=asked.logprobs is not None or asked.samples > asked.choices,
            alternatives=asked.logprobs or 0,
        )
        for seed in seeds
    ]


def fork(seed: int, sample: int) -> int:
    """Return the seed of one sample: the same for the same request on any replica, unlike that of any other sample."""
    if sample == 0:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed}/{sample}".encode(), digest_size=8).digest())


class Growing:
    """One choice while its text grows."""

    def __init__(self, index: int, prompt: str, asked: CompletionRequest) -> None:
        self._index, self._asked = index, asked
        self._parting = Parting(asked.stops)
        self._echo = prompt if asked.echo else ""
        self._offset = 0

    def part(self, delta: TokenDelta) -> Choice | None:
        """Return what may be told after ``delta``; None for nothing yet."""
        notes: Sequence[float | None] = delta.logprobs or [None] * len(delta.pieces)
        others: Sequence[Sequence[tuple[str, float]]] = delta.alternatives or [()] * len(delta.pieces)
        tokens = list(map(Token, delta.pieces, notes, others))
        reason = delta.finish_reason
        text, released = self._parting.take(tokens, stopped=reason == "stop", ended=reason is not None)
        if not text and reason is None:
            return None
        text, self._echo = self._echo + text, ""
        told = None if self._asked.logprobs is None else self._logprobs(released)
        finish: Literal["stop", "length"] | None = reason if reason is None or reason == "length" else "stop"
        return {"index": self._index, "text": text, "logprobs": told, "finish_reason": finish}

    def _logprobs(self, tokens: Sequence[Token]) -> Logprobs:
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(token.text)
        logprobs = [round(token.logprob or 0.0, 6) for token in tokens]
        tops = [
            {text: round(value, 6) for text, value in (*token.alternatives, (token.text, logprob))}
            for token, logprob in zip(tokens, logprobs, strict=True)
        ]
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": logprobs,
            "top_logprobs": tops if self._asked.logprobs else None,
            "text_offset": offsets,
        }


async def _complete(exchange: RequestContext, body: bytes) -> Any:
    worker = exchange.worker
    asked = parse(body, worker.settings)
    exchange.model = asked.model or worker.default_model("generate")
    prompts = [prompt for prompt in asked.prompts for _ in range(asked.samples)]
    each = options(asked, worker.settings) * len(asked.prompts)
    with named("prompt", alone=isinstance(asked.prompt, str), each=asked.samples):
        writing = await worker.engine.generate_stream(prompts, model=asked.model, options=each, request=exchange.call)
    head = {
        "id": f"cmpl-{exchange.call.request_id}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": exchange.model,
    }
    if asked.stream:
        writing.remind_s = worker.settings.keepalive_s
        chunks = _events(writing, head, asked, prompts)
        return Stream(media=EVENTS, chunks=chunks, failed=lambda error: event(body_of(error)))
    async with contextlib.aclosing(writing):
        texts = await _whole(writing, len(prompts))
    best = [index for first in range(0, len(texts), asked.samples) for index in _best(texts, first, asked)]
    found = [Growing(place, prompts[index], asked).part(texts[index]) for place, index in enumerate(best)]
    written = sum(len(text.tokens) for text in texts)
    return {**head, "choices": found, "usage": _usage(writing, asked, written)}


async def _whole(writing: GenerationStream, count: int) -> list[TokenDelta]:
    """Every text from its beginning to its end."""
    parts: list[list[TokenDelta]] = [[] for _ in range(count)]
    async for deltas in writing:
        for delta in deltas:
            parts[delta.index].append(delta)
    return [
        TokenDelta(
            index=index,
            tokens=[token for delta in each for token in delta.tokens],
            pieces=[piece for delta in each for piece in delta.pieces],
            logprobs=[logprob for delta in each for logprob in delta.logprobs],
            alternatives=[ranked for delta in each for ranked in delta.alternatives],
            finish_reason=each[-1].finish_reason,
        )
        for index, each in enumerate(parts)
    ]


def _best(texts: Sequence[TokenDelta], first: int, asked: CompletionRequest) -> list[int]:
    """The samples of one prompt that are answered: the likeliest by their tokens' mean; all, in order, if all are."""
    samples = range(first, first + asked.samples)
    if asked.samples == asked.choices:
        return list(samples)
    likeliest = sorted(samples, key=lambda i: -sum(texts[i].logprobs) / max(1, len(texts[i].logprobs)))
    return likeliest[: asked.choices]


def _usage(writing: GenerationStream, asked: CompletionRequest, written: int) -> Usage:
    read = sum(writing.prompt_tokens[:: asked.samples])
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


async def _events(
    writing: GenerationStream, head: dict[str, Any], asked: CompletionRequest, prompts: Sequence[str]
) -> AsyncGenerator[bytes, None]:
    """One event a part of a choice, the usage if it was asked for, and OpenAI's end."""
    texts = [Growing(index, prompt, asked) for index, prompt in enumerate(prompts)]
    counts = asked.stream_options is not None and asked.stream_options.include_usage
    rest: dict[str, Any] = {"usage": None} if counts else {}
    written = 0
    async with contextlib.aclosing(writing):
        async for deltas in writing:
            written += sum(len(delta.tokens) for delta in deltas)
            parts = [part for delta in deltas if (part := texts[delta.index].part(delta)) is not None]
            if not deltas:
                yield KEEP_ALIVE
            elif parts:
                yield b"".join(event(orjson.dumps({**head, "choices": [part], **rest})) for part in parts)
    if counts:
        yield event(orjson.dumps({**head, "choices": [], "usage": _usage(writing, asked, written)}))
    yield event(b"[DONE]")


def _example(card: Any) -> Any:
    if "generate" not in card["tasks"]:
        return None
    return {"model": card["id"], "prompt": card["examples"][0], "max_tokens": 16, "seed": 7, "temperature": 0.8}


DOCS = Docs(
    group="OpenAI",
    summary="Continue a text, as OpenAI's completions",
    about="With `stream` the answer is server-sent events, `data: [DONE]` the last; an error in mid-stream is an event"
    ' `{"error": …}`. `n` and `best_of` draw from seeds that are derived from `seed`.',
    body=CompletionRequest,
    answer=Completion,
    event=Completion,
    example=_example,
)
ROUTES = (Route("/v1/completions", ("POST",), _complete, reads=True, task="generate", dialect=OPENAI, docs=DOCS),)
