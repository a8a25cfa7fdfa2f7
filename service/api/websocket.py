"""``WS /v1/stream``: tokens or frames arrive as messages, and each message is answered from the stream's state.

A message is read only after the answer to the previous one was sent. A stream therefore holds at most one message
and one answer, even if its client is slow.
"""

import asyncio
import base64
import contextlib
import time
from collections.abc import Awaitable, Collection, Sequence
from typing import Any, TypeVar

import orjson
from starlette.types import Receive, Scope, Send

from service.api import schemas
from service.api.asgi import address_of
from service.api.pipeline import OK, RequestContext, SendAnswer, refuse
from service.api.problems import Headers, kind_of, problem_of
from service.api.request_headers import RequestHeaders, foreign_origin
from service.api.routes import MODEL_QUERY
from service.api.schemas import entity_objects
from service.engine import TaggingStream
from service.errors import (
    ForeignOrigin,
    InvalidRequest,
    NotFound,
    Overloaded,
    ServiceError,
    TooLarge,
    Unauthorized,
    Unavailable,
    shown,
)
from service.scheduling.job import InferenceRequest
from service.worker import Worker

PATH = "/v1/stream"
# Close codes: those of RFC 6455, and from 4000 our own.
TOO_BIG, FAILED, RESTART, UNAUTHORIZED, IDLE = 1009, 1011, 1012, 4401, 4408
PROTOCOL = "seqserve"  # the subprotocol of streams, which need not be named
KEY_PROTOCOL = "base64url.bearer."  # how a browser sends an API key, as Kubernetes reads it
T = TypeVar("T")


class StreamClosed(Exception):
    """Ends a stream with this close code; None if the client has closed it."""

    def __init__(self, code: int | None, reason: str = "") -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class WebSocketStreams:
    """The ASGI application for the streams of one worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._connections: set[StreamConnection] = set()
        worker.on_stop(self._restart)
        worker.on_drain(self._restart)

    @property
    def open(self) -> int:
        """How many streams are open."""
        return len(self._connections)

    def _restart(self) -> None:
        """Close the open streams, each after its answer. Those that open later, during the lame duck, are served."""
        for connection in list(self._connections):
            connection.restart()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one stream from its handshake to its end."""
        headers = RequestHeaders.of(scope["headers"])
        protocols = scope.get("subprotocols", ())
        if b"authorization" not in headers and (key := key_of_browser(protocols)):
            headers[b"authorization"] = b"Bearer " + key
        context = RequestContext(
            self._worker,
            PATH if scope["path"] == PATH else "unknown",
            headers,
            client_address=lambda: _socket_address(receive),
            is_disconnected=lambda: False,  # a disconnect shows when something is sent
            method="GET",
            path=scope["path"],
        )
        try:
            await receive()  # websocket.connect
            await self._check(context, scope)
        except Exception as cause:
            with contextlib.suppress(OSError):  # the client is gone
                await refuse(context, _handshake_answer(scope, send), cause)
            context.finish()
            return
        connection = StreamConnection(self._worker, context, receive, send)
        self._connections.add(connection)
        try:
            # A browser that offers protocols expects one of them in the answer.
            protocol = PROTOCOL if PROTOCOL in protocols else None
            await send({"type": "websocket.accept", "subprotocol": protocol, "headers": context.response_headers()})
            context.outcome = OK
            await connection.serve()
        except StreamClosed as end:
            await self._close(send, end)
        except OSError:  # the server's way to report that the client is gone
            pass
        except Exception as cause:
            context.fail(cause)
            await self._close(send, StreamClosed(FAILED, "internal error"))
        finally:
            self._connections.discard(connection)
            connection.leave()

    async def _close(self, send: Send, end: StreamClosed) -> None:
        """Send the close code, even if the client does not read."""
        if end.code is not None:
            with contextlib.suppress(OSError):  # TimeoutError is one
                async with asyncio.timeout(self._worker.settings.write_timeout_s):
                    await send({"type": "websocket.close", "code": end.code, "reason": end.reason})

    async def _check(self, context: RequestContext, scope: Scope) -> None:
        if context.route != PATH:
            raise NotFound(f"streams are at {PATH}", available=[PATH])
        check_origin(context.headers, self._worker.settings.cors_origins, scheme=scope.get("scheme", "ws"))
        await context.begin()
        context.read_query(scope.get("query_string", b""), MODEL_QUERY)
        self._worker.engine.defaults()  # raises Unavailable while there is no engine
        limit = self._worker.settings.streams_max
        if self.open >= limit:
            raise Overloaded(f"{self.open} streams are open; retry later", retry_after_s=1.0, limit=limit)


