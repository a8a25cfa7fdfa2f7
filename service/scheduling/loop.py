"""Drives a scheduler on an asyncio loop: the only place where schedulers, threads and the loop meet.

Work that is estimated to be short runs on the loop itself: a hop to a thread and back costs more than it does.
Work that is long runs in a thread, and the loop goes on reading and answering meanwhile.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, Protocol

from service.errors import InternalError, ServiceError

log = logging.getLogger(__name__)

# docs/decisions.md, "On the loop or in a thread", has the measurement and how much it is worth.
INLINE_S = 0.004
# Of one turn. When a thousand clients come at once the loop is busy for tens of milliseconds between two turns: a piece
# of work a turn would leave those who wait already with a small part of the core. But every pause is prolonged by it.
TURN_S = 0.008


class Work(Protocol):
    """`run` may happen in a thread and never raises; `settle` happens on the loop, after it."""

    @property
    def estimate_s(self) -> float: ...
    def run(self) -> None: ...
    def settle(self) -> None: ...


class Scheduler(Protocol):
    def take(self) -> Work | None: ...
    def abandon(self, error: ServiceError) -> None: ...


@dataclass
class LoopBudget:
    """What all pumps of one loop have spent on it together."""

    spent_s: float = 0.0


class SchedulerLoop:
    """Takes work from one scheduler, a piece at a time, while there is any.

    On the loop it takes one piece a turn. When the loop has had much else to do since the last turn, for longer than
    `inline_s`, it goes on for as long as that was longer, TURN_S at most, and to the end of the piece it is at. What
    other pumps do is none of that: they would prolong each other.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        *,
        clock: Callable[[], float],
        turns: LoopBudget,
        inline_s: float = INLINE_S,
    ) -> None:
        self._scheduler, self._executor, self._inline_s, self._clock = scheduler, executor, inline_s, clock
        self._turns = turns
        self._awake = False  # a turn is scheduled, or a piece of work is in a thread
        # When the last turn ended, if it left the next one to come, less what all pumps had spent by then.
        self._turned_s: float | None = None

    def wake(self) -> None:
        """There may be work: called from the loop after each submission."""
        if not self._awake:
            self._awake = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        began_s = self._clock()
        passed_s = began_s - self._turns.spent_s - self._turned_s if self._turned_s is not None else 0.0
        until_s = began_s + min(max(0.0, passed_s - self._inline_s), TURN_S)
        try:
            while (work := self._scheduler.take()) is not None and work.estimate_s <= self._inline_s:
                work.run()
                work.settle()
                if (now_s := self._clock()) >= until_s:
                    self._turns.spent_s += now_s - began_s
                    self._turned_s = now_s - self._turns.spent_s
                    # The next turn comes after the loop has read what arrived meanwhile: that fills the next batch.
                    asyncio.get_running_loop().call_soon(self._turn)
                    return
            self._turns.spent_s += self._clock() - began_s
            self._turned_s = None
            if work is None:
                self._awake = False
            else:
                self._send_away(work)
        except Exception as error:  # a bug of ours must not leave anybody waiting for ever
            self._give_up(error)

    def _send_away(self, work: Work) -> None:
        """Run in the thread, settle back on the loop."""
        loop = asyncio.get_running_loop()

        def ran(future: "Future[Any]") -> None:
            if not future.cancelled():  # the executor was shut down: nobody waits for this work any more
                loop.call_soon_threadsafe(self._came_back, work, future)

        self._executor.submit(work.run).add_done_callback(ran)

    def _came_back(self, work: Work, future: "Future[Any]") -> None:
        try:
            future.result()
            work.settle()
            asyncio.get_running_loop().call_soon(self._turn)
        except Exception as error:  # as in _turn
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._turned_s = None
        log.critical("a scheduler failed: everybody who waits for it is told", exc_info=error)
        self._scheduler.abandon(InternalError())
        asyncio.get_running_loop().call_soon(self._turn)  # what was abandoned is dropped there
