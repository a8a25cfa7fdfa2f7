"""The fast path: requests to the native routes without ASGI, an asyncio.Task or timers.

A subclass of uvicorn's protocol. httptools parses the head and collects the body as it does for uvicorn. A POST to one
of the FastPath's routes is then given to the pipeline directly, with the connection as its transport. All other
requests take uvicorn's way to Starlette, as do those with a body that is long or slow to arrive.

What it saves: with an engine that answers at once, an answer takes 17 µs of CPU time on the fast path and 53 µs on
uvicorn's way (``python -m tests.support.edge_costs``). A sentence costs a small tagger 400 to 600 µs in all.

uvicorn's limit_concurrency, which BentoML does not set, is not applied here.
"""

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from uvicorn.config import HTTP_PROTOCOLS, WS_PROTOCOLS
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.api.pipeline import handle
from service.api.problems import Headers
from service.api.request_headers import RequestHeaders, body_too_large
from service.api.routes import Route
from service.errors import ClientGone
from service.server.connection_limits import ConnectionLimits, LimitedHttpProtocol
from service.server.websocket_limits import LimitedWebSocketProtocol
from service.worker import Worker

log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class FastPath:
    """What the connections of one worker share."""

    worker: Worker
    routes: Mapping[bytes, Route]  # by path
    _server_headers: Headers = field(default_factory=list)
    _server_lines: bytes = b""

    @property
    def has_cors(self) -> bool:
        """Whether requests of browsers need the CORS middleware."""
        return bool(self.worker.settings.cors_origins)

    def server_lines(self, headers: Headers) -> bytes:
        """Return uvicorn's own headers as bytes. uvicorn makes a new list of them every second."""
        if headers is not self._server_headers:
            self._server_headers = headers
            self._server_lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        return self._server_lines


def install(app: Starlette, worker: Worker, routes: Mapping[bytes, Route]) -> None:
    """Make uvicorn use the protocols of this package for ``app``.

    BentoML starts uvicorn and passes no protocol classes, so uvicorn's own choice is replaced.
    """
    limits = ConnectionLimits(settings=worker.settings, telemetry=worker.telemetry)
    worker.add_chore("connection timeouts", limits.check)
    app.state.connection_limits = limits
    app.state.fast_path = FastPath(worker=worker, routes=routes)
    HTTP_PROTOCOLS["auto"] = f"{__name__}:{FastPathProtocol.__name__}"
    WS_PROTOCOLS["auto"] = f"{LimitedWebSocketProtocol.__module__}:{LimitedWebSocketProtocol.__name__}"


class FastPathProtocol(LimitedHttpProtocol):
    """One connection. At most one of its requests is on the fast path, and only while no other is being answered."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        state = getattr(self.config.app, "state", None)
        self._fast_path: FastPath | None = getattr(state, "fast_path", None)
        self._incoming: FastRequest | None = None  # a request for the fast path whose body is not complete yet
        self._ready: FastRequest | None = None  # one that is complete and starts at the end of the read

    def data_received(self, data: bytes) -> None:
        """Parse what was read, then start the request that is complete."""
        super().data_received(data)
        if self._ready is not None:
            request, self._ready = self._ready, None
            request.start_handler()
        elif self._incoming is not None and sum(map(len, self._incoming.body)) > HIGH_WATER_LIMIT:
            self._leave_fast_path()

    def on_message_begin(self) -> None:
        """Start a request. uvicorn's own preparations wait until the request takes its way."""
        self.begin_head()
        self.url, self.headers = b"", []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header field, but no trailers."""
        if self._in_head:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Choose the way of the request."""
        self.check_head()
        fast_path = self._fast_path
        route = fast_path.routes.get(self.url) if fast_path is not None else None
        if fast_path is None or route is None or self.is_busy() or self.flow.write_paused:
            self._take_uvicorns_way()
            return
        parser, headers = self.parser, RequestHeaders(self.headers)
        if (
            parser.get_method() != b"POST"
            or parser.get_http_version() != "1.1"
            or not parser.should_keep_alive()
            or parser.should_upgrade()
            or headers.get(b"expect") is not None
            or (fast_path.has_cors and headers.get(b"origin") is not None)
            or self.transport.is_closing()
        ):
            self._take_uvicorns_way()
            return
        self.cycle = self._incoming = FastRequest(self, fast_path, route, headers)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        if self._incoming is not None:
            self._incoming.body.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._incoming is not None:
            self._idle = True
            self._running = self._ready = self._incoming
            self._running.more_body, self._incoming = False, None
        else:
            super().on_message_complete()

    def check_timeouts(self) -> None:
        """Leave a request whose body is slow to uvicorn's way, which has deadlines for it."""
        if self._incoming is not None:
            self._leave_fast_path()
        super().check_timeouts()

    def send_400_response(self, msg: str) -> None:
        """Reject bytes that are not HTTP, after the answers that are due."""
        self._incoming = None
        super().send_400_response(msg)

    def _take_uvicorns_way(self) -> None:
        url, headers = self.url, self.headers
        HttpToolsProtocol.on_message_begin(self)
        self.url = url
        self.headers += headers
        self.expect_100_continue = (b"expect", b"100-continue") in [(n, v.lower()) for n, v in headers]
        HttpToolsProtocol.on_headers_complete(self)

    def _leave_fast_path(self) -> None:
        assert self._incoming is not None
        body, self._incoming = b"".join(self._incoming.body), None
        self.cycle = None  # type: ignore[assignment]
        self._take_uvicorns_way()
        if body:
            HttpToolsProtocol.on_body(self, body)

    def finish(self, request: "FastRequest") -> None:
        """Go on after the answer to a request."""
        if request.disconnected:
            return
        if self.pipeline or self._pending_error is not None:
            self.on_response_complete()
        else:  # as uvicorn, but without its timer: check_timeouts() closes idle connections
            self.server_state.total_requests += 1
            self._client_turn_s = self.loop.time()
            self.flow.resume_reading()