class StreamConnection:
    """One stream after its handshake."""

    def __init__(self, worker: Worker, context: RequestContext, receive: Receive, send: Send) -> None:
        self._worker, self._context = worker, context
        self._receive, self._send = receive, send
        self._timeout_s = context.request.deadline_s - context.started_s  # of each message
        self._stream: TaggingStream | None = None
        self._restarting = False  # the client has to open another stream
        self._wait: asyncio.Timeout | None = None  # while the connection waits for its client

    def restart(self) -> None:
        """Close the stream with RESTART, after the answer to its current message."""
        self._restarting = True
        if self._wait is not None and not self._wait.expired():
            self._wait.reschedule(asyncio.get_running_loop().time())

    async def _wait_for_client(self, what: Awaitable[T]) -> T:
        """Await ``what``. Raises StreamClosed when the client takes too long, or the stream has to restart."""
        try:
            async with asyncio.timeout(self._worker.settings.stream_idle_s) as self._wait:
                return await what
        except TimeoutError:
            if self._restarting:
                raise _restart() from None
            seconds = self._worker.settings.stream_idle_s
            raise StreamClosed(IDLE, f"the client neither sent nor read for {seconds:g} s") from None
        finally:
            self._wait = None

    async def serve(self) -> None:
        """Answer messages one by one. Raises StreamClosed, and OSError when the client is gone."""
        request_id = self._context.request.request_id
        while True:
            body = await self._next()
            started_s = time.monotonic()
            outcome = OK
            try:
                answer = await self._answer(body)
            except Exception as cause:
                error = self._fail(cause)
                outcome, answer = kind_of(error).slug, {"error": problem_of(error, request_id=request_id)}
            labels = self._context.model_labels()
            self._worker.telemetry.request(PATH, *labels, outcome, time.monotonic() - started_s)
            content = orjson.dumps(answer)
            self._context.sent_bytes += len(content)
            await self._wait_for_client(self._send({"type": "websocket.send", "text": content.decode()}))

    def leave(self) -> None:
        """Record the end of the stream."""
        if self._stream is not None:
            self._worker.telemetry.streams(*self._context.model_labels(), -1)
        self._context.record()

    async def _next(self) -> bytes:
        if self._restarting:
            raise _restart()
        message = await self._wait_for_client(self._receive())
        if message["type"] == "websocket.disconnect":
            raise StreamClosed(None)
        text = message.get("text")
        body: bytes = (message.get("bytes") or b"") if text is None else text.encode()
        limit = self._worker.settings.body_bytes
        if len(body) > limit:
            raise StreamClosed(TOO_BIG, f"the message has {len(body)} bytes; the limit is {limit}")
        return body

    async def _answer(self, body: bytes) -> dict[str, Any]:
        await self._context.begin()  # even an invalid message counts, under the keys and limits that apply now
        settings = self._worker.settings
        parse = self._worker.parser.run
        message = await parse(schemas.parse_body, schemas.StreamMessage, body, settings, size=len(body))
        inputs, limit = message.inputs, settings.inputs_max
        if isinstance(inputs, list) and len(inputs) > limit:
            detail = f"{len(inputs)} tokens in one message; the limit is {limit}; send several"
            raise TooLarge(detail, limit=limit, field="inputs", value=len(inputs))
        stream = self._opened(message)
        if message.return_state and (message.end or stream.ended):
            raise InvalidRequest("a stream that has ended has no state; leave it out", field="return_state")
        identity = stream.runtime.identity
        answer: dict[str, Any] = {"model": identity.name, "version": identity.version}
        if inputs is not None or message.end:
            chunk, end = [] if inputs is None else inputs, bool(message.end)
            entities = await self._worker.engine.advance(stream, chunk, end=end, request=self._request())
            answer = {"entities": entity_objects(entities)}
        answer["steps"] = stream.steps
        if message.return_state:
            answer["state"] = self._worker.engine.state_token(stream)
        return answer

    def _request(self) -> InferenceRequest:
        """Return the inference request of one message."""
        return InferenceRequest(
            request_id=self._context.request.request_id,
            route=PATH,
            deadline_s=time.monotonic() + self._timeout_s,
            is_disconnected=lambda: False,  # a disconnect shows when the answer is sent
            client=self._context.request.client,
        )

    def _opened(self, message: schemas.StreamMessage) -> TaggingStream:
        """Return the stream, which the first valid message opens."""
        if self._stream is None:
            model = self._context.choose_model(message.model, "stream")
            self._stream = self._worker.engine.open_stream(model, state=message.state)
            self._context.request.model = self._stream.runtime.identity
            self._worker.telemetry.streams(*self._context.model_labels(), 1)
        elif message.state is not None:
            raise InvalidRequest("this stream has started; open another to continue from a state", field="state")
        elif message.model not in (None, self._context.model):
            detail = f"this stream uses {self._context.model}; open another for another model"
            raise InvalidRequest(detail, field="model", value=message.model)
        return self._stream

    def _fail(self, cause: Exception) -> ServiceError:
        """Return the error to answer a message with. Raises StreamClosed if the stream has to end."""
        if isinstance(cause, Unavailable) and self._worker.draining:
            raise _restart()
        outcome = self._context.outcome
        error = self._context.fail(cause)
        self._context.outcome = outcome  # an error in one message does not end the stream
        if isinstance(error, Unauthorized):
            raise StreamClosed(UNAUTHORIZED, "the API key is no longer valid; open a stream with a valid one")
        return error


