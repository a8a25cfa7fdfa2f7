"""Requests at a fixed rate, whether or not the service keeps up, and those that failed."""

import asyncio
import itertools
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

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

    ``failures``: what went wrong, as text. ``counts``: complete answers by kind.
    """

    url: str
    rate_per_s: float
    failures: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REQUESTS, 0))

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
            while not self._ends.is_set():
                group.create_task(self._send(client, next(kinds)))
                due_s += 1 / self.rate_per_s
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))

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
            self.failures.append(f"{kind} after {time.monotonic() - started_s:.2f} s: {problem[-300:]}")
        else:
            self.counts[kind] += 1
