"""What the connections of one worker share: their number and timeouts, the routes of the fast path, and host names."""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from service.api.problems import Headers
from service.api.routes import Route
from service.errors import Unavailable
from service.server.hosts import AllowedHosts
from service.server.refusals import RefusalCache
from service.settings import Settings
from service.telemetry import Telemetry
from service.worker import Worker

PROBE_CONNECTIONS = 64  # over the limit, for health probes; more close the oldest of them


class Connection(Protocol):
    """A connection under limits: HTTP, or a WebSocket."""

    def check_timeouts(self) -> None:
        """Close the connection if its client is too slow."""
        ...


class ProbeConnection(Connection, Protocol):
    """A connection over the limit."""

    def abort(self) -> None:
        """Close the connection immediately."""
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
    _over: deque[ProbeConnection] = field(default_factory=deque)  # over the limit, oldest first

    def add(self, connection: ProbeConnection) -> bool:
        """Add an HTTP connection. Return whether it is within the limit; if not, it may only send health probes."""
        within = len(self.connections) - len(self._over) < self.settings.connections_max
        self.connections.add(connection)
        if not within:
            self._over.append(connection)
            if len(self._over) > PROBE_CONNECTIONS:
                self._over[0].abort()
                self.remove(self._over[0])
        return within

    def remove(self, connection: Connection) -> None:
        """Forget a closed connection."""
        self.connections.discard(connection)
        if connection in self._over:
            self._over.remove(connection)  # type: ignore[arg-type]

    def full(self) -> Unavailable:
        """Return the error for a request on a connection over the limit."""
        return Unavailable(f"more than {self.settings.connections_max} connections are open; retry in a second")

    def check(self) -> None:
        """Check the timeouts of every connection."""
        for connection in list(self.connections):
            connection.check_timeouts()


@dataclass(kw_only=True, eq=False)
class Edge:
    """What the HTTP connections of one worker share. ``app.state.edge`` holds it."""

    worker: Worker
    limits: ConnectionLimits
    hosts: AllowedHosts
    routes: Mapping[bytes, Route]  # of the fast path, by method and path
    probes: frozenset[bytes]  # paths that are answered on connections over the limit
    server_headers: Headers = field(default_factory=list)  # uvicorn's own; it makes a new list every second
    server_lines: bytes = b""  # the same as bytes

    def __post_init__(self) -> None:
        self.has_cors = bool(self.worker.settings.cors_origins)  # requests of browsers need the CORS middleware
        self.refusals = RefusalCache(self.worker)
