"""A connection to the service with the fake engine: bytes in, bytes out, no socket."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any, cast

import orjson
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service.api.application import ROUTES, create_app, fast_routes
from service.api.routes import Route
from service.engine import Engine
from service.server import fast_path
from service.server.connection_limits import ConnectionLimits
from service.server.fast_path import FastPathProtocol
from service.settings import Settings
from service.worker import Worker
from tests.support.fake_engine import FakeEngine

TAGGED = [{"entity": "A", "score": 0.75, "word": "a", "start": 0, "end": 1}]


class Transport(asyncio.Transport):
    """Keeps what is written, and says what was asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = self.paused = self.aborted = False
        self.peer: Any = None
        self.left = 0  # bytes that the client has not taken

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.peer if name == "peername" else default

    def get_write_buffer_size(self) -> int:
        return self.left

    def write(self, data: Any) -> None:
        self.written += data

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Wire:
    """A connection to a service with the fake engine."""

    def __init__(
        self,
        protocol: type[HttpToolsProtocol] = FastPathProtocol,
        *,
        keep_alive_s: int = 60,
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
        fast_path.install(self.app, self.worker, fast_routes(routes))
        self.config = uvicorn.Config(app=self.app, log_config=None, timeout_keep_alive=keep_alive_s)
        self._protocol = protocol
        self.state = ServerState()
        self.connect()

    @property
    def limits(self) -> ConnectionLimits:
        return cast(ConnectionLimits, self.app.state.connection_limits)

    def connect(self) -> None:
        """Open another connection and use it from now on."""
        self.transport = Transport()
        self.protocol = self._protocol(config=self.config, server_state=self.state, app_state={})
        self.protocol.connection_made(self.transport)

    def send(self, data: bytes) -> None:
        self.protocol.data_received(data)

    @property
    def is_busy(self) -> bool:
        return self.protocol.is_busy() if isinstance(self.protocol, FastPathProtocol) else False

    async def answers(self, count: int) -> list[tuple[int, Any]]:
        """Wait for so many answers: status and body."""
        for _ in range(2000):
            found = list(read(self.transport.written))
            if len(found) >= count:
                return found
            await asyncio.sleep(0.001)
        raise TimeoutError(f"{len(found)} answers of {count}: {self.transport.written!r}")


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
