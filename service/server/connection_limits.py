"""uvicorn's protocol with bounds: on the size of a head, on a client's time, and on the connections of a worker.

uvicorn bounds none of these: it waits for ever for the rest of a head, of any length, and for a client that does not
take its answer. There is no timer: once a second all connections are looked at. A client whose head is slow holds its
own connection, no task and no slot. Knows bytes and time, and nothing of what is asked.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.api.problems import PROBLEM, headers_of, kind_of
from service.api.request_context import mint_id
from service.api.request_headers import Head
from service.errors import HeadTooLarge, HeadTooSlow, Malformed, ServiceError, Unavailable
from service.settings import Settings
from service.telemetry import Telemetry

FIELDS_MOST = 128  # header fields of one request; browsers send about 20


class Connection(Protocol):
    """What is looked at: one that speaks HTTP, or has become a WebSocket."""

    def look(self) -> None:
        """End the connection if its client has had its time."""
        ...


class Stuck:
    """Since when a client has taken nothing of what is there for it."""

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._left = 0  # bytes that were there for it at the last look

    def begin(self, now_s: float) -> None:
        """There is more for it than it has taken."""
        self._since_s, self._left = now_s, 0

    def end(self) -> None:
        """It has taken (almost) all."""
        self._since_s = None

    def seconds(self, transport: asyncio.WriteTransport, now_s: float) -> float:
        """Look. A client on a slow line may take a long answer for as long as it takes some of it between two looks."""
        left = transport.get_write_buffer_size()
        if self._since_s is None or left < self._left:
            self._since_s = now_s
        self._left = left
        return now_s - self._since_s


@dataclass(kw_only=True, eq=False)
class Bounds:
    """What connections may hold, and those that there are."""

    settings: Settings
    telemetry: Telemetry
    connections: set[Connection] = field(default_factory=set)

    def sweep(self) -> None:
        """Look at every connection. To be called once a second."""
        for connection in list(self.connections):
            connection.look()


class Bounded(HttpToolsProtocol):
    """One connection, under the Bounds that its application has; without any, uvicorn's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bounds: Bounds | None = getattr(self.config.app, "bounds", None)
        self._between = True  # the parser is between two requests
        self._new = True  # there was not one request yet
        self._in_head = False
        self._fed = 0  # bytes since the head began, and what came with its beginning
        self._turn_since_s = 0.0  # since when the service waits for the client, if it does
        self._stuck = Stuck()  # or closing
        self._wrong: ServiceError | None = None  # what a callback found: the parser tells only that there was something

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See uvicorn."""
        super().connection_made(transport)
        self._turn_since_s = self.loop.time()
        if self._bounds is not None:
            self._bounds.connections.add(self)
            most = self._bounds.settings.connections_max
            if len(self._bounds.connections) > most:
                self.reject(Unavailable(f"{most} connections are open already: come back later"))

    def connection_lost(self, exc: Exception | None) -> None:
        """See uvicorn."""
        if self._bounds is not None:
            self._bounds.connections.discard(self)
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        """See uvicorn: another protocol takes the connection from here on, and its place here."""
        if self._bounds is not None:
            self._bounds.connections.discard(self)
        super().handle_websocket_upgrade()

    def data_received(self, data: bytes) -> None:
        """See uvicorn."""
        self._fed = self._fed + len(data) if self._in_head else len(data)
        super().data_received(data)
        if self._in_head and self._bounds is not None and self._fed > self._bounds.settings.header_bytes:
            self.reject(_too_large(self._bounds.settings.header_bytes))

    def on_message_begin(self) -> None:
        """See uvicorn."""
        self._between, self._in_head, self._new = False, True, False
        self._turn_since_s = self.loop.time()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """See uvicorn. What comes after the body is read by nobody, and could be without end."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """See uvicorn."""
        self._in_head = False
        if self._bounds is not None:
            most = self._bounds.settings.header_bytes
            if len(self.headers) > FIELDS_MOST:
                self._wrong = HeadTooLarge(f"more than {FIELDS_MOST} header fields: send fewer", limit=FIELDS_MOST)
            elif (
                self._fed > most and len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > most
            ):
                self._wrong = _too_large(most)
            if self._wrong is not None:
                raise ValueError("refused")  # the parser stops, and send_400_response is called
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """See uvicorn."""
        self._between = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """See uvicorn."""
        self._turn_since_s = self.loop.time()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP in our words."""
        self.reject(self._wrong or Malformed("what came is no HTTP request: the connection ends here"))

    def pause_writing(self) -> None:
        """See uvicorn."""
        self._stuck.begin(self.loop.time())
        super().pause_writing()

    def resume_writing(self) -> None:
        """See uvicorn."""
        self._stuck.end()
        super().resume_writing()

    def reject(self, error: ServiceError) -> None:
        """End the connection with an error, unless it is in the middle of an answer: then just end it."""
        if self.transport.is_closing():
            return
        if self._bounds is not None:
            self._bounds.telemetry.rejected(kind_of(error).slug)
        if self.cycle is None or self.cycle.response_complete:
            request_id = mint_id(Head.of("", "", []))
            body = PROBLEM.body(error, request_id.decode())
            headers = [*self.server_state.default_headers, *headers_of(error), (b"x-request-id", request_id)]
            headers += [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
            lines = b"".join(b"%b: %b\r\n" % header for header in headers)
            self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[kind_of(error).status], lines, body))
        self.transport.close()

    def look(self) -> None:
        """End the connection if its client has had its time."""
        assert self._bounds is not None
        now_s, settings = self.loop.time(), self._bounds.settings
        if self.flow.write_paused or self.transport.is_closing():
            if self._stuck.seconds(self.transport, now_s) > settings.write_timeout_s:
                self.transport.abort()
        elif self._is_the_clients_turn():
            patience_s = settings.header_timeout_s
            if self._between and not self._new:
                patience_s = max(patience_s, self.timeout_keep_alive)
            if now_s - self._turn_since_s > patience_s:
                if self._in_head:
                    self.reject(
                        HeadTooSlow(
                            f"the head of the request took more than {settings.header_timeout_s:g} s: send it at once",
                            limit=settings.header_timeout_s,
                        )
                    )
                else:
                    self.transport.close()

    def _is_the_clients_turn(self) -> bool:
        """Whether nothing is being worked on here: the next thing to come is the client's."""
        return self._in_head or self.cycle is None or self.cycle.response_complete


def _too_large(limit: int) -> HeadTooLarge:
    return HeadTooLarge(f"the head of the request is over {limit} bytes: send shorter header fields", limit=limit)
