"""Detection and restart of failed workers in the supervising process of ``bentoml serve``.

BentoML starts the workers through circus, which looks for dead ones every 10 s, logs nothing about them, and endlessly
restarts workers that cannot start. BentoML has no option for any of this, so its Arbiter is replaced.
"""

import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from bentoml._internal.utils import circus as bentoml_circus
from circus.exc import ConflictError

from service.worker import REPORTS

log = logging.getLogger(__name__)

START_FAILURES_MAX = 2  # in a row, in addition to one of each worker, while no worker is ready
BACK_OFF_S, BACK_OFF_MAX_S = 0.5, 30.0  # between failed starts while another worker is ready
CONFLICT_S = 0.1  # before another try, while circus is busy with a command

OnReady = Callable[[str], None]


class Arbiter(bentoml_circus.Arbiter):
    """Restarts a worker as soon as it has ended, and ends the service if no worker can start."""

    def __init__(self, watchers: list[Any], *args: Any, reports: int, on_ready: OnReady, **kwargs: Any) -> None:
        super().__init__(watchers, *args, **kwargs)
        self._reports, self._on_ready = reports, on_ready
        self._workers: set[int] = set()
        self._ready: set[int] = set()
        self._was_ready = False  # all workers at once
        self._failures = 0  # starts that failed in a row
        self._reason = ""  # of the last one
        self._retry_s = 0.0
        self._failed = False
        for watcher in watchers:
            watcher.hooks["after_spawn"] = self._spawned
        self.loop.asyncio_loop.add_signal_handler(signal.SIGCHLD, self._manage)
        self.loop.add_handler(reports, lambda *_: self._read_reports(), self.loop.READ)

    def start(self, cb: Callable[[Any], Any] | None = None) -> None:
        """Run until the service ends. Exits with status 1 if no worker could start."""
        super().start(cb)
        if self._failed:
            sys.exit(1)

    def stop(self) -> Any:
        """End the service. circus would lose a signal that arrives while it starts a worker."""
        try:
            return super().stop()
        except ConflictError:
            self.loop.asyncio_loop.call_soon_threadsafe(self.loop.call_later, CONFLICT_S, self.stop)
            return None

    def reap_processes(self) -> None:
        """Log and forget the workers that have ended. circus calls it before it starts others."""
        for pid, status in _ended_children():
            for watcher in self.watchers:
                if pid in watcher.processes:
                    watcher.reap_process(pid, status)
            if pid in self._workers:
                self._workers.discard(pid)
                self._ended(pid, os.waitstatus_to_exitcode(status))
        for watcher in self.watchers:  # without respawn and processes, circus would end the service
            watcher.respawn = self.loop.time() >= self._retry_s or not watcher.processes

    def _spawned(self, *, pid: int, **_: Any) -> bool:
        self._workers.add(pid)
        return True

    def _ended(self, pid: int, status: int) -> None:
        how = f"ended with status {status}"
        if status < 0:
            how = f"was killed by {signal.Signals(-status).name}"
            how += " (out of memory?)" if -status == signal.SIGKILL else ""
        self._read_reports()
        if pid in self._ready:
            self._ready.discard(pid)
            self._failures, self._retry_s = 0, 0.0
            log.error("worker %d %s; starting another one", pid, how)
            return
        self._failures += 1
        log.error("worker %d %s before it was ready", pid, how)
        delay_s = min(BACK_OFF_MAX_S, BACK_OFF_S * 2.0 ** (self._failures - 1))
        self._retry_s = self.loop.time() + delay_s
        self.loop.call_later(delay_s + CONFLICT_S, self._manage)
        workers = sum(watcher.numprocesses for watcher in self.watchers)
        if self._failures >= workers + START_FAILURES_MAX and not self._ready and not self._failed:
            self._failed = True
            log.critical("no worker can start, so the service exits: %s", self._reason or f"a worker {how}")
            self.loop.add_callback(self.stop)

    def _manage(self) -> None:
        if not self._stopping:
            try:
                self.manage_watchers()
            except ConflictError:
                self.loop.call_later(CONFLICT_S, self._manage)

    def _read_reports(self) -> None:
        found = b""
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._reports, 1 << 16):
                found += part
        for report in map(json.loads, found.splitlines()):
            if "failure" in report:
                self._reason = report["failure"]
                continue
            self._ready.add(report["pid"])
            self._failures = 0
            if not self._was_ready and len(self._ready) >= sum(watcher.numprocesses for watcher in self.watchers):
                self._was_ready = True
                self._on_ready(report["ready"])


def install(on_ready: OnReady) -> None:
    """Make BentoML use this Arbiter. Call it in the supervising process before the workers start.

    ``on_ready`` is called with what a worker has reported, once all are ready.
    """
    reports, reporting = os.pipe()
    for end in (reports, reporting):
        os.set_blocking(end, False)
    os.set_inheritable(reporting, True)
    os.environ[REPORTS] = str(reporting)

    def arbiter(*args: Any, **kwargs: Any) -> Arbiter:
        return Arbiter(*args, reports=reports, on_ready=on_ready, **kwargs)

    bentoml_circus.Arbiter = arbiter  # type: ignore[misc, assignment]


def _ended_children() -> Iterator[tuple[int, int]]:
    """Yield process id and wait status of each child that has ended."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            yield pid, status
