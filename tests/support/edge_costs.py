"""Measure what the HTTP layer costs per request: ``python -m tests.support.edge_costs``.

The engine answers at once, and there is no socket. Prints the CPU time of a request on the fast path and on uvicorn's
way, for an answer and for a 429, each the best of several rounds.
"""

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import uvloop

from models.tasks import TaggedInput
from service.engine import Engine
from service.errors import Overloaded
from service.settings import Settings
from service.worker import Worker
from tests.support.http_connection import Wire, request

ROUNDS, REQUESTS = 20, 1000
HEADERS = ("user-agent: python-requests/2.32", "accept: */*", "accept-encoding: gzip", "content-type: application/json")


class InstantEngine:
    """Duck-types service.engine.Engine."""

    open, full = True, False
    ready = True
    catalog = SimpleNamespace(references={})

    def defaults(self) -> dict[str, str]:
        return {"tag": "instant"}

    async def tag(self, *_: Any, **__: Any) -> TaggedInput:
        if self.full:
            raise Overloaded("4096 inputs are waiting", retry_after_s=1.0, limit=4096)
        return TaggedInput(["A"], [0.75], ["a"], [0], [1])


async def microseconds(path: str, *, full: bool = False, rounds: int = ROUNDS, requests: int = REQUESTS) -> float:
    """Return the µs of one request to ``path``, each with another request id."""
    engine = InstantEngine()
    engine.full = full
    worker = Worker(Settings(), lambda *_: cast(Engine, engine))
    worker.load()
    wire = Wire(worker=worker)
    ids = [f"x-request-id: job-{number}" for number in range(requests)]
    data = [request({"inputs": "a"}, *HEADERS, each, path=path) for each in ids]
    best_s = float("inf")
    for _ in range(rounds):
        started_s = time.process_time()
        for each in data:
            wire.send(each)
            while wire.is_busy:
                await asyncio.sleep(0)
            wire.transport.written = b""
        best_s = min(best_s, time.process_time() - started_s)
    return best_s / requests * 1e6


async def main() -> None:
    for name, path in (("fast path", "/v1/tag"), ("uvicorn's way", "/tag")):
        for kind, full in (("answer", False), ("429", True)):
            print(f"{name}, {kind}: {await microseconds(path, full=full):.1f} µs")


if __name__ == "__main__":
    uvloop.run(main())
