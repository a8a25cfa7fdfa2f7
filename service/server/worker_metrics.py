"""Metrics of the worker processes, which the supervising process records: a worker that hangs cannot.

The supervising process also merges the metrics files of workers that have ended.
"""

import contextlib
import logging
import os
from collections import deque
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]

from service.telemetry import HEARTBEAT_AGE, WORKER_MEMORY, WORKER_STARTS, WORKERS, Telemetry

if TYPE_CHECKING:
    from service.server.watchdog import Watchdog

log = logging.getLogger(__name__)
DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
REASONS = ("start", "exit", "signal", "watchdog")


class WorkerMetrics:
    """Counts starts, and records state, memory and heartbeat of each worker.

    A worker has a number from 1, which its replacement may get again. ``environ``: that of the workers, which names
    the directory of the metrics files.
    """

    def __init__(self, environ: Mapping[str, str], *, workers: int) -> None:
        self._count = workers
        self._numbers: dict[int, int] = {}  # by process id
        self._first = workers  # that are still to start with the service
        self._ended: deque[str] = deque()  # reasons, of workers that are not replaced yet
        self._early = 0  # replacements whose predecessor has not been seen to end: circus has looked first
        self._unmerged: set[int] = set()  # process ids of workers that have ended
        self._directory = Path(environ[DIRECTORY])
        os.environ[DIRECTORY] = str(self._directory)
        from service.server import metrics_files  # imports prometheus_client, which reads the variable

        metrics_files.install()
        self._merge_ended = metrics_files.merge_ended
        self._telemetry = Telemetry()
        for reason in REASONS:
            self._telemetry.count(WORKER_STARTS, (reason,), 0)

    def started(self, pid: int, number: int) -> None:
        """Count a start."""
        self._numbers[pid] = number
        if self._first:
            self._first -= 1
            self._telemetry.count(WORKER_STARTS, ("start",))
        elif self._ended:
            self._telemetry.count(WORKER_STARTS, (self._ended.popleft(),))
        else:
            self._early += 1

    def ended(self, pid: int, reason: str) -> None:
        """Note the end of a worker. ``reason``: one of REASONS."""
        number = str(self._numbers.pop(pid))
        if self._early:
            self._early -= 1
            self._telemetry.count(WORKER_STARTS, (reason,))
        else:
            self._ended.append(reason)
        self._unmerged.add(pid)
        for metric in (WORKER_MEMORY, HEARTBEAT_AGE):
            self._telemetry.gauges[metric, (number,)] = 0

    def record(self, ready: Collection[int], watchdog: "Watchdog") -> None:
        """Record the state of all workers, and merge the files of those that have ended. Logs what fails."""
        late = {pid for pid in ready if watchdog.is_late(pid)}
        running = len(self._numbers)
        states = {
            "ready": len(ready) - len(late),
            "starting": running - len(ready),
            "unresponsive": len(late),
            "missing": max(0, self._count - running),
        }
        gauges = self._telemetry.gauges
        for state, count in states.items():
            gauges[WORKERS, (state,)] = count
        for pid, number in self._numbers.items():
            gauges[HEARTBEAT_AGE, (str(number),)] = watchdog.age_s(pid)
            with contextlib.suppress(psutil.Error):  # it has just ended
                gauges[WORKER_MEMORY, (str(number),)] = psutil.Process(pid).memory_info().rss
        try:
            self._telemetry.flush()
            if self._unmerged and self._merge_ended(self._directory, self._unmerged):
                self._unmerged.clear()
        except OSError as error:  # a full disk; the files stay, so nothing is lost
            log.warning("the metrics of the workers cannot be written: %s", error)