def key_of_browser(protocols: Sequence[str]) -> bytes:
    """Return the API key among the subprotocols of a handshake, or nothing. A page can set no other header."""
    for protocol in protocols:
        if protocol.startswith(KEY_PROTOCOL):
            encoded = protocol.removeprefix(KEY_PROTOCOL)
            with contextlib.suppress(ValueError):  # of base64; the key is then missing
                return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    return b""


def _restart() -> StreamClosed:
    return StreamClosed(RESTART, "the service is shutting down; open the stream again")


def _socket_address(receive: Receive) -> str:
    """Return the address of the socket. A header could set the one in the scope."""
    transport = getattr(getattr(receive, "__self__", None), "transport", None)  # of uvicorn's protocol
    return address_of(transport.get_extra_info("peername")) if transport is not None else ""


def _handshake_answer(scope: Scope, send: Send) -> SendAnswer:
    """Return a function that refuses a handshake. A server that cannot send a response to it sends 403."""

    async def answer(status: int, headers: Headers, body: bytes) -> None:
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": body})

    return answer


def check_origin(headers: RequestHeaders, allowed: Collection[str], *, scheme: str) -> None:
    """Raise ForeignOrigin for a page whose origin is neither ``allowed`` nor the service's own.

    Browsers open WebSockets to any host, without a preflight request. A client without Origin is not a browser.
    """
    origin = foreign_origin(headers, allowed, schemes=("https",) if scheme in ("wss", "https") else ("http",))
    if origin is not None:
        raise ForeignOrigin(f"{shown(origin)} may not open streams; add it to SEQSERVE_CORS_ORIGINS", value=origin)
