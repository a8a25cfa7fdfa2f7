"""Heartbeats of the workers, and what the supervising process does about a worker that hangs.

Each worker sends a heartbeat from its event loop once a second. A watchdog inside the worker would not run if the
process is stopped, or if an extension holds Python's global lock (GIL), so the supervising process counts.
"""

import contextlib
import faulthandler
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Literal

from service.telemetry import LOOP_LAG, Telemetry
from service.worker import CHORES_S, report

LOOK_S = 1.0  # between two looks at the heartbeats
LATE_LOOKS = 3  # without a heartbeat, after which a worker counts as unresponsive
STACKS = signal.SIGUSR2  # makes a worker write the stacks of its threads to its standard error
STACKS_SHARE = 1 / 3  # of the limit, after which a worker writes its stacks

Action = Literal["write stacks", "resume", "kill"]


class Watchdog:
    """Counts the looks since the last heartbeat of each worker, by process id.

    It counts looks instead of seconds: if the whole machine or the supervising process was paused, no worker is late.
    ``limit_s``: without a heartbeat. ``start_s``: from the start of a worker to its first heartbeat.
    """

    def __init__(self, limit_s: float, *, start_s: float) -> None:
        self.start_s = start_s
        self._limit = int(limit_s / LOOK_S)  # 0: no worker is killed
        self._start_limit = int(start_s / LOOK_S) if self._limit else 0
        self._stacks = max(LATE_LOOKS, int(self._limit * STACKS_SHARE))
        self._late: dict[int, int] = {}  # looks since the last heartbeat
        self._starting: dict[int, int] = {}  # looks since the start, of workers without a heartbeat
        self._condemned: set[int] = set()

    def started(self, pid: int) -> None:
        """Note a worker that has been started."""
        self._starting[pid] = 0

    def beat(self, pid: int) -> int:
        """Note a heartbeat. Return the seconds since the last one if the worker was late, otherwise 0.

        A worker that is being killed stays so, even if it answers again.
        """
        if pid in self._condemned:
            return 0
        self._starting.pop(pid, None)
        late = self._late.get(pid, 0)
        self._late[pid] = 0
        return int(late * LOOK_S) if late >= self._stacks else 0

    def forget(self, pid: int) -> bool:
        """Forget a worker that has ended. Return whether the watchdog has killed it."""
        self._late.pop(pid, None)
        self._starting.pop(pid, None)
        was_condemned = pid in self._condemned
        self._condemned.discard(pid)
        return was_condemned

    def age_s(self, pid: int) -> float:
        """Return the seconds since the last heartbeat, and 0 for a worker without one."""
        return self._late.get(pid, 0) * LOOK_S

    def is_late(self, pid: int) -> bool:
        """Return whether a worker does not respond."""
        return self._late.get(pid, 0) >= LATE_LOOKS

    def look(self) -> Iterator[tuple[int, Action]]:
        """Count one look, and yield what is due for which worker."""
        stages = (self._late, self._limit, self._stacks), (self._starting, self._start_limit, 0)
        for looks, limit, stacks in stages:
            for pid in looks:
                looks[pid] += 1
                if limit and looks[pid] == limit:
                    self._condemned.add(pid)
                    yield pid, "resume"
                elif limit and looks[pid] > limit:
                    yield pid, "kill"
                elif looks[pid] == stacks:
                    yield pid, "write stacks"


# A stopped process handles no signal before it is resumed. It writes its stacks then, and is killed at the next look.
SIGNALS: dict[Action, tuple[signal.Signals, ...]] = {
    "write stacks": (STACKS,),
    "resume": (STACKS, signal.SIGCONT),
    "kill": (signal.SIGKILL,),
}


def apply(action: Action, pid: int) -> None:
    """Send the signals of an action, unless the worker has ended."""
    with contextlib.suppress(ProcessLookupError):
        for number in SIGNALS[action]:
            os.kill(pid, number)


class Heartbeat:
    """A chore of a worker: reports that the event loop runs, and records how late it ran.

    ``period_s``: after which it should be called again.
    """

    def __init__(
        self, telemetry: Telemetry, *, period_s: float = CHORES_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._telemetry, self._period_s, self._clock = telemetry, period_s, clock
        self._called_s: float | None = None

    def __call__(self) -> None:
        now_s = self._clock()
        if self._called_s is not None:
            self._telemetry.observe(LOOP_LAG, (), max(0.0, now_s - self._called_s - self._period_s))
        self._called_s = now_s
        report(beat=True)


def write_stacks_on_signal() -> None:
    """Write the stacks of all threads to the standard error on STACKS, even while a thread holds the GIL."""
    faulthandler.register(STACKS, file=sys.stderr, all_threads=True)
