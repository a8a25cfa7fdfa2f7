"""A connection to the service with the fake engine: bytes in, bytes out, no socket."""

import asyncio
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import orjson
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service.api.application import ROUTES, create_app, fast_routes
from service.api.routes import Route
from service.engine import Engine
from service.server.connection_limits import ConnectionLimits
from service.server.http_protocol import HttpProtocol
from service.server.install import install
from service.settings import Settings
from service.worker import Worker
from tests.support.fake_engine import FakeEngine

TAGGED = [{"entity": "A", "score": 0.75, "word": "a", "start": 0, "end": 1}]


class Transport(asyncio.Transport):
    """Keeps what is written, and says what was asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = self.paused = self.aborted = self.ended = False
        self.peer: Any = None
        self.local: Any = None
        self.left = 0  # bytes that the client has not taken

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": self.peer, "sockname": self.local}.get(name, default)

    def get_write_buffer_size(self) -> int:
        return self.left

    def write(self, data: Any) -> None:
        self.written += data

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.closed = self.ended = True

    def abort(self) -> None:
        self.closed = self.aborted = self.ended = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Wire:
    """A connection to a service with the fake engine."""

    def __init__(
        self,
        protocol: Callable[..., HttpToolsProtocol] = HttpProtocol,
        *,
        settings: dict[str, Any] | None = None,
        routes: tuple[Route, ...] = ROUTES,
        worker: Worker | None = None,
    ) -> None:
        values = Settings(**{"body_bytes": 300, **(settings or {})})
        self.worker = worker or Worker(values, lambda *args: cast(Engine, FakeEngine(*args)))
        if worker is None:
            self.worker.load()
        self.engine = cast(FakeEngine, self.worker.engine)  # unless a worker was passed
        self.app = create_app(self.worker, Starlette(), routes=routes)
        install(self.app, self.worker, partial(fast_routes, routes=routes))
        self.config = uvicorn.Config(app=self.app, log_config=None)
        self._protocol = protocol
        self.state = ServerState()
        self.connect()

    @property
    def limits(self) -> ConnectionLimits:
        return cast(ConnectionLimits, self.app.state.edge.limits)

    def connect(self, *, local: str = "") -> None:
        """Open another connection, to the address ``local``, and use it from now on."""
        self.transport = Transport()
        self.transport.local = (local, 3000) if local else None
        self.protocol = self._protocol(config=self.config, server_state=self.state, app_state={})
        self.protocol.connection_made(self.transport)

    def send(self, data: bytes) -> None:
        self.protocol.data_received(data)

    @property
    def is_busy(self) -> bool:
        return self.protocol.is_busy() if isinstance(self.protocol, HttpProtocol) else False

    async def answers(self, count: int) -> list[tuple[int, Any]]:
        """Wait for so many answers: status and body."""
        for _ in range(2000):
            found = list(read(self.transport.written))
            if len(found) >= count:
                return found
            await asyncio.sleep(0.001)
        raise TimeoutError(f"{len(found)} answers of {count}: {self.transport.written!r}")


class Clocked(Wire):
    """A connection whose clock the test moves."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(settings=settings)
        self.passed_s = 0.0
        self.protocol.loop = Loop(asyncio.get_running_loop(), self)  # type: ignore[assignment]

    def after(self, seconds: float) -> None:
        self.passed_s += seconds
        self.limits.check()

    @property
    def status(self) -> int:
        found = re.match(rb"HTTP/1.1 (\d+)", self.transport.written)
        return int(found[1]) if found else 0


class Loop:
    def __init__(self, loop: asyncio.AbstractEventLoop, wire: Clocked) -> None:
        self.loop, self.wire = loop, wire

    def time(self) -> float:
        return self.loop.time() + self.wire.passed_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loop, name)


def read(data: bytes) -> Iterator[tuple[int, Any]]:
    while b"\r\n\r\n" in data:
        head, _, rest = data.partition(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
        if len(rest) < length:
            return
        body = orjson.loads(rest[:length]) if head.split()[1] == b"200" else orjson.loads(rest[:length])["title"]
        yield int(head.split()[1]), body
        data = rest[length:]


def request(body: object, *heads: str, path: str = "/v1/tag", version: str = "1.1") -> bytes:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    lines = [f"POST {path} HTTP/{version}", "host: test", *heads, f"content-length: {len(content)}", "", ""]
    return "\r\n".join(lines).encode() + content
