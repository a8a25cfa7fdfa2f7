"""One HTTP request from its head to its answer. The ordinary path (asgi.py) and the fast path share this.

Handlers return values; this is the only place that sends answers.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import orjson

from service.api.problems import PROBLEM, ErrorFormat, Headers, headers_of, kind_of
from service.api.request_context import NO_PARAMS, OK, RequestContext
from service.api.request_headers import RequestHeaders, check_length, check_media
from service.api.routes import EventStream, Reply, Route
from service.errors import ClientGone, DeadlinePassed, MethodNotAllowed, shown
from service.worker import Worker

# nginx buffers answers unless this header says otherwise.
STREAM_HEADERS = ((b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"))
SendAnswer = Callable[[int, Headers, bytes], Awaitable[None]]  # of status, headers and body


class Transport(Protocol):
    """Where one HTTP request comes from and where its answer goes."""

    def is_disconnected(self) -> bool:
        """Return whether the client has closed the connection. Called at every decoding step, so it must be cheap."""
        ...

    def client_address(self) -> str:
        """Return the address of the peer, or "" if it has none."""
        ...

    @property
    def body_complete(self) -> bool:
        """Whether the whole body has arrived."""
        ...

    async def read_body(self, limit: int) -> bytes:
        """Return the whole body, once. Raises ClientGone, and TooLarge for more than ``limit`` bytes."""
        ...

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer, unless the client has disconnected."""
        ...

    async def start(self, status: int, headers: Headers) -> None:
        """Start an answer of unknown length."""
        ...

    async def write(self, data: bytes) -> None:
        """Send a chunk, which is not empty, and wait while the client does not read. Raises ClientGone."""
        ...

    async def end(self) -> None:
        """End an answer that was started. Without this call, the client sees a broken answer."""
        ...

    def abort(self) -> None:
        """Close the connection at once."""
        ...


async def handle(
    worker: Worker,
    route: Route,
    transport: Transport,
    headers: RequestHeaders,
    *,
    method: str = "POST",
    path: str = "",
    path_params: Mapping[str, str] = NO_PARAMS,
) -> None:
    """Answer one HTTP request. Raises only what the transport raises."""
    context = RequestContext(
        worker,
        route.pattern,
        headers,
        client_address=transport.client_address,
        is_disconnected=transport.is_disconnected,
        method=method,
        path=path,
        path_params=path_params,
    )
    try:
        try:
            answer = await _answer(context, route, transport)
            if isinstance(answer, EventStream):
                await _send_stream(context, transport, answer)
                return
            reply = answer if isinstance(answer, Reply) else Reply(body=orjson.dumps(answer))
        except Exception as cause:
            await refuse(context, transport.send, cause, route.error_format)
        else:
            await _send(context, transport.send, 200, [(b"content-type", reply.media), *reply.headers], reply.body)
            context.outcome = OK
    finally:
        context.finish()


async def refuse(
    context: RequestContext, send: SendAnswer, cause: Exception, error_format: ErrorFormat = PROBLEM
) -> None:
    """Answer with the error that ``cause`` is, unless the client has disconnected."""
    error = context.fail(cause)
    if not isinstance(error, ClientGone):
        body = error_format.body(error, context.request.request_id)
        await _send(context, send, kind_of(error).status, headers_of(error, error_format.media), body)


async def _answer(context: RequestContext, route: Route, transport: Transport) -> Any:
    """Check the head of the request, read its body and call the handler."""
    if route.methods and context.method not in route.methods:
        raise MethodNotAllowed(
            f"{context.route} does not have the method {shown(context.method)}; use {' or '.join(route.methods)}",
            available=list(route.methods),
        )
    await context.begin(authenticate=not route.public)
    if not route.reads_body:
        return await route.handler(context, b"")
    check_media(context.headers, route.media)
    check_length(context.headers, context.worker.settings.body_bytes)
    return await route.handler(context, await _read_body(context, transport))


async def _read_body(context: RequestContext, transport: Transport) -> bytes:
    """Return the whole body. Raises DeadlinePassed or, when the worker drains, Unavailable if it is late."""
    limit = context.worker.settings.body_bytes
    if transport.body_complete:  # no timer needed
        return await transport.read_body(limit)
    try:
        async with context.worker.reading(context.request.deadline_s - time.monotonic()):
            return await transport.read_body(limit)
    except TimeoutError:
        raise DeadlinePassed("the deadline passed before the whole body had arrived") from None


async def _send_stream(context: RequestContext, transport: Transport, stream: EventStream) -> None:
    """Send an answer chunk by chunk.

    Raises what ``stream.chunks`` raises before the first chunk. A later error becomes a last chunk, so that a client
    never takes a broken answer for a complete one.
    """
    started = False
    settings, telemetry, loop = context.worker.settings, context.worker.telemetry, asyncio.get_running_loop()
    telemetry.streams(context.model or "", 1)
    async with contextlib.aclosing(stream.chunks):
        try:
            async for chunk in stream.chunks:
                if not started:
                    headers = [(b"content-type", stream.media), *STREAM_HEADERS]
                    await transport.start(200, headers + context.response_headers())
                    started = True
                # A client that reads nothing holds a slot and a connection: limit for how long.
                stalled = loop.call_later(settings.write_timeout_s, transport.abort)
                try:
                    await transport.write(chunk)
                finally:
                    stalled.cancel()
            if not started:
                raise RuntimeError("an event stream had no event")
        except Exception as cause:
            if not started:
                raise
            error = context.fail(cause)
            if not isinstance(error, ClientGone):
                with contextlib.suppress(ClientGone):
                    await transport.write(stream.on_error(error))
                    await transport.end()
            return
        finally:
            telemetry.streams(context.model or "", -1)
    await transport.end()
    context.outcome = OK


async def _send(context: RequestContext, send: SendAnswer, status: int, headers: Headers, body: bytes) -> None:
    context.sent_bytes = len(body)
    headers += context.response_headers()
    headers.append((b"content-length", b"%d" % len(body)))
    await send(status, headers, body)
