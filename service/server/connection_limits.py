"""Limits on HTTP connections that uvicorn has no settings for.

uvicorn waits without limit for the rest of a request's head, buffers a head of any size, and waits without limit for a
client that does not read its answer. This protocol adds limits for those, and for the number of connections. It uses no
timers: ``ConnectionLimits.check`` visits all connections about once a second.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.api.pipeline import request_id_of
from service.api.problems import PROBLEM, headers_of, kind_of
from service.errors import HeadTooLarge, HeadTooSlow, Malformed, ServiceError, Unavailable
from service.settings import Settings
from service.telemetry import Telemetry

HEADER_FIELDS_MAX = 128  # browsers send about 20


class Connection(Protocol):
    """A connection under limits: HTTP, or a WebSocket."""

    def check_timeouts(self) -> None:
        """Close the connection if its client is too slow."""
        ...


class WriteStall:
    """Measures for how long a client has read nothing of what was sent to it."""

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._unread = 0  # bytes in the write buffer at the last look

    def start(self, now_s: float) -> None:
        """Note that the write buffer is full."""
        self._since_s, self._unread = now_s, 0

    def stop(self) -> None:
        """Note that the write buffer is almost empty."""
        self._since_s = None

    def seconds(self, transport: asyncio.WriteTransport, now_s: float) -> float:
        """Return the seconds since the client last read something, as far as successive calls can tell."""
        unread = transport.get_write_buffer_size()
        if self._since_s is None or unread < self._unread:
            self._since_s = now_s
        self._unread = unread
        return now_s - self._since_s


@dataclass(kw_only=True, eq=False)
class ConnectionLimits:
    """The limits of one worker and its open connections."""

    settings: Settings
    telemetry: Telemetry
    connections: set[Connection] = field(default_factory=set)

    def check(self) -> None:
        """Check the timeouts of every connection."""
        for connection in list(self.connections):
            connection.check_timeouts()


class LimitedHttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP connection under the ConnectionLimits in ``app.state.connection_limits``.

    Without them, it is uvicorn's. An answer that is due is always sent: an error that the bytes behind a request cause
    waits until the request is answered.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        state = getattr(self.config.app, "state", None)
        self.limits: ConnectionLimits | None = getattr(state, "connection_limits", None)
        self._idle = True  # the parser is between two requests
        self._new = True  # there was no request yet
        self._in_head = False
        self._head_bytes = 0  # of the current head; 0 if its start in a read is unknown
        self._read_bytes = 0  # of the current read
        self._head_starts_read = False
        self._client_turn_s = 0.0  # since when the service has been waiting for the client, if it is
        self._write_stall = WriteStall()
        self._parse_error: ServiceError | None = None  # raised in a parser callback, where httptools hides it
        self._pending_error: ServiceError | None = None  # sent after the answers that are due
        self._running: Any = None  # the request that is answered now, or was last

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._client_turn_s = self.loop.time()
        if self.limits is not None:
            self.limits.connections.add(self)
            limit = self.limits.settings.connections_max
            if len(self.limits.connections) > limit:
                self.reject(Unavailable(f"more than {limit} connections are open; retry in a second"))

    def connection_lost(self, exc: Exception | None) -> None:
        if self.limits is not None:
            self.limits.connections.discard(self)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True  # uvicorn tells only the newest request
            self._running.message_event.set()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection to the WebSocket protocol, which counts it again."""
        if self.limits is not None:
            self.limits.connections.discard(self)
        super().handle_websocket_upgrade()

    def data_received(self, data: bytes) -> None:
        """Parse what was read, and bound the size of an unfinished head."""
        if self._pending_error is not None:  # what follows malformed bytes cannot be parsed
            return
        self._read_bytes = len(data)
        self._head_starts_read = self._idle
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self.limits is not None and self._head_bytes > self.limits.settings.header_bytes:
            self.reject(_head_too_large(self.limits.settings.header_bytes))

    def on_message_begin(self) -> None:
        self.begin_head()
        super().on_message_begin()

    def begin_head(self) -> None:
        """Note that a head has begun."""
        # A head that begins behind another request in the same read has an unknown size until the next read.
        self._head_bytes = self._read_bytes if self._head_starts_read else 0
        self._head_starts_read = False
        self._idle, self._in_head, self._new = False, True, False
        self._client_turn_s = self.loop.time()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header field. Trailers, which follow a body, are ignored: they have no limit."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Check the head, and start the request."""
        self.check_head()
        super().on_headers_complete()

    def check_head(self) -> None:
        """Note that the head is complete, and check its size."""
        self._in_head = False
        if self.limits is not None:
            limit = self.limits.settings.header_bytes
            if len(self.headers) > HEADER_FIELDS_MAX:
                self._fail_parsing(
                    HeadTooLarge(
                        f"{len(self.headers)} header fields are over the limit of {HEADER_FIELDS_MAX}; send fewer",
                        limit=HEADER_FIELDS_MAX,
                    )
                )
            if self._read_bytes > limit or self._head_bytes > limit:
                size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
                if size > limit:
                    self._fail_parsing(_head_too_large(limit))

    def _fail_parsing(self, error: ServiceError) -> None:
        self._parse_error = error
        raise ValueError("rejected")  # the parser stops, and uvicorn calls send_400_response

    def on_message_complete(self) -> None:
        self._idle = True
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Remember the request that is answered now: ``cycle`` is the newest one."""
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Wait for the client again, or close the connection after the last answer that was due."""
        self._client_turn_s = self.loop.time()
        super().on_response_complete()
        if self._pending_error is not None and not self.is_busy():
            self._close_with(self._pending_error)

    def send_400_response(self, msg: str) -> None:
        """Reject bytes that are not HTTP, after the answers that are due."""
        del msg
        error = self._parse_error or Malformed("the bytes are not an HTTP request; the connection is closed")
        if self.pipeline and self.pipeline[0][0].more_body:  # the newest request, whose body is malformed
            self.pipeline.popleft()
            self.cycle = self.pipeline[0][0] if self.pipeline else self._running
        elif _is_active(self.cycle) and self.cycle.more_body:  # so is the only request
            self._close_with(error, send=not self.cycle.response_started)
            return
        self.reject(error)

    def is_busy(self) -> bool:
        """Whether a request is being worked on."""
        return bool(self.pipeline) or _is_active(self.cycle)

    def pause_writing(self) -> None:
        self._write_stall.start(self.loop.time())
        super().pause_writing()

    def resume_writing(self) -> None:
        self._write_stall.stop()
        super().resume_writing()

    def reject(self, error: ServiceError) -> None:
        """Close the connection with an error, after the answers that are due."""
        if self.is_busy():
            self._pending_error = error
            self.flow.pause_reading()
        else:
            self._close_with(error)

    def _close_with(self, error: ServiceError, *, send: bool = True) -> None:
        if self.transport.is_closing():
            return
        if self.limits is not None:
            self.limits.telemetry.rejected(kind_of(error).slug)
        if send:
            request_id = request_id_of(None)
            body = PROBLEM.body(error, request_id.decode())
            headers = [*self.server_state.default_headers, *headers_of(error), (b"x-request-id", request_id)]
            headers += [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
            lines = b"".join(b"%b: %b\r\n" % header for header in headers)
            self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[kind_of(error).status], lines, body))
        self.transport.close()

    def check_timeouts(self) -> None:
        assert self.limits is not None
        now_s, settings = self.loop.time(), self.limits.settings
        if self.flow.write_paused or self.transport.is_closing():
            if self._write_stall.seconds(self.transport, now_s) > settings.write_timeout_s:
                self.transport.abort()
        elif self._in_head or not self.is_busy():
            patience_s = settings.header_timeout_s
            if self._idle and not self._new:
                patience_s = max(patience_s, self.timeout_keep_alive)
            if now_s - self._client_turn_s > patience_s:
                if self._in_head:
                    limit = settings.header_timeout_s
                    self.reject(HeadTooSlow(f"the head took more than {limit:g} s; send it at once", limit=limit))
                else:
                    self.transport.close()


def _is_active(cycle: RequestResponseCycle | None) -> bool:
    return cycle is not None and not cycle.response_complete


def _head_too_large(limit: int) -> HeadTooLarge:
    return HeadTooLarge(f"the head is over the limit of {limit} bytes; send shorter header fields", limit=limit)
