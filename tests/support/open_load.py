"""Requests at a fixed rate, whether or not the service keeps up, and those that failed."""

import asyncio
import itertools
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

from tests.support.polling import PAUSE_S, Pauses

TIMEOUT_S = 60.0
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "tag": ("/v1/tag", {"inputs": "the film is good and the plot is bad"}),
    "classify": ("/v1/classify", {"inputs": ["the film is good", "the plot is bad"]}),
    "generate": ("/v1/generate", {"inputs": "the", "parameters": {"max_new_tokens": 100, "seed": 1}}),
    "stream": ("/v1/generate_stream", {"inputs": "the", "parameters": {"max_new_tokens": 400, "seed": 1}}),
}


@dataclass(kw_only=True)
class OpenLoad:
    """Tag, classify, generate and event stream requests in turn, in a thread, while the block runs.

    ``counts``: complete answers by kind. A request that fails because the machine paused is in neither.
    """

    url: str
    rate_per_s: float
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REQUESTS, 0))
    pauses: Pauses = field(default_factory=Pauses)
    _failures: list[tuple[float, float, str]] = field(default_factory=list)  # began, ended, text

    @property
    def failures(self) -> list[str]:
        """What went wrong, as text."""
        return [text for began_s, ended_s, text in self._failures if not self.pauses.overlap(began_s, ended_s)]

    def __enter__(self) -> Self:
        self._ends = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.set()
        self._thread.join()

    async def _run(self) -> None:
        kinds, due_s = itertools.cycle(REQUESTS), time.monotonic()
        limits = httpx.Limits(max_connections=256, max_keepalive_connections=32)
        async with (
            httpx.AsyncClient(base_url=self.url, timeout=TIMEOUT_S, limits=limits) as client,
            asyncio.TaskGroup() as group,
        ):
            watch = asyncio.create_task(self.pauses.watch())
            while not self._ends.is_set():
                group.create_task(self._send(client, next(kinds)))
                due_s += 1 / self.rate_per_s
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                due_s = max(due_s, time.monotonic() - PAUSE_S)  # what was due in a longer pause is left out
            watch.cancel()

    async def _send(self, client: httpx.AsyncClient, kind: str) -> None:
        path, body = REQUESTS[kind]
        started_s = time.monotonic()
        try:
            response = await client.post(path, json=body)
            is_whole = kind != "stream" or '"finish_reason"' in response.text.rstrip().rpartition("data: ")[2]
            problem = "" if response.status_code == 200 and is_whole else f"{response.status_code} {response.text}"
        except httpx.HTTPError as error:
            problem = repr(error)
        if problem:
            ended_s = time.monotonic()
            self._failures.append((started_s, ended_s, f"{kind} after {ended_s - started_s:.2f} s: {problem[-300:]}"))
        else:
            self.counts[kind] += 1
