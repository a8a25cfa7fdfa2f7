"""One thread for work that holds Python's global lock (GIL), with rests that leave the core to the event loop."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from service.errors import Overloaded

REST = 3.0  # the thread rests this many times as long as it has worked: the event loop gets most of the core
QUEUE = 64  # calls that may wait for a thread

T = TypeVar("T")


class RestingThread:
    """Calls functions in one thread, one after another, and rests between them.

    A client that sends nothing but such work leaves most of the core to the event loop. ``name`` is that of the thread;
    ``what`` names the work in the error of a full queue. ``queue``: calls that may wait.
    """

    def __init__(
        self, name: str, what: str, *, queue: int = QUEUE, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._what, self._queue, self._sleep = what, queue, sleep
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._waiting = 0
        self._rested_s = 0.0  # time.monotonic: when the thread has rested

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Return ``function(*args)``. Raises what it raises, and Overloaded if the queue is full."""
        if self._waiting >= self._queue:
            raise Overloaded(f"{self._queue} {self._what} wait; retry later", retry_after_s=1.0, limit=self._queue)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._call, function, args)
        finally:
            self._waiting -= 1

    def _call(self, function: Callable[..., T], args: tuple[Any, ...]) -> T:
        if (left_s := self._rested_s - time.monotonic()) > 0:
            self._sleep(left_s)
        began_s = time.thread_time()
        try:
            return function(*args)
        finally:
            self._rested_s = time.monotonic() + REST * (time.thread_time() - began_s)