class _NoEvent:
    """Stands for the asyncio.Event of a RequestResponseCycle."""

    def set(self) -> None:
        """Do nothing."""


class FastRequest:
    """One request on the fast path: the Transport of the pipeline, and for uvicorn the current RequestResponseCycle.

    It drives the coroutine of its handler itself: the first part runs at once, and later parts when the future that it
    waits for is done. That saves the creation of an asyncio.Task and two turns of the event loop. The coroutine has no
    current task, so nothing in it may use asyncio.timeout() or expect to be canceled; a client that disconnects is
    noticed by ``is_disconnected``. tests/service/server/test_fast_path.py fails when asyncio's futures change.
    """

    # What uvicorn reads and writes.
    message_event = _NoEvent()

    __slots__ = (
        *("_answer_ended", "_coroutine", "_fast_path", "_headers", "_protocol", "_route", "body", "disconnected"),
        *("keep_alive", "more_body", "response_complete", "response_started"),
    )

    def __init__(self, protocol: FastPathProtocol, fast_path: FastPath, route: Route, headers: RequestHeaders) -> None:
        self.body: list[bytes] = []  # as it arrived: adding up many small chunks would copy each of them often
        self.more_body = True
        self.disconnected = False
        self.keep_alive = True
        self.response_started = False
        self.response_complete = False
        self._answer_ended = False
        self._protocol = protocol
        self._fast_path = fast_path
        self._route, self._headers = route, headers
        self._coroutine: Coroutine[Any, Any, None] | None = None

    def start_handler(self) -> None:
        """Run the handler up to the first future that it waits for."""
        self._coroutine = handle(self._fast_path.worker, self._route, self, self._headers, path=self._route.pattern)
        self.step()

    def step(self, _: object = None) -> None:
        """Run the handler up to the next future that it waits for."""
        assert self._coroutine is not None
        try:
            waited: Any = self._coroutine.send(None)
        except StopIteration:
            self._finish()
        except (Exception, asyncio.CancelledError) as error:  # a bug: the pipeline answers every error itself
            log.critical("the pipeline failed", exc_info=error)
            self._finish()
        else:
            if waited is None:  # asyncio.sleep(0)
                self._protocol.loop.call_soon(self.step)
            else:
                waited._asyncio_future_blocking = False  # as asyncio.Task does: the future has been awaited
                waited.add_done_callback(self.step)

    def _finish(self) -> None:
        protocol = self._protocol
        if not self.disconnected and not self._answer_ended:  # a bug: what follows must not look like this answer
            self.keep_alive = False
            if not self.response_started:
                self._write(500, [(b"content-length", b"0")], b"")
        self.response_complete = True
        if not self.keep_alive and not self.disconnected:
            protocol.transport.close()
        protocol.finish(self)
        # Leave no reference cycle to the garbage collector, which runs rarely.
        self._coroutine = None
        self._protocol = None  # type: ignore[assignment]

    def is_disconnected(self) -> bool:
        return self.disconnected

    def client_address(self) -> str:
        client = self._protocol.client
        return client[0] if client else ""

    @property
    def body_complete(self) -> bool:
        return True

    async def read_body(self, limit: int) -> bytes:
        body, self.body = b"".join(self.body), []
        if len(body) > limit:
            raise body_too_large(limit, len(body))
        return body

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        if not self.disconnected:
            self._write(status, headers, body)
            self._answer_ended = True

    async def start(self, status: int, headers: Headers) -> None:
        if not self.disconnected:
            self._write(status, [*headers, (b"transfer-encoding", b"chunked")], b"")

    async def write(self, data: bytes) -> None:
        if not self.disconnected:
            self._protocol.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
            if self._protocol.flow.write_paused:
                await self._protocol.flow.drain()
        if self.disconnected:
            raise ClientGone

    async def end(self) -> None:
        if not self.disconnected:
            self._protocol.transport.write(b"0\r\n\r\n")
            self._answer_ended = True

    def abort(self) -> None:
        self._protocol.transport.abort()

    def _write(self, status: int, headers: Headers, body: bytes) -> None:
        server = self._fast_path.server_lines(self._protocol.server_state.default_headers)
        lines = [b"%b: %b\r\n" % header for header in headers]
        end = b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"
        self._protocol.transport.write(b"".join((STATUS_LINE[status], server, *lines, end, body)))
        self.response_started = True
