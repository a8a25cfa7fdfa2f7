"""A worker's engine and the owner that runs its networks, on one loop: two processes but for the processes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from service.engine import Engine
from service.owner.remote import Connection
from service.owner.serve import Owner
from service.places import There
from service.settings import Settings
from service.telemetry import Telemetry


class Nobody:
    """Starts nothing."""

    def __call__(self) -> None:
        pass

    def reap(self) -> None:
        pass


@dataclass
class Pair:
    """`own` runs what `engine` is asked."""

    engine: Engine
    own: Engine
    owner: Owner
    server: asyncio.Server
    path: str

    async def end(self) -> None:
        """Let the owner's process end."""
        self.server.close()
        for guest in list(self.owner._guests):
            guest.peer.close()
        while self.owner.guests:
            await asyncio.sleep(0)


async def listen(own: Engine, path: str) -> tuple[Owner, asyncio.Server]:
    owner = Owner(own.lanes)
    return owner, await asyncio.get_running_loop().create_unix_server(owner.welcome, path)


@asynccontextmanager
async def owned(zoo: Path, *, settings: dict[str, Any] | None = None, **owners: Any) -> AsyncIterator[Pair]:
    """`settings` are the worker's, `owners` those of the owner."""
    values = Settings(bundles=(str(zoo),), device="cpu", **(settings or {}))
    own = Engine.load(Settings(bundles=(str(zoo),), device="cpu", **owners), Telemetry())
    with TemporaryDirectory() as folder:
        path = f"{folder}/owner"
        owner, server = await listen(own, path)
        room = asyncio.ensure_future(owner.tell_room())
        connection = Connection(path, owner.hello, clock=monotonic, start=Nobody())
        engine = Engine.open(values, Telemetry(), There(values, connection))
        engine.begin()
        pair = Pair(engine, own, owner, server, path)
        try:
            await until(lambda: engine.ready)
            yield pair
        finally:
            room.cancel()
            await engine.drain(5)
            await pair.end()
            await own.drain(5)


async def until(holds: Any) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.001)
