"""Wait for a condition instead of sleeping for a fixed time."""

import asyncio
import time
from collections.abc import Callable


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
