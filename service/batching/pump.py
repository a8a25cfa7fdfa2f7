"""Drives a scheduler on an asyncio loop: the only place where schedulers, threads and the loop meet.

Work that is estimated to be short runs on the loop itself: a hop to a thread and back costs more than it does.
Work that is long runs in a thread, and the loop goes on reading and answering meanwhile.
"""

import asyncio
from concurrent.futures import Executor, Future
from typing import Any, Protocol

# Measured with docs/decisions.md, "On the loop or in a thread": below this a hop costs more than it frees.
INLINE_S = 0.004


class Work(Protocol):
    """`run` may happen in a thread and never raises; `settle` happens on the loop, after it."""

    @property
    def estimate_s(self) -> float: ...
    def run(self) -> None: ...
    def settle(self) -> None: ...


class Scheduler(Protocol):
    def take(self) -> Work | None: ...


class Pump:
    """Takes work from one scheduler, a piece at a time, while there is any."""

    def __init__(self, scheduler: Scheduler, executor: Executor, *, inline_s: float = INLINE_S) -> None:
        self._scheduler, self._executor, self._inline_s = scheduler, executor, inline_s
        self._awake = False  # a turn is scheduled, or a piece of work is in a thread

    def wake(self) -> None:
        """There may be work: called from the loop after each submission."""
        if not self._awake:
            self._awake = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        work = self._scheduler.take()
        if work is None:
            self._awake = False
        elif work.estimate_s <= self._inline_s:
            work.run()
            self._settled(work)
        else:
            loop = asyncio.get_running_loop()

            def ran(future: "Future[Any]") -> None:
                if not future.cancelled():  # the executor was shut down: nobody waits for this work any more
                    loop.call_soon_threadsafe(self._settled, work)

            self._executor.submit(work.run).add_done_callback(ran)

    def _settled(self, work: Work) -> None:
        work.settle()
        # The next turn comes after the loop has read what arrived meanwhile: that is what fills the next batch.
        asyncio.get_running_loop().call_soon(self._turn)
