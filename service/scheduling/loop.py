"""Drives a scheduler on an asyncio event loop. Schedulers, threads and the event loop meet only here.

Work that is estimated to be short runs on the event loop: switching to a thread and back would cost more. Long work
runs in a thread, and the event loop reads and answers other requests in that time.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

from service.errors import InternalError
from service.scheduling.job import Scheduler, Work

log = logging.getLogger(__name__)

INLINE_S = 0.004  # docs/decisions.md, "On the loop or in a thread", has the measurement
# When a thousand requests arrive at once, the event loop is busy for tens of milliseconds between two turns. One batch
# per turn would then leave little of the core to the queued requests. But a long turn delays everything else.
MAX_TURN_S = 0.008
# After a bug in a scheduler: the first retry is immediate, and each later one waits twice as long.
BACKOFF_S, MAX_BACKOFF_S = 0.05, 5.0
LOG_INTERVAL_S = 60.0


@dataclass
class LoopBudget:
    """The time that all scheduler loops of one event loop have used together."""

    spent_s: float = 0.0


class SchedulerLoop:
    """Runs the work of one scheduler, one piece at a time, while there is any.

    On the event loop it runs one piece a turn. If the event loop was busy with other things for longer than
    `inline_s` since the last turn, the turn lasts as long as that excess, MAX_TURN_S at most. Time spent in other
    scheduler loops does not count, so that loops do not extend each other's turns.

    A scheduler that raises has a bug. Its jobs fail, and the loop tries again with exponential backoff. From the
    second failure in a row until the queue is empty, `healthy` is False. The row ends when all queued work is done.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        *,
        clock: Callable[[], float],
        budget: LoopBudget,
        inline_s: float = INLINE_S,
    ) -> None:
        self._scheduler, self._executor, self._inline_s, self._clock = scheduler, executor, inline_s, clock
        self._budget = budget
        self._awake = False  # a turn is scheduled, or work runs in a thread
        # When the last turn ended, if another one was scheduled then, less the time spent by all loops until then.
        self._turn_ended_s: float | None = None
        self._failures = 0  # in a row
        self._works = False  # all work since the last failure has completed
        self._next_log_s: dict[tuple[str, int], float] = {}  # by the place that raised
        self.healthy = True

    def wake(self) -> None:
        """Schedule a turn, after work was submitted."""
        if not self._awake:
            self._awake = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        began_s = self._clock()
        busy_s = began_s - self._budget.spent_s - self._turn_ended_s if self._turn_ended_s is not None else 0.0
        until_s = began_s + min(max(0.0, busy_s - self._inline_s), MAX_TURN_S)
        try:
            while (work := self._scheduler.take()) is not None and work.estimate_s <= self._inline_s:
                work.run()
                work.complete()
                self._works = True
                if (now_s := self._clock()) >= until_s:
                    self._budget.spent_s += now_s - began_s
                    self._turn_ended_s = now_s - self._budget.spent_s
                    # The event loop first reads the requests that have arrived, which fill the next batch.
                    asyncio.get_running_loop().call_soon(self._turn)
                    return
            self._budget.spent_s += self._clock() - began_s
            self._turn_ended_s = None
            if work is None:
                self._awake, self.healthy = False, True
                if self._works:
                    self._failures = 0
            else:
                self._run_in_thread(work)
        except Exception as error:  # a bug must not leave any request without an answer
            self._fail(error)

    def _run_in_thread(self, work: Work) -> None:
        loop = asyncio.get_running_loop()

        def finished(future: "Future[Any]") -> None:
            if not future.cancelled():  # by a shutdown of the executor, which has failed its job
                loop.call_soon_threadsafe(self._complete, work, future)

        self._executor.submit(work.run).add_done_callback(finished)

    def _complete(self, work: Work, future: "Future[Any]") -> None:
        try:
            future.result()
            work.complete()
            self._works = True
            asyncio.get_running_loop().call_soon(self._turn)
        except Exception as error:  # as in _turn
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._turn_ended_s, self._works = None, False
        self._log(error)
        loop, failures = asyncio.get_running_loop(), self._failures
        self._failures += 1
        if failures:
            self.healthy = False
            loop.call_later(min(BACKOFF_S * 2.0 ** min(failures - 1, 20), MAX_BACKOFF_S), self._turn)
        else:
            loop.call_soon(self._turn)
        try:
            self._scheduler.abandon(InternalError())
        except Exception as another:  # the next turn tries again
            self._log(another)

    def _log(self, error: Exception) -> None:
        origin, now_s = _origin(error), self._clock()
        if now_s >= self._next_log_s.get(origin, now_s):
            self._next_log_s[origin] = now_s + LOG_INTERVAL_S
            log.critical("a scheduler failed (logged once a minute for each place)", exc_info=error)


def _origin(error: Exception) -> tuple[str, int]:
    """Return the file and line that raised an error, which identify a bug."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return (trace.tb_frame.f_code.co_filename, trace.tb_lineno) if trace is not None else (type(error).__name__, 0)
