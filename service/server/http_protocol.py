"""One HTTP/1.1 connection: limits, pipelining, the fast path, and answers that reach their client.

A subclass of uvicorn's protocol, in which httptools parses. Three things differ:

* Requests to the routes of Edge take the fast path. Their body is collected, and the pipeline is called directly: no
  ASGI, asyncio.Task or timers. All other requests go through uvicorn to Starlette, as do those with a body that is
  long or slow to arrive. With an engine that answers immediately, ``python -m tests.support.edge_costs`` measures both.
* What a client sends is bounded: heads, waiting requests and the time to send and to read. uvicorn has no settings for
  these. There are no timers: ``ConnectionLimits.check`` visits all connections about once a second.
* An answer that is due is always sent. If later bytes cause an error, the error is sent after it. A connection is
  closed only after its client had time to stop sending: a reset would discard the answer.

uvicorn's limit_concurrency, which BentoML does not set, is not applied here.
"""

import asyncio
import logging
from collections.abc import Coroutine
from itertools import chain
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.api.pipeline import RequestContext, handle, request_id_of
from service.api.problems import PROBLEM, Headers, headers_of, kind_of
from service.api.request_headers import RequestHeaders, body_too_large
from service.api.routes import Route
from service.errors import ClientGone, HeadTooLarge, HeadTooSlow, Malformed, Overloaded, ServiceError
from service.server.connection_limits import Edge, WriteStall

log = logging.getLogger(__name__)

HEADER_FIELDS_MAX = 128  # browsers send about 20
PIECE_BYTES = 1024  # parsed at once. It bounds the requests in hand: the shortest has 18 bytes
LINGER_BYTES = 64 << 20  # read and discarded after a refusal, for the header timeout at most
DRAIN_LINGER_S = 1.0  # the shutdown waits for it
EOF_GRACE_S = 1.0  # for the answers that are due after a client has stopped sending, or has disconnected


