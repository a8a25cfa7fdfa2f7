"""OpenAI's ``/v1/completions``, as one answer or as server-sent events, and ``/v1/embeddings``.

An embedding is the pooled hidden state of an encoder. A field that the service does not honor is rejected by name,
unless its value has no effect.
"""

import base64
import contextlib
import hashlib
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from itertools import accumulate
from typing import Annotated, Any, Literal, NamedTuple, NotRequired

import orjson
from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from models.tasks.generate import GeneratedText
from service.api import fields, schemas
from service.api.pipeline import RequestContext
from service.api.problems import OPENAI_ERROR, openai_body_of, openai_field, renamed_fields
from service.api.routes import Docs, EventStream, Route
from service.api.sse import KEEP_ALIVE, MEDIA, event
from service.errors import InvalidRequest
from service.generation import GenerationParameters, GenerationStream, TokenDelta
from service.settings import Settings

DEFAULT_TOKENS = 16  # as OpenAI has it
SAMPLES = 128  # of one prompt, as OpenAI has it


class StreamOptions(fields.RequestModel):
    """``include_usage`` adds a last chunk that has the token counts and no choices."""

    include_usage: bool | None = None
    include_obfuscation: fields.AlwaysFalse | None = None


class CompletionRequest(fields.RequestModel):
    """Body of ``/v1/completions``. A text ends before its stop string."""

    not_offered = frozenset(
        (
            *("functions", "function_call", "ignore_eos", "length_penalty", "messages"),
            *("min_tokens", "reasoning_effort", "response_format", "stop_token_ids", "tools", "tool_choice"),
            *("top_logprobs", "use_beam_search"),
        )
    )

    prompt: schemas.StringOrStrings
    model: schemas.ModelName | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = fields.parameter(
        "at most `SEQSERVE_MAX_NEW_TOKENS`", unset=DEFAULT_TOKENS
    )
    temperature: Annotated[float, Field(ge=0, le=2)] | None = fields.parameter("0: greedy decoding", 1.0)
    top_p: Annotated[float, Field(gt=0, le=1)] | None = fields.parameter("1: the whole vocabulary", 1.0)
    n: Annotated[int, Field(ge=1, le=SAMPLES)] | None = fields.parameter("texts per prompt", 1)
    best_of: Annotated[int, Field(ge=1, le=SAMPLES)] | None = fields.parameter(
        "generate this many texts per prompt and return the `n` most likely; not with `stream`", unset="`n`"
    )
    echo: bool | None = fields.parameter("begin each text with its prompt; not with `logprobs`", False)
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = fields.parameter(
        "log probabilities of each token and of this many alternatives", unset="none"
    )
    stop: schemas.StopString | Annotated[list[schemas.StopString], Field(max_length=4, fail_fast=True)] | None = (
        fields.parameter("a string or a list of strings; a text ends before the first of them", ())
    )
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = fields.parameter(
        "the same seed gives the same texts", unset="random"
    )
    stream: bool | None = fields.parameter("true: answer with server-sent events", False)
    stream_options: StreamOptions | None = fields.parameter("`include_usage`: end with the token counts", unset="none")
    user: str | None = fields.parameter("accepted and not used", unset="none")
    suffix: fields.NoText | None = None
    presence_penalty: fields.Zero | None = None
    frequency_penalty: fields.Zero | None = None
    repetition_penalty: fields.One | None = None
    top_k: Annotated[int, fields.Only(0, -1)] | None = None
    min_p: fields.Zero | None = None
    logit_bias: Annotated[dict[str, float], fields.Only({})] | None = None

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def choices(self) -> int:
        """Texts to return for each prompt."""
        return int(self.value_of("n"))

    @property
    def samples(self) -> int:
        """Texts to generate for each prompt."""
        return self.best_of or self.choices

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class Logprobs(TypedDict):
    """One entry per token. ``top_logprobs`` has the most likely tokens and the sampled one, null if not requested."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class Choice(TypedDict):
    """A text, or the next part of a streamed one."""

    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"] | None


class CompletionUsage(TypedDict):
    """``completion_tokens`` counts every generated text, including those that ``best_of`` discards."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(TypedDict):
    """The answer, and each chunk of a streamed one."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str | None
    choices: list[Choice]
    usage: NotRequired[CompletionUsage | None]


def parse_completion(body: bytes, settings: Settings) -> CompletionRequest:
    """Return the request in ``body``. Raises InvalidRequest and TooLarge."""
    request = schemas.parse_body(CompletionRequest, body, settings)
    limit = settings.max_new_tokens
    if request.max_tokens is not None and request.max_tokens > limit:
        message = f"{request.max_tokens} is out of range; the limit is {limit}"
        raise InvalidRequest(message, field="max_tokens", limit=limit, value=request.max_tokens)
    if request.samples < request.choices:
        message = f"{request.samples} is less than n, which is {request.choices}; raise best_of"
        raise InvalidRequest(message, field="best_of", limit=request.choices, value=request.samples)
    if request.stream and request.samples > request.choices:
        message = "cannot be streamed, because the best text is known only at the end; leave out best_of or stream"
        raise InvalidRequest(message, field="best_of")
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("allowed only with stream: true; leave it out", field="stream_options")
    if request.echo and request.logprobs is not None:
        message = "not available with echo, because prompts have no log probabilities; leave out one of them"
        raise InvalidRequest(message, field="logprobs")
    schemas.check_input_count(len(request.prompts) * request.samples, settings, field="prompt")
    return request


def options_of(request: CompletionRequest, settings: Settings) -> list[GenerationParameters]:
    """Return the options of each sample of a prompt."""
    tokens = min(DEFAULT_TOKENS, settings.max_new_tokens) if request.max_tokens is None else request.max_tokens
    return [
        GenerationParameters(
            max_new_tokens=tokens,
            temperature=request.value_of("temperature"),
            top_p=request.value_of("top_p"),
            seed=None if request.seed is None else sample_seed(request.seed, sample),
            stop=request.stop_strings,
            logprobs=request.logprobs is not None or request.samples > request.choices,
            alternatives=request.logprobs or 0,
        )
        for sample in range(request.samples)
    ]


def sample_seed(seed: int, sample: int) -> int:
    """Return the seed of one sample: the request's own for the first, and a different one for every other.

    It depends only on the arguments, so every replica returns the same texts.
    """
    if sample == 0:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed}/{sample}".encode(), digest_size=8).digest())


class TextToken(NamedTuple):
    """One token of a text. ``logprob`` is None and ``alternatives`` empty unless the request asks for them."""

    text: str
    logprob: float | None
    alternatives: Sequence[tuple[str, float]]


class StopStringFilter:
    """Removes the stop string from one growing text.

    The engine's texts include their stop string, as in Text Generation Inference. OpenAI's end before it. Characters
    that may begin a stop string are held back until the next tokens arrive.
    """

    def __init__(self, stop_strings: Sequence[str]) -> None:
        self._stop_strings = tuple(stop_strings)
        self._held: list[TextToken] = []

    def feed(self, tokens: Iterable[TextToken], *, stopped: bool, ended: bool) -> tuple[str, list[TextToken]]:
        """Return the text that is safe to send now, and the tokens that begin in it.

        ``ended``: no tokens follow. ``stopped``: the text ended with a stop string.
        """
        self._held += tokens
        text = "".join(token.text for token in self._held)
        ends = list(accumulate(len(token.text) for token in self._held))
        if stopped:
            found = [place for stop in self._stop_strings if (place := text.find(stop)) >= 0]
            text = text[: min(found, default=len(text))]
            # The tokens that begin in the text. The last one may end after it.
            released = [t for t, end in zip(self._held, ends, strict=True) if end - len(t.text) < len(text)]
        elif ended:
            released = self._held
        else:  # hold back what may begin a stop string
            partial = (n for stop in self._stop_strings for n in range(1, len(stop)) if text.endswith(stop[:n]))
            safe = len(text) - max(partial, default=0)
            released = [t for t, end in zip(self._held, ends, strict=True) if end <= safe]
            text = "".join(token.text for token in released)
        self._held = self._held[len(released) :]
        return text, released


class ChoiceBuilder:
    """Turns the token deltas of one text into the parts of one choice."""

    def __init__(self, index: int, prompt: str, request: CompletionRequest) -> None:
        self._index, self._request = index, request
        self._filter = StopStringFilter(request.stop_strings)
        self._echo = prompt if request.echo else ""
        self._offset = 0

    def part(self, delta: TokenDelta) -> Choice | None:
        """Return the part that may be sent after ``delta``, None if all of it is held back."""
        logprobs: Sequence[float | None] = delta.logprobs or [None] * len(delta.token_texts)
        alternatives: Sequence[Sequence[tuple[str, float]]] = delta.alternatives or [()] * len(delta.token_texts)
        reason = delta.finish_reason
        tokens = map(TextToken, delta.token_texts, logprobs, alternatives)
        text, released = self._filter.feed(tokens, stopped=reason == "stop", ended=reason is not None)
        if not text and reason is None:
            return None
        text, self._echo = self._echo + text, ""
        return {
            "index": self._index,
            "text": text,
            "logprobs": None if self._request.logprobs is None else self._logprobs(released),
            "finish_reason": reason if reason is None or reason == "length" else "stop",
        }

    def _logprobs(self, tokens: Sequence[TextToken]) -> Logprobs:
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(token.text)
        logprobs = [round(token.logprob or 0.0, 6) for token in tokens]
        top_logprobs = [
            {text: round(value, 6) for text, value in (*token.alternatives, (token.text, logprob))}
            for token, logprob in zip(tokens, logprobs, strict=True)
        ]
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": logprobs,
            "top_logprobs": top_logprobs if self._request.logprobs else None,
            "text_offset": offsets,
        }


async def complete(context: RequestContext, body: bytes) -> Any:
    """Answer ``POST /v1/completions``."""
    worker = context.worker
    request = await worker.parser.run(parse_completion, body, worker.settings, size=len(body))
    model = context.choose_model(request.model, "generate")
    prompts = [prompt for prompt in request.prompts for _ in range(request.samples)]
    options = options_of(request, worker.settings) * len(request.prompts)
    field = openai_field("prompt", single=isinstance(request.prompt, str), copies=request.samples)
    with renamed_fields(field):
        stream = await worker.engine.generate_stream(prompts, model=model, options=options, request=context.request)
    head = {
        "id": f"cmpl-{context.request.request_id}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": context.model,
    }
    if request.stream:
        stream.keepalive_s = worker.settings.keepalive_s
        chunks = _events(stream, head, request, prompts)
        return EventStream(media=MEDIA, chunks=chunks, on_error=lambda error: event(openai_body_of(error)))
    async with contextlib.aclosing(stream):
        texts = await _read_all(stream, len(prompts))
    best = [index for first in range(0, len(texts), request.samples) for index in _best(texts, first, request)]
    choices = [ChoiceBuilder(place, prompts[index], request).part(texts[index]) for place, index in enumerate(best)]
    generated = sum(len(text.tokens) for text in texts)
    return {**head, "choices": choices, "usage": _usage(stream, request, generated)}


async def _read_all(stream: GenerationStream[GeneratedText], count: int) -> list[TokenDelta]:
    """Return each of ``count`` texts as one delta, once all of them have ended."""
    parts: list[list[TokenDelta]] = [[] for _ in range(count)]
    async for deltas in stream:
        for delta in deltas:
            parts[delta.index].append(delta)
    return [
        TokenDelta(
            index=index,
            tokens=[token for delta in text for token in delta.tokens],
            token_texts=[piece for delta in text for piece in delta.token_texts],
            logprobs=[logprob for delta in text for logprob in delta.logprobs],
            alternatives=[ranked for delta in text for ranked in delta.alternatives],
            finish_reason=text[-1].finish_reason,
        )
        for index, text in enumerate(parts)
    ]


def _best(texts: Sequence[TokenDelta], first: int, request: CompletionRequest) -> list[int]:
    """Return the samples of one prompt to answer: those with the highest mean log probability, if not all."""
    samples = range(first, first + request.samples)
    if request.samples == request.choices:
        return list(samples)
    ranked = sorted(samples, key=lambda i: -sum(texts[i].logprobs) / max(1, len(texts[i].logprobs)))
    return ranked[: request.choices]


def _usage(stream: GenerationStream[GeneratedText], request: CompletionRequest, generated: int) -> CompletionUsage:
    prompt = sum(stream.prompt_tokens[:: request.samples])
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}


async def _events(
    stream: GenerationStream[GeneratedText], head: dict[str, Any], request: CompletionRequest, prompts: Sequence[str]
) -> AsyncGenerator[bytes, None]:
    """Yield one event per part of a choice, then the usage if requested, then ``[DONE]``."""
    builders = [ChoiceBuilder(index, prompt, request) for index, prompt in enumerate(prompts)]
    include_usage = request.stream_options is not None and request.stream_options.include_usage
    usage: dict[str, Any] = {"usage": None} if include_usage else {}
    generated = 0
    async with contextlib.aclosing(stream):
        async for deltas in stream:
            generated += sum(len(delta.tokens) for delta in deltas)
            parts = [part for delta in deltas if (part := builders[delta.index].part(delta)) is not None]
            if not deltas:
                yield KEEP_ALIVE
            elif parts:
                yield b"".join(event(orjson.dumps({**head, "choices": [part], **usage})) for part in parts)
    if include_usage:
        yield event(orjson.dumps({**head, "choices": [], "usage": _usage(stream, request, generated)}))
    yield event(b"[DONE]")


def _completion_example(card: Any) -> Any:
    if "generate" not in card["tasks"]:
        return None
    return {"model": card["id"], "prompt": card["examples"][0], "max_tokens": 16, "seed": 7, "temperature": 0.8}


COMPLETION_DOCS = Docs(
    group="OpenAI",
    summary="Continue a text (OpenAI completions)",
    about="With `stream` the answer is server-sent events that end with `data: [DONE]`. An error after the first event"
    ' is an event `{"error": …}`. `n` and `best_of` sample with seeds derived from `seed`.',
    body=CompletionRequest,
    answer=Completion,
    event=Completion,
    example=_completion_example,
)


class EmbeddingRequest(fields.RequestModel):
    """Body of ``/v1/embeddings``. ``base64`` returns the numbers as little-endian float32."""

    input: schemas.StringOrStrings
    model: schemas.ModelName | None = None
    encoding_format: Literal["float", "base64"] | None = fields.parameter("`base64`: little-endian float32", "float")
    dimensions: Annotated[int, Field(ge=1)] | None = fields.parameter(
        "only the model's own width", unset="the width of the model"
    )
    user: str | None = fields.parameter("accepted and not used", unset="none")


class EmbeddingObject(TypedDict):
    """The vector of one input, as numbers or as base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(TypedDict):
    """Tokens of all inputs: words, characters or bases."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(TypedDict):
    """One vector per input, in order."""

    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str | None
    usage: EmbeddingUsage


async def embed(context: RequestContext, body: bytes) -> Any:
    """Answer ``POST /v1/embeddings``."""
    worker = context.worker
    request = await worker.parser.run(schemas.parse_body, EmbeddingRequest, body, worker.settings, size=len(body))
    model = context.choose_model(request.model, "embed")
    single = isinstance(request.input, str)
    schemas.check_input_count(1 if single else len(request.input), worker.settings, field="input")
    with renamed_fields(openai_field("input", single=single)):
        vectors = await worker.engine.embed(request.input, model=model, request=context.request)
    width = len(vectors[0][0]) if vectors else None
    schemas.check_width(request.dimensions, width, model)
    as_base64 = request.encoding_format == "base64"
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_base64 else vector.tolist(),
        }
        for index, (vector, _) in enumerate(vectors)
    ]
    tokens = sum(length for _, length in vectors)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": context.model, "usage": usage}


def _embedding_example(card: Any) -> Any:
    text = card["examples"][0]
    return {"model": card["id"], "input": text} if "embed" in card["tasks"] and isinstance(text, str) else None


EMBEDDING_DOCS = Docs(
    group="OpenAI",
    summary="Embed texts (OpenAI embeddings)",
    body=EmbeddingRequest,
    answer=EmbeddingList,
    example=_embedding_example,
)

ROUTES = (
    Route("/v1/completions", ("POST",), complete, task="generate", error_format=OPENAI_ERROR, docs=COMPLETION_DOCS),
    Route("/v1/embeddings", ("POST",), embed, task="embed", error_format=OPENAI_ERROR, docs=EMBEDDING_DOCS),
)
