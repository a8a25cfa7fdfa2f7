"""``/v1/generate_stream``: a text as server-sent events, in the format of Text Generation Inference."""

import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, Literal, NotRequired

import orjson
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from models.tasks.generate import GeneratedText
from service.api import schemas
from service.api.pipeline import RequestContext
from service.api.problems import body_of, parameter_field, renamed_fields
from service.api.routes import Docs, EventStream, Route
from service.api.schemas import generated_object
from service.errors import InvalidRequest, ServiceError
from service.generation import GenerationStream, TokenDelta

MEDIA = b"text/event-stream"
KEEP_ALIVE = b": keep-alive\n\n"  # a comment, which clients skip
EMPTY_TOKEN = (0, "", 0.0)  # the one token of an empty text


class StreamToken(TypedDict):
    """``special``: the token has no text."""

    id: int
    text: str
    special: bool
    logprob: float


class StreamDetails(TypedDict):
    """``input_length`` and ``generated_tokens`` count characters."""

    finish_reason: Literal["length", "stop", "eos"]
    generated_tokens: int
    input_length: int
    seed: int


class TokenEvent(TypedDict):
    """The data of one event. The last one has the whole text and its details."""

    index: int
    token: StreamToken
    generated_text: str | None
    details: StreamDetails | None
    state: NotRequired[str | None]


def event(data: bytes) -> bytes:
    """Return one event. ``data`` is JSON, so it has no line break that would end the event early."""
    return b"data: %b\n\n" % data


def error_event(context: RequestContext) -> Callable[[ServiceError], bytes]:
    """Return a function that renders the last event of a failed stream."""
    return lambda error: b"event: error\n" + event(body_of(error, request_id=context.request.request_id))


async def generate_stream(context: RequestContext, body: bytes) -> EventStream:
    """Answer ``POST /v1/generate_stream``."""
    return await stream_text(context, await schemas.read_request(schemas.GenerateRequest, body, context.worker))


async def stream_text(context: RequestContext, request: schemas.GenerateRequest) -> EventStream:
    """Start generation and return the events."""
    if not isinstance(request.inputs, str):
        raise InvalidRequest("a stream has one text; send a string, and one request per text", field="inputs")
    settings = context.worker.settings
    model = context.choose_model(request.model, "generate")
    options = schemas.generation_parameters(request.parameters, limit=settings.max_new_tokens)
    options = replace(options, details=False, logprobs=True)
    with renamed_fields(parameter_field):
        stream = await context.worker.engine.generate_stream(
            [request.inputs], model=model, options=[options], request=context.request
        )
    stream.keepalive_s = settings.keepalive_s
    tgi = request.is_from_tgi_client
    end = partial(_end, stream, with_state=options.return_state, tgi=tgi)
    return EventStream(media=MEDIA, chunks=token_chunks(stream, end), on_error=error_event(context))


async def token_chunks(
    stream: GenerationStream[Any], end: Callable[[TokenDelta], bytes]
) -> AsyncGenerator[bytes, None]:
    """Yield the events that are ready together as one chunk, because a write costs more than an event.

    ``end`` returns the JSON members that only the last event of a text has.
    """
    count = 0
    async with contextlib.aclosing(stream):
        async for deltas in stream:
            parts = []
            for delta in deltas:
                parts += token_events(delta, count, end(delta) if delta.finish_reason else b"")
                count += len(delta.tokens)
            yield b"".join(parts) or KEEP_ALIVE


def token_events(delta: TokenDelta, count: int, end: bytes) -> list[bytes]:
    """Return one event per token. ``count`` tokens came before. ``end``: the JSON members that only the last has."""
    tokens = list(zip(delta.tokens, delta.token_texts, delta.logprobs, strict=True)) or [EMPTY_TOKEN]
    parts = [
        b'data: {"index":%d,%b%.6f},"generated_text":null,"details":null}\n\n' % (number, _token(token, piece), logprob)
        for number, (token, piece, logprob) in enumerate(tokens, count + 1)
    ]
    if end:
        token, piece, logprob = tokens[-1]
        parts[-1] = b'data: {"index":%d,%b%.6f},%b}\n\n' % (count + len(tokens), _token(token, piece), logprob, end)
    return parts


@lru_cache(maxsize=4096)  # enough for a vocabulary of characters; encoding one takes ten times as long
def _token(token: int, piece: str) -> bytes:
    """Return the constant part of a token's event."""
    special = b"false" if piece else b"true"
    return b'"token":{"id":%d,"text":%b,"special":%b,"logprob":' % (token, orjson.dumps(piece), special)


def _end(stream: GenerationStream[GeneratedText], delta: TokenDelta, *, with_state: bool, tgi: bool) -> bytes:
    """Return the members of the last event: the whole text and its details, as JSON without the braces."""
    answer = generated_object(stream.result(delta.index), with_state=with_state)
    answer["details"] = {
        "finish_reason": schemas.TGI_FINISH_REASONS[delta.finish_reason or "length"] if tgi else delta.finish_reason,
        "generated_tokens": stream.generated_tokens(delta.index),
        "input_length": stream.prompt_tokens[delta.index],
        "seed": stream.texts[delta.index].options.sampling.seed,
    }
    return orjson.dumps(answer)[1:-1]


DOCS = Docs(
    group="Tag, classify, generate",
    summary="Continue a text, with one event per token",
    about="An error after the first token is an `event: error` whose data is the problem.",
    body=schemas.GenerateRequest,
    answer=None,
    media=MEDIA.decode(),
    event=TokenEvent,
    example=schemas.example("generate"),
)
ROUTES = (Route("/v1/generate_stream", ("POST",), generate_stream, task="generate", docs=DOCS),)
