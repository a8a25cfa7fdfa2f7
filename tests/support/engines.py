"""The real engine with tiny bundles, and requests to it."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from service.engine import Engine
from service.scheduling.job import InferenceRequest
from service.settings import Settings
from service.telemetry import Telemetry
from service.worker import Worker


def inference_request(
    *, timeout_s: float = 60.0, is_disconnected: Callable[[], bool] = lambda: False, client: str = ""
) -> InferenceRequest:
    return InferenceRequest(
        request_id="r",
        route="/v1/x",
        deadline_s=time.monotonic() + timeout_s,
        is_disconnected=is_disconnected,
        client=client,
    )


def load_engine(*bundles: Path, **settings: Any) -> Engine:
    """Load bundles, or directories of them, on the CPU."""
    return Engine.load(Settings(bundles=tuple(map(str, bundles)), device="cpu", **settings), Telemetry())


def used_slots(engine: Engine) -> int:
    """Return how many texts the engine's first generator is generating."""
    scheduler: Any = engine.runtime_for("generate", None).scheduler
    return int(scheduler.used_slots)


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Let the event loop run until a condition holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0)


@contextlib.contextmanager
def draining(worker: Worker) -> Iterator[None]:
    """Let a worker refuse requests as during its drain."""
    engine = worker.engine
    worker.refuse_requests()
    yield
    worker.stopping, worker.draining, worker.engine = False, False, engine