class HttpProtocol(HttpToolsProtocol):
    """One connection. At most one of its requests is on the fast path, and only while no other is being answered."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._edge: Edge = self.config.app.state.edge  # type: ignore[union-attr]
        self._socket: asyncio.Transport = None  # type: ignore[assignment]  # `transport` closes in another way
        self._head_bytes_max = self._edge.worker.settings.header_bytes
        self.is_over_limit = False
        # The parser.
        self._rest, self._rest_start = b"", 0  # read and not parsed yet
        self._parsing = False
        self._idle = True  # between two requests
        self._new = True  # there was no request yet
        self._in_head = False
        self._head_bytes = 0  # of the current head, without its start if that is behind another request in a piece
        self._head_starts_piece = False
        self._body_left = 0  # bytes of the current body that have not arrived, where that is known
        self._discarded = 0  # bytes of the current body that came after its answer
        self._is_websocket = False
        self._parse_error: ServiceError | None = None  # raised in a parser callback, where httptools hides it
        # The requests.
        self._incoming: FastRequest | None = None  # for the fast path, with a body that is not complete
        self._running: Any = None  # the request that is answered now, or was last
        self._pending_error: ServiceError | None = None  # sent after the answers that are due
        self._pending_handshake: bytes | None = None  # of a WebSocket, with the bytes after it
        # Timeouts, on the clock of the loop.
        self._client_turn_s = 0.0  # since when the service has been waiting for the client, if it is
        self._write_stall = WriteStall()
        self._linger_until_s: float | None = None
        self._eof_s: float | None = None  # when the client stopped sending

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._socket = transport
        super().connection_made(GracefulTransport(self, transport))  # type: ignore[arg-type]
        self._client_turn_s = self.loop.time()
        self.is_over_limit = not self._edge.limits.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._edge.limits.remove(self)
        self._rest = b""
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True  # uvicorn notifies only the newest request
            self._running.message_event.set()
        super().connection_lost(exc)

    # What is read.

    def data_received(self, data: bytes) -> None:
        """Parse what was read, if nothing waits; discard it if the connection is being closed."""
        if self._linger_until_s is not None:
            self._discard(len(data))
        elif self._pending_error is not None:  # what follows malformed bytes cannot be parsed
            self.flow.pause_reading()
        elif self._rest or self.pipeline or self._pending_handshake is not None or len(data) > PIECE_BYTES:
            self._rest, self._rest_start = self._rest[self._rest_start :] + data, 0
            self._parse_rest()
        else:
            self._parse(data)

    def _parse_rest(self) -> None:
        """Parse what was read piece by piece, until a request waits for another to be answered."""
        if self._parsing or self.parser is None:
            return
        while self._rest:
            if self.pipeline or self.flow.write_paused or self._pending_handshake is not None:
                self.flow.pause_reading()  # on_response_complete or resume_writing goes on
                return
            if self._pending_error is not None or self._linger_until_s is not None:
                self._rest = b""
                return
            end = self._rest_start + max(PIECE_BYTES, self._body_left)
            piece = self._rest[self._rest_start : end]
            if end >= len(self._rest):
                self._rest, self._rest_start = b"", 0
            else:
                self._rest_start = end
            done = self.server_state.total_requests
            self._parse(piece)
            if self._rest and self.server_state.total_requests - done > 1:  # let other connections have a turn
                self.flow.pause_reading()
                self.loop.call_soon(self._parse_rest)
                return
        if not self.pipeline and (self.cycle is None or len(getattr(self.cycle, "body", b"")) <= HIGH_WATER_LIMIT):
            self.flow.resume_reading()

    def _parse(self, data: bytes) -> None:
        self._parsing = True
        try:
            self._head_bytes = self._head_bytes + len(data) if self._in_head else len(data)
            self._head_starts_piece = self._idle
            while True:
                try:
                    self.parser.feed_data(data)
                except httptools.HttpParserUpgrade as stop:
                    rest = data[stop.args[0] :]
                    if self._is_websocket:
                        self._pending_handshake = rest
                        break
                    data = self._without_upgrade() + rest
                    continue
                except httptools.HttpParserError:
                    self._reject_bytes()
                break
        finally:
            self._parsing = False
        if self._in_head and self._head_bytes > self._head_bytes_max:
            self.reject(_head_too_large(self._head_bytes_max))
        if self._pending_handshake is not None and not self.is_busy():
            self._start_websocket()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Send the answers that are due to a client that has stopped sending. It may also have disconnected."""
        if self._linger_until_s is not None:
            return None
        self._eof_s = self.loop.time()
        running = self._running
        if running is not None and not (running.response_complete or running.more_body):
            return True
        if not self._idle and not self._in_head:
            self._reject_bytes(Malformed("the connection was closed within a body; send all of it"))
        return None

    # Callbacks of the parser.

    def on_message_begin(self) -> None:
        """Start a request. uvicorn's own preparations wait until the request takes uvicorn's path."""
        self._idle, self._in_head, self._new = False, True, False
        self._is_websocket = False
        self._client_turn_s = self.loop.time()
        self.url, self.headers = b"", []
        if not self._head_starts_piece:
            self._head_bytes = 0
        self._head_starts_piece = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header field. Trailers, which follow a body, are ignored: they have no limit."""
        if self._in_head:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Check the head, and choose the path of the request."""
        self._in_head = False
        if self._linger_until_s is not None or self._socket.is_closing():
            raise ValueError("the last answer was sent")  # the parser stops
        fields, parser, edge = self.headers, self.parser, self._edge
        headers = RequestHeaders(fields)
        if len(headers) < len(fields):
            headers = RequestHeaders.of(fields)
        if self._head_bytes > self._head_bytes_max or len(fields) > HEADER_FIELDS_MAX:
            self._check_size()
        if self.url[:1] != b"/":
            self._read_target(headers)
        host = headers.get(b"host")
        if host not in edge.hosts.known or headers.repeated:
            self._check_host(headers)
        method = parser.get_method()
        if self.is_over_limit and self.url not in edge.probes:
            self._refuse_head(edge.limits.full())
        if parser.should_upgrade():
            self._is_websocket = self._check_upgrade(method, headers)
            return  # if it is not a handshake, its head is parsed again without the offer
        length = headers.get(b"content-length")
        self._body_left = int(length) if length is not None else 0
        route = edge.routes.get(method + self.url)
        if (
            route is None
            or self.pipeline
            or (self.cycle is not None and not self.cycle.response_complete)
            or self.flow.write_paused
            or self._body_left > HIGH_WATER_LIMIT
            or not parser.should_keep_alive()
            or (b"connection" in headers and parser.get_http_version() != "1.1")
            or b"expect" in headers
            or (edge.has_cors and b"origin" in headers)
        ):
            self._take_uvicorns_way()
        else:
            self.cycle = self._incoming = FastRequest(self, edge, route, headers)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        if self._body_left:
            self._body_left -= len(body)
        incoming = self._incoming
        if incoming is not None:
            incoming.body.append(body)
            incoming.body_bytes += len(body)
            if incoming.body_bytes > HIGH_WATER_LIMIT:
                self._leave_fast_path()
        elif self.cycle.response_complete:
            self._discard(len(body))
        else:
            self._client_turn_s = self.loop.time()
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._idle, self._body_left, self._discarded = True, 0, 0
        request = self._incoming
        if request is not None:
            self._incoming, self._running = None, request
            request.more_body = False
            request.start_handler()
        elif not self._is_websocket and not self.parser.should_upgrade():
            super().on_message_complete()

    def _check_size(self) -> None:
        """Check the size of a complete head, which may be part of a longer piece."""
        if len(self.headers) > HEADER_FIELDS_MAX:
            message = f"{len(self.headers)} header fields are over the limit of {HEADER_FIELDS_MAX}; send fewer"
            self._refuse_head(HeadTooLarge(message, limit=HEADER_FIELDS_MAX))
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > self._head_bytes_max:
            self._refuse_head(_head_too_large(self._head_bytes_max))

    def _read_target(self, headers: RequestHeaders) -> None:
        """Read a request target in absolute form (RFC 9112, 3.2.2). Its host replaces that of the header."""
        scheme, separator, rest = self.url.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            return  # the answer is uvicorn's
        end = min((at for at in map(rest.find, (b"/", b"?", b"#")) if at >= 0), default=len(rest))
        host, path = rest[:end], rest[end:]
        if b"@" in host:
            self._refuse_head(Malformed("the request target has user information; send it without"))
        self.url = path if path.startswith(b"/") else b"/" + path
        if b"host" in headers:
            headers[b"host"] = host
            self.headers[:] = [(name, host if name == b"host" else value) for name, value in self.headers]

    def _check_host(self, headers: RequestHeaders) -> None:
        host = headers.get(b"host")
        if host is None and self.parser.get_http_version() == "1.0":
            return
        if host is None or b"host" in headers.repeated:
            self._refuse_head(Malformed("a request has exactly one Host field; send one"))
        elif host not in self._edge.hosts.known:
            error = self._edge.hosts.check(headers, local=self.server[0] if self.server else "")
            if error is not None:
                self._refuse_head(error)

    def _check_upgrade(self, method: bytes, headers: RequestHeaders) -> bool:
        """Return whether a request opens a WebSocket. Other offers to change the protocol are ignored."""
        if method == b"CONNECT":
            self._refuse_head(Malformed("the service is not a proxy; send requests to its own routes"))
        return (
            method == b"GET"
            and self.parser.get_http_version() == "1.1"
            and headers.get(b"upgrade", b"").strip().lower() == b"websocket"
            and headers.get(b"content-length", b"0") == b"0"
            and b"transfer-encoding" not in headers
        )

    def _refuse_head(self, error: ServiceError) -> None:
        self._parse_error = error
        raise ValueError("refused")  # the parser stops, and _parse calls _reject_bytes

    def _without_upgrade(self) -> bytes:
        """Return the head without its offer, for a new parser: the old one expects no body, and stops."""
        lines = [b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade"]
        head = (self.parser.get_method(), b" ", self.url, b" HTTP/", self.parser.get_http_version().encode(), b"\r\n")
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return b"".join((*head, *lines, b"\r\n"))

    # The two paths of a request.

    def _take_uvicorns_way(self) -> None:
        url, headers = self.url, self.headers
        HttpToolsProtocol.on_message_begin(self)
        self.url = url
        self.headers += headers
        self.expect_100_continue = any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in headers
        )
        HttpToolsProtocol.on_headers_complete(self)
        if self._edge.worker.stopping or self.is_over_limit:
            self.cycle.keep_alive = False

    def _leave_fast_path(self) -> None:
        assert self._incoming is not None
        body, self._incoming = b"".join(self._incoming.body), None
        self.cycle = None  # type: ignore[assignment]
        self._take_uvicorns_way()
        if body:
            HttpToolsProtocol.on_body(self, body)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Remember the request that is answered now: ``cycle`` is the newest one."""
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _start_websocket(self) -> None:
        """Hand the connection to the WebSocket protocol."""
        assert self._pending_handshake is not None
        self._edge.limits.remove(self)
        self.connections.discard(self)
        lines = [b"%b: %b\r\n" % field for field in self.headers]
        head = b"".join((b"GET ", self.url, b" HTTP/1.1\r\n", *lines, b"\r\n"))
        protocol: Any = self.ws_protocol_class(  # type: ignore[call-arg, misc]
            config=self.config, server_state=self.server_state, app_state=self.app_state
        )
        protocol.connection_made(self._socket)
        self._socket.set_protocol(protocol)
        self._socket.resume_reading()
        protocol.data_received(head + self._pending_handshake + self._rest[self._rest_start :])
        self._pending_handshake, self._rest = None, b""

    # What follows an answer.

    def on_response_complete(self) -> None:
        """Continue with the waiting requests, or close the connection after the last answer that was due."""
        self._client_turn_s = self.loop.time()
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self._eof_s is not None and self.pipeline and self.pipeline[0][0].more_body:
            self.pipeline.popleft()  # it will never be complete
            self.cycle = self.pipeline[0][0] if self.pipeline else self._running
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        self._go_on()

    def finish(self, request: "FastRequest") -> None:
        """Continue after the answer to a request on the fast path."""
        if request.disconnected:
            return
        if self.pipeline:
            self.on_response_complete()
        else:
            self.server_state.total_requests += 1
            self._client_turn_s = self.loop.time()
            self.flow.resume_reading()
            if self._rest or self._pending_error or self._eof_s or self._pending_handshake is not None:
                self._go_on()

    def _go_on(self) -> None:
        if self._rest:
            self._parse_rest()
        if self._parsing or self.is_busy():
            return
        if self._pending_error is not None:
            self._close_with(self._pending_error)
        elif self._pending_handshake is not None:
            self._start_websocket()
        elif self._eof_s is not None:
            self.close()

    def is_busy(self) -> bool:
        """Whether a request is being worked on."""
        return bool(self.pipeline) or (self.cycle is not None and not self.cycle.response_complete)

    # Errors and the end.

    def reject(self, error: ServiceError) -> None:
        """Close the connection with an error, after the answers that are due."""
        if self.is_busy():
            self._pending_error = error
            self.flow.pause_reading()
        else:
            self._close_with(error)

    def _reject_bytes(self, error: ServiceError | None = None) -> None:
        """Reject bytes that are not HTTP, or a head that is refused."""
        error = error or self._parse_error or Malformed("the bytes are not an HTTP request; the connection is closed")
        self._rest, self._incoming = b"", None
        if self.pipeline and self.pipeline[0][0].more_body:  # the newest request, whose body is malformed
            self.pipeline.popleft()
            self.cycle = self.pipeline[0][0] if self.pipeline else self._running
        elif self.cycle is not None and self.cycle.more_body and not self.cycle.response_complete:  # the only request
            self._close_with(error, send=not self.cycle.response_started)
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            return
        self.reject(error)

    def _close_with(self, error: ServiceError, *, send: bool = True) -> None:
        if self.transport.is_closing():
            return
        self._edge.limits.telemetry.rejected(kind_of(error).slug)
        if send:
            request_id = request_id_of(None)
            body = PROBLEM.body(error, request_id.decode())
            headers = [*self.server_state.default_headers, *headers_of(error), (b"x-request-id", request_id)]
            headers += [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
            lines = b"".join(b"%b: %b\r\n" % header for header in headers)
            self._socket.write(b"%b%b\r\n%b" % (STATUS_LINE[kind_of(error).status], lines, body))
        self._idle = False  # the client may still be sending
        self.close()

    def close(self) -> None:
        """Close the connection. A client that may still be sending can read first: a reset would discard answers."""
        if self._linger_until_s is not None or self._socket.is_closing():
            return
        nothing_unread = self._idle and not self._rest and not self.flow.read_paused
        if nothing_unread or self._eof_s is not None or not self._socket.can_write_eof():
            self._socket.close()
            return
        worker = self._edge.worker
        linger_s = DRAIN_LINGER_S if worker.draining else worker.settings.header_timeout_s
        self._linger_until_s = self.loop.time() + linger_s
        self._discarded, self._rest = 0, b""
        self._socket.write_eof()
        self.flow.read_paused = True  # as far as it knows; make sure that reading goes on
        self.flow.resume_reading()

    def abort(self) -> None:
        """Close the connection immediately."""
        self._socket.abort()

    @property
    def is_lingering(self) -> bool:
        """Whether all answers are sent and further input from the client is discarded."""
        return self._linger_until_s is not None

    def shutdown(self) -> None:
        """End the connection when the server stops, after the answers that are due."""
        if self._linger_until_s is not None:
            self._socket.close()
        elif self.is_busy():
            self.cycle.keep_alive = False
        else:
            self.close()

    def _discard(self, count: int) -> None:
        self._discarded += count
        if self._discarded > LINGER_BYTES:
            self._socket.abort()

    def pause_writing(self) -> None:
        self._write_stall.start(self.loop.time())
        super().pause_writing()

    def resume_writing(self) -> None:
        self._write_stall.stop()
        super().resume_writing()
        if self._rest:
            self._parse_rest()

    def check_timeouts(self) -> None:
        """End the connection if its client is too slow. Called about once a second."""
        now_s, settings = self.loop.time(), self._edge.worker.settings
        if self._incoming is not None:  # uvicorn's path has deadlines for slow bodies
            self._leave_fast_path()
        if self._linger_until_s is not None:
            stuck = now_s > self._linger_until_s
        elif self.flow.write_paused or self._socket.is_closing():
            stuck = self._write_stall.seconds(self._socket, now_s) > settings.write_timeout_s
        elif self._eof_s is not None:
            waited_s = now_s - max(self._eof_s, self._client_turn_s)
            stuck = waited_s > EOF_GRACE_S and not self._running.response_started
        else:
            stuck = False
            if self._in_head or not self.is_busy():
                self._check_patience(now_s)
            elif not (self._idle or self.pipeline or self.flow.read_paused):
                self._check_body(now_s)
        if stuck:
            self._socket.abort()

    def _check_body(self, now_s: float) -> None:
        limit = self._edge.worker.settings.header_timeout_s
        if now_s - self._client_turn_s > limit:
            self._reject_bytes(
                HeadTooSlow(f"no part of the body arrived for {limit:g} s; send it without pauses", limit=limit)
            )

    def _check_patience(self, now_s: float) -> None:
        settings = self._edge.worker.settings
        limit = settings.header_timeout_s
        patience_s = settings.idle_timeout_s if self._idle and not self._new else limit
        if now_s - self._client_turn_s <= patience_s:
            return
        if self._in_head:
            self.reject(HeadTooSlow(f"the head took more than {limit:g} s; send it without pauses", limit=limit))
        else:
            self.close()


def _head_too_large(limit: int) -> HeadTooLarge:
    return HeadTooLarge(f"the head is over the limit of {limit} bytes; send shorter header fields", limit=limit)


class GracefulTransport:
    """The transport of a connection as uvicorn sees it: it is closed as HttpProtocol.close() does."""

    def __init__(self, protocol: HttpProtocol, transport: asyncio.Transport) -> None:
        self._protocol, self._transport = protocol, transport
        self.write, self.get_extra_info = transport.write, transport.get_extra_info

    def close(self) -> None:
        self._protocol.close()

    def is_closing(self) -> bool:
        return self._protocol.is_lingering or self._transport.is_closing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _NoEvent:
    """Stands for the asyncio.Event of a RequestResponseCycle."""

    def set(self) -> None:
        """Do nothing."""


class FastRequest:
    """One request on the fast path: the Transport of the pipeline, and for uvicorn the current RequestResponseCycle.

    It drives the coroutine of its handler itself: the first part runs at once, and later parts when the future that it
    waits for is done. That saves the creation of an asyncio.Task and two turns of the event loop. The coroutine has no
    current task, so nothing in it may use asyncio.timeout() or expect to be canceled; a client that disconnects is
    noticed by ``is_disconnected``. tests/service/server/test_http_protocol.py fails when asyncio's futures change.
    """

    # What uvicorn reads and writes.
    message_event = _NoEvent()

    __slots__ = (
        *("_answer_ended", "_coroutine", "_edge", "_headers", "_protocol", "_route", "body", "body_bytes"),
        *("disconnected", "keep_alive", "more_body", "response_complete", "response_started"),
    )

    def __init__(self, protocol: HttpProtocol, edge: Edge, route: Route, headers: RequestHeaders) -> None:
        self.body: list[bytes] = []  # as it arrived: adding up many small chunks would copy each of them often
        self.body_bytes = 0
        self.more_body = True
        self.disconnected = False
        self.keep_alive = not edge.worker.stopping and not protocol.is_over_limit
        self.response_started = False
        self.response_complete = False
        self._answer_ended = False
        self._protocol = protocol
        self._edge = edge
        self._route, self._headers = route, headers
        self._coroutine: Coroutine[Any, Any, RequestContext] | None = None

    def start_handler(self) -> None:
        """Run the handler up to the first future that it waits for. Under overload, a refusal is repeated instead."""
        refusals = self._edge.refusals
        if refusals.active:
            refusal = refusals.find(self._route, self.client_address(), self._headers, self.body)
            if refusal is not None:
                self._write_lines(429, *refusal)
                self._answer_ended = True
                self._finish()
                return
        self._coroutine = handle(
            self._edge.worker,
            self._route,
            self,
            self._headers,
            method="POST" if self._route.reads_body else "GET",
            path=self._route.pattern,
            path_params=self._route.path_params,
        )
        self.step()

    def step(self, _: object = None) -> None:
        """Run the handler up to the next future that it waits for."""
        assert self._coroutine is not None
        try:
            waited: Any = self._coroutine.send(None)
        except StopIteration as done:
            context: RequestContext = done.value
            if isinstance(context.error, Overloaded):
                refusals, client = self._edge.refusals, self.client_address()
                refusals.store(self._route, client, context, context.error, body_bytes=self.body_bytes)
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

    async def read_body(self, limit: int) -> bytes:
        return self.whole_body(limit)

    def whole_body(self, limit: int) -> bytes:
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
        self._write_lines(status, b"%b: %b\r\n" * len(headers) % tuple(chain.from_iterable(headers)), body)

    def _write_lines(self, status: int, lines: bytes, body: bytes) -> None:
        edge, protocol = self._edge, self._protocol
        if protocol.server_state.default_headers is not edge.server_headers:
            edge.server_headers = protocol.server_state.default_headers
            edge.server_lines = b"".join([b"%b: %b\r\n" % header for header in edge.server_headers])
        end = b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"
        protocol.transport.write(b"".join((STATUS_LINE[status], edge.server_lines, lines, end, body)))
        self.response_started = True
