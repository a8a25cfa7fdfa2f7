"""WS /v1/stream: words or frames in as they come, an answer for each, from the state of one stream.

One message is in work at a time: the next is not read before the answer is sent, so that neither a fast writer nor a
slow reader is given memory. Knows the messages of a stream and of ASGI; knows nothing of how the engine answers.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

import orjson
from pydantic import TypeAdapter, ValidationError

from service.api import schemas
from service.api.asgi import Receive, Scope, Send
from service.api.cors import Cors
from service.api.problems import kind_of, problem_of
from service.api.request_context import OK, RequestContext
from service.api.request_headers import Head
from service.api.websocket_handshake import Handshake, check_origin
from service.errors import (
    ClientGone,
    InternalError,
    InvalidRequest,
    NotFound,
    Overloaded,
    ServiceError,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from service.scheduling.job import InferenceRequest
from service.streaming import TaggingStream
from service.worker import Worker

PATH = "/v1/stream"
# Codes of closing: RFC 6455's registry, and from 4000 on our own.
TOO_BIG, FAILED, RESTART, UNKNOWN, IDLE = 1009, 1011, 1012, 4401, 4408
MESSAGE: TypeAdapter[schemas.StreamMessage] = TypeAdapter(schemas.StreamMessage)
T = TypeVar("T")


class Closed(Exception):
    """The stream ends, with this code; None: the client has ended it."""

    def __init__(self, code: int | None, reason: str = "") -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Streams:
    """All streams of one worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._cors = Cors(worker.settings.cors_origins)
        self._open = 0
        self._waits: set[asyncio.Timeout] = set()  # of those that wait for their client
        worker.on_drain(self._close_the_waiting)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one stream from its handshake to its end, as an ASGI application."""
        head = Head.of("GET", scope["path"], scope["headers"])
        handshake = Handshake(scope, send)
        exchange = RequestContext(self._worker, PATH if scope["path"] == PATH else "unknown", head, handshake)
        try:
            await receive()  # websocket.connect
            self._check(exchange, scope)
        except Exception as cause:
            with contextlib.suppress(OSError):  # nobody is there any more
                await exchange.refuse(cause if isinstance(cause, ServiceError) else exchange.failed(cause))
            exchange.close()
            return
        self._open += 1
        stream = Stream(self, self._worker, exchange, receive, send)
        try:
            await send({"type": "websocket.accept", "headers": exchange.common_headers()})
            exchange.outcome = OK
            await stream.serve()
        except Closed as end:
            await self._close(send, end)
        except OSError:  # so the server says that nobody is there any more
            pass
        except Exception as cause:  # a bug of ours
            exchange.note(exchange.failed(cause))
            await self._close(send, Closed(FAILED, "an unexpected error"))
        finally:
            self._open -= 1
            stream.leave()

    async def _close(self, send: Send, end: Closed) -> None:
        """Say why the stream ends, to a client that may not read."""
        if end.code is not None:
            with contextlib.suppress(OSError):  # TimeoutError is one
                async with asyncio.timeout(self._worker.settings.write_timeout_s):
                    await send({"type": "websocket.close", "code": end.code, "reason": end.reason})

    def _check(self, exchange: RequestContext, scope: Scope) -> None:
        if exchange.route != PATH:
            raise NotFound("streams are at /v1/stream", available=[PATH])
        check_origin(scope["headers"], self._cors.may)
        exchange.check(("GET",), media=())
        self._worker.engine.defaults()  # Unavailable while there is none
        most = self._worker.settings.streams
        if self._open >= most:
            raise Overloaded(f"{self._open} streams are open already: come back later", retry_after_s=1.0, limit=most)

    async def waited(self, what: Awaitable[T]) -> T:
        """Wait for the client: for so long, and no longer once the worker drains. Raises Closed."""
        try:
            async with asyncio.timeout(self._worker.settings.stream_idle_s) as wait:
                self._waits.add(wait)
                try:
                    return await what
                finally:
                    self._waits.discard(wait)
        except TimeoutError:
            if self._worker.draining:
                raise _restart() from None
            seconds = self._worker.settings.stream_idle_s
            raise Closed(IDLE, f"nothing was sent or taken for {seconds:g} s") from None

    def _close_the_waiting(self) -> None:
        for wait in [each for each in self._waits if not each.expired()]:  # one that is running out ends by itself
            wait.reschedule(asyncio.get_running_loop().time())


class Stream:
    """One stream whose handshake is done."""

    def __init__(self, all_: Streams, worker: Worker, exchange: RequestContext, receive: Receive, send: Send) -> None:
        self._streams, self._worker, self._exchange = all_, worker, exchange
        self._receive, self._send = receive, send
        self._time_s = exchange.call.deadline_s - exchange.started_s  # for each message
        self._following: TaggingStream | None = None

    async def serve(self) -> None:
        """Answer message after message. Raises Closed, and OSError when the client has gone."""
        request_id = self._exchange.call.request_id
        while True:
            text = await self._next()
            started_s = time.monotonic()
            outcome = OK
            try:
                answer = await self._answer(text)
            except ServiceError as error:
                outcome = self._note(error)
                answer = {"error": problem_of(error, request_id=request_id)}
            except Exception as cause:  # a bug of ours must not end the stream without a word
                bug = self._exchange.failed(cause)
                outcome, answer = kind_of(bug).slug, {"error": problem_of(bug, request_id=request_id)}
            model = self._following.model if self._following else ""
            self._worker.telemetry.request(PATH, model, outcome, time.monotonic() - started_s)
            sent = orjson.dumps(answer)
            self._exchange.sent += len(sent)
            await self._streams.waited(self._send({"type": "websocket.send", "text": sent.decode()}))

    def leave(self) -> None:
        """The stream has ended, however it did."""
        if self._following is not None:
            self._exchange.model = self._following.model
            self._worker.telemetry.streams(self._following.model, -1)
        self._exchange.tell()

    async def _next(self) -> str | bytes:
        if self._worker.draining:
            raise _restart()
        message = await self._streams.waited(self._receive())
        if message["type"] == "websocket.disconnect":
            raise Closed(None)
        text: str | bytes = message.get("text") or message.get("bytes") or b""
        limit = self._worker.settings.body_bytes
        if len(text) > limit:
            raise Closed(TOO_BIG, f"a message has at most {limit} bytes")
        return text

    async def _answer(self, text: str | bytes) -> dict[str, Any]:
        self._exchange.enter()  # a bad message counts as well; keys and limits are those of now
        try:
            message = MESSAGE.validate_json(text)
        except ValidationError as error:
            raise schemas.invalid(error) from None
        inputs, most = message.inputs, self._worker.settings.inputs_max
        if isinstance(inputs, list) and len(inputs) > most:
            raise TooLarge(
                f"{len(inputs)} steps in one message; the limit is {most}: send several", limit=most, field="inputs"
            )
        following = self._opened(message)
        answer: dict[str, Any] = {"model": following.model}
        if inputs is not None:
            answer = {"entities": await self._worker.engine.advance(following, inputs, request=self._call())}
        answer["steps"] = following.steps
        if message.return_state:
            answer["state"] = self._worker.engine.state_token(following)
        return answer

    def _call(self) -> InferenceRequest:
        """Of one message."""
        return InferenceRequest(
            request_id=self._exchange.call.request_id,
            route=PATH,
            deadline_s=time.monotonic() + self._time_s,
            is_disconnected=lambda: (
                False
            ),  # one message is in work and the next is not read: its answer shows who has gone
        )

    def _opened(self, message: schemas.StreamMessage) -> TaggingStream:
        """The stream, which the first good message opens."""
        if self._following is None:
            self._following = self._worker.engine.open_stream(message.model, state=message.state)
            self._worker.telemetry.streams(self._following.model, 1)
        elif message.state is not None:
            raise InvalidRequest("state: this stream has begun; open another to go on from a state", field="state")
        elif message.model not in (None, self._following.model):
            raise InvalidRequest(
                f"model: this stream is one of {self._following.model}; open another for another model", field="model"
            )
        return self._following

    def _note(self, error: ServiceError) -> str:
        slug = kind_of(error).slug
        if isinstance(error, Unavailable) and self._worker.draining:
            raise _restart()
        if not isinstance(error, ClientGone | InternalError):
            self._worker.telemetry.rejected(slug)
        if isinstance(error, Unauthorized):
            raise Closed(UNKNOWN, "the API key of this stream is no longer taken: open another with one that is")
        return slug


def _restart() -> Closed:
    return Closed(RESTART, "the service is shutting down: open the stream at another replica")
