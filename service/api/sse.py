"""A text as server-sent events, as it is written: ``/v1/generate_stream``, in Text Generation Inference's shape.

What other dialects need for streams of their own is here too. Knows how an event looks; knows nothing of how the
bytes leave.
"""

import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal, NotRequired

import orjson
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from service import errors
from service.api import schemas
from service.api.problems import body_of
from service.api.request_context import RequestContext
from service.api.routes import Docs, Route, Stream
from service.errors import InvalidRequest, ServiceError
from service.generation_stream import GenerationStream, TokenDelta

MEDIA = b"text/event-stream"
KEEP_ALIVE = b": nothing new yet\n\n"  # a comment, which readers skip
NO_TOKEN = (0, "", 0.0)  # of an empty text: the row that stands for no character
# The words of Text Generation Inference, by which its clients raise.
ERROR_TYPES = ((errors.RequestError, "validation"), (errors.Overloaded, "overloaded"), (ServiceError, "generation"))


def event(data: bytes) -> bytes:
    """Return one event. JSON has no line breaks that would end it early."""
    return b"data: %b\n\n" % data


def failing(exchange: RequestContext) -> Callable[[ServiceError], bytes]:
    """Return what makes the last event of a stream that an error ends: the problem, and what clients look for."""

    def failed(error: ServiceError) -> bytes:
        kind = next(word for cls, word in ERROR_TYPES if isinstance(error, cls))
        problem = orjson.loads(body_of(error, request_id=exchange.call.request_id))
        return b"event: error\n" + event(orjson.dumps({**problem, "error": error.message, "error_type": kind}))

    return failed


async def generate_stream(exchange: RequestContext, body: bytes) -> Stream:
    """Answer ``/v1/generate_stream``."""
    return await stream(exchange, schemas.parse(schemas.GENERATE, body, exchange.worker.settings))


async def stream(exchange: RequestContext, request: schemas.GenerateRequest) -> Stream:
    """Begin the text that a request asks for."""
    if not isinstance(request.inputs, str):
        raise InvalidRequest("inputs: a stream has one text: send a string, and a request for each", field="inputs")
    settings = exchange.worker.settings
    exchange.model = request.model or exchange.worker.default_model("generate")
    options = replace(schemas.options(request.parameters, limit=settings.max_new_tokens), details=False, logprobs=True)
    writing = await exchange.worker.engine.generate_stream(
        [request.inputs], model=request.model, options=[options], request=exchange.call
    )
    writing.remind_s = settings.keepalive_s
    return Stream(media=MEDIA, chunks=_chunks(writing), failed=failing(exchange))


async def _chunks(writing: GenerationStream) -> AsyncGenerator[bytes, None]:
    """The events of a text, those of one look together: a write costs more than an event does."""
    count = 0
    async with contextlib.aclosing(writing):
        async for deltas in writing:
            parts = []
            for delta in deltas:
                parts += _events(delta, count, _end(writing, delta) if delta.finish_reason else b"")
                count += len(delta.tokens)
            yield b"".join(parts) or KEEP_ALIVE


def _events(delta: TokenDelta, count: int, end: bytes) -> list[bytes]:
    """One event a token, `count` of which came before; `end` is what the last token of a text has beside it."""
    tokens = list(zip(delta.tokens, delta.pieces, delta.logprobs, strict=True)) or [NO_TOKEN]
    parts = [
        b'data: {"index":%d,%b%.6f},"generated_text":null,"details":null}\n\n' % (number, _token(token, piece), logprob)
        for number, (token, piece, logprob) in enumerate(tokens, count + 1)
    ]
    if end:
        token, piece, logprob = tokens[-1]
        parts[-1] = b'data: {"index":%d,%b%.6f},%b}\n\n' % (count + len(tokens), _token(token, piece), logprob, end)
    return parts


@lru_cache(maxsize=4096)  # of vocabularies of characters: making one costs ten times as much
def _token(token: int, piece: str) -> bytes:
    """What of a token's event does not change with its place."""
    special = b"false" if piece else b"true"
    return b'"token":{"id":%d,"text":%b,"special":%b,"logprob":' % (token, orjson.dumps(piece), special)


def _end(writing: GenerationStream, delta: TokenDelta) -> bytes:
    """The whole text and what is known of it, without the braces round it."""
    answer: dict[str, Any] = writing.answer(delta.index)
    answer["details"] = {
        "finish_reason": delta.finish_reason,
        "generated_tokens": writing.generated_tokens(delta.index),
        "input_length": writing.prompt_tokens[delta.index],
        "seed": writing.seeds[delta.index],
    }
    return orjson.dumps(answer)[1:-1]


class Token(TypedDict):
    """``special``: it stands for no text."""

    id: int
    text: str
    special: bool
    logprob: float


class Details(TypedDict):
    """``input_length`` and ``generated_tokens`` in characters."""

    finish_reason: Literal["length", "stop", "eos"]
    generated_tokens: int
    input_length: int
    seed: int


class Event(TypedDict):
    """The data of one event; the last has the whole text and its details."""

    index: int
    token: Token
    generated_text: str | None
    details: Details | None
    state: NotRequired[str | None]


DOCS = Docs(
    group="Tag, classify, generate",
    summary="Continue a text, an event a token",
    about="An error after the first token is an `event: error` with the problem in its data.",
    body=schemas.GenerateRequest,
    answer=None,
    media=MEDIA.decode(),
    event=Event,
    example=schemas.example("generate"),
)
ROUTES = (Route("/v1/generate_stream", ("POST",), generate_stream, reads=True, task="generate", docs=DOCS),)
