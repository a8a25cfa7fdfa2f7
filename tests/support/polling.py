"""Wait for a condition instead of sleeping for a fixed time, and notice that the machine paused."""

import asyncio
import time
from collections.abc import Callable

PAUSE_S = 2.0  # a shorter one is the normal delay of a busy machine
AFTER_PAUSE_S = 3.0  # until health checks that timed out are repeated


async def eventually(condition: Callable[[], bool], *, timeout_s: float = 5.0) -> None:
    """Give way to the event loop until ``condition`` holds. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.001)


async def turns(count: int = 20) -> None:
    """Let everything that is ready on the event loop run."""
    for _ in range(count):
        await asyncio.sleep(0)


def wait_until(condition: Callable[[], bool], *, timeout_s: float = 30.0) -> None:
    """Poll ``condition``, which looks at another process, until it holds. Raises TimeoutError."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end_s:
            raise TimeoutError
        time.sleep(0.05)


class Pauses:
    """Times in which the tests did not run, because the machine was suspended or its processes were stopped.

    All timers expire at once then, so a request that fails in such a time shows no fault of the service.
    """

    def __init__(self) -> None:
        self._found: list[tuple[float, float]] = []

    async def watch(self, on_pause: Callable[[float], None] = lambda seconds: None) -> None:
        """Look for pauses without end, and pass their length in seconds."""
        before_s = time.monotonic()
        while True:
            await asyncio.sleep(PAUSE_S / 4)
            now_s = time.monotonic()
            if now_s - before_s > PAUSE_S:
                self._found.append((before_s, now_s + AFTER_PAUSE_S))
                on_pause(now_s - before_s)
            before_s = now_s

    def total_s(self) -> float:
        return sum(end_s - AFTER_PAUSE_S - begin_s for begin_s, end_s in self._found)

    def overlap(self, begin_s: float, end_s: float) -> bool:
        """Return whether a pause, or the time shortly after it, overlaps a time on the monotonic clock."""
        return any(begin_s < ended_s and began_s < end_s for began_s, ended_s in self._found)
