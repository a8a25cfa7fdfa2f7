"""Detection and restart of failed workers in the supervising process of ``bentoml serve``.

BentoML starts the workers through circus, which looks for dead ones every 10 s, logs nothing about them, and endlessly
restarts workers that cannot start. BentoML has no option for any of this, so its Arbiter is replaced.

A worker that has ended or that hangs is replaced immediately. If workers keep ending, replacements wait longer and
longer, and finally the service exits with status 1, so that its supervisor, such as Kubernetes, sees it.
"""

import contextlib
import json
import logging
import math
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import psutil  # type: ignore[import-untyped]
from bentoml._internal.utils import circus as bentoml_circus
from circus.exc import ConflictError

from service.server.watchdog import LOOK_S, Action, Watchdog, apply
from service.server.worker_metrics import WorkerMetrics
from service.worker import REPORTS

log = logging.getLogger(__name__)

START_FAILURES_MAX = 2  # in a row, in addition to one of each worker, while no worker is ready
BACK_OFF_S, BACK_OFF_MAX_S = 0.5, 30.0  # between failed starts while another worker is ready
DEATHS_S = 300.0  # the period in which the ends of workers that were ready are counted
CONFLICT_S = 0.1  # before another try, while circus is busy with a command

OnReady = Callable[[str], None]


class RestartPolicy:
    """When the next worker may start, and when to give up. Times are seconds on one clock.

    Of ``workers`` that were ready, ``workers`` + 2 may end within DEATHS_S before replacements have to wait, and twice
    as many before the service exits.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._deaths: deque[float] = deque()
        self._failures = 0  # starts that failed in a row
        self.retry_s = -math.inf  # when the next worker may start

    def started(self) -> None:
        """Note a worker that is ready."""
        self._failures = 0

    def start_failed(self, now_s: float) -> float:
        """Note a worker that has ended before it was ready. Return the seconds until the next may start."""
        self._failures += 1
        return self._wait(self._failures, now_s)

    def died(self, now_s: float) -> float:
        """Note the end of a worker that was ready. Return the seconds until the next may start."""
        self._failures = 0
        self._deaths.append(now_s)
        while self._deaths[0] < now_s - DEATHS_S:
            self._deaths.popleft()
        return self._wait(len(self._deaths) - self._workers - 2, now_s)

    def gives_up(self, *, any_ready: bool) -> bool:
        """Return whether the service has to exit."""
        no_start = self._failures >= self._workers + START_FAILURES_MAX and not any_ready
        return no_start or len(self._deaths) >= 2 * (self._workers + 2)

    def _wait(self, failures: int, now_s: float) -> float:
        delay_s = min(BACK_OFF_MAX_S, BACK_OFF_S * 2.0 ** (failures - 1)) if failures > 0 else 0.0
        self.retry_s = now_s + delay_s
        return delay_s


class Arbiter(bentoml_circus.Arbiter):
    """Replaces workers that have ended or hang, and ends the service if none can start or if they keep ending."""

    def __init__(
        self,
        watchers: list[Any],
        *args: Any,
        reports: int,
        on_ready: OnReady,
        watchdog: Watchdog,
        metrics: WorkerMetrics,
        **kwargs: Any,
    ) -> None:
        super().__init__(watchers, *args, **kwargs)
        self._reports, self._on_ready = reports, on_ready
        self._count = _count(watchers)
        self._workers: set[int] = set()
        self._ready: set[int] = set()
        self._was_ready = False  # all workers at once
        self._restarts, self._watchdog, self._metrics = RestartPolicy(self._count), watchdog, metrics
        self._reason = ""  # of the last failed start
        self._failed = False
        for watcher in watchers:
            watcher.hooks["after_spawn"] = self._spawned
        self.loop.asyncio_loop.add_signal_handler(signal.SIGCHLD, self._manage)
        self.loop.add_handler(reports, lambda *_: self._read_reports(), self.loop.READ)
        self.loop.call_later(LOOK_S, self._look)

    def start(self, cb: Callable[[Any], Any] | None = None) -> None:
        """Run until the service ends. Exits with status 1 if no worker could start, or if workers kept ending."""
        super().start(cb)
        if self._failed:
            sys.exit(1)

    def stop(self) -> Any:
        """End the service. circus would lose a signal that arrives while it starts a worker.

        The workers get a second signal, too: it ends their lame duck period.
        """
        if self._stopping:
            for pid in self._workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            return None
        try:
            return super().stop()
        except ConflictError:
            self.loop.asyncio_loop.call_soon_threadsafe(self.loop.call_later, CONFLICT_S, self.stop)
            return None

    def manage_watchers(self) -> Any:
        """Reap and start workers. circus also calls it every 10 s, perhaps while it is running."""
        try:
            return super().manage_watchers()
        except ConflictError:
            self.loop.call_later(CONFLICT_S, self._manage)
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
            watcher.respawn = self.loop.time() >= self._restarts.retry_s or not watcher.processes

    def _spawned(self, *, watcher: Any, pid: int, **_: Any) -> bool:
        self._workers.add(pid)
        self._watchdog.started(pid)
        self._metrics.started(pid, watcher.processes[pid].wid)
        return True

    def _ended(self, pid: int, status: int) -> None:
        self._read_reports()
        was_hung = self._watchdog.forget(pid)
        how, reason = f"ended with status {status}", "exit"
        if was_hung:
            how, reason = "was killed because it did not respond", "watchdog"
        elif status < 0:
            how, reason = f"was killed by {signal.Signals(-status).name}", "signal"
            how += " (out of memory?)" if -status == signal.SIGKILL else ""
        self._metrics.ended(pid, reason)
        was_ready, now_s = pid in self._ready, self.loop.time()
        self._ready.discard(pid)
        delay_s = self._restarts.died(now_s) if was_ready else self._restarts.start_failed(now_s)
        text = "; starting another one" if was_ready else " before it was ready"
        log.error("worker %d %s%s%s", pid, how, text, f" in {delay_s:g} s" if was_ready and delay_s else "")
        if delay_s:
            self.loop.call_later(delay_s + CONFLICT_S, self._manage)
        if self._restarts.gives_up(any_ready=bool(self._ready)) and not self._failed:
            self._failed = True
            problem = "workers keep ending" if was_ready else "no worker can start"
            cause = f"a worker {how}" if was_ready or not self._reason else self._reason
            log.critical("%s, so the service exits: %s", problem, cause)
            self.loop.add_callback(self.stop)

    def _look(self) -> None:
        """Look at the heartbeats, act on workers that hang, and record the state of all."""
        try:
            self._read_reports()
            if self._stopping:  # circus reaps the workers itself
                for pid in [pid for pid in self._workers if not psutil.pid_exists(pid)]:
                    self._workers.discard(pid)
                    self._watchdog.forget(pid)
            for pid, action in self._watchdog.look():
                self._act(pid, action)
            self._metrics.record(self._ready, self._watchdog)
        finally:
            self.loop.call_later(LOOK_S, self._look)

    def _act(self, pid: int, action: Action) -> None:
        if action != "kill":
            text = "its stacks follow" if action == "write stacks" else "its stacks follow, and it will be replaced"
            problem, seconds = "has not responded for", self._watchdog.age_s(pid)
            if pid not in self._ready:
                problem, seconds = "is not ready after", self._watchdog.start_s
            log.error("worker %d %s %g s; %s", pid, problem, seconds, text)
        apply(action, pid)

    def _manage(self) -> None:
        if not self._stopping:
            self.manage_watchers()

    def _read_reports(self) -> None:
        found = b""
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._reports, 1 << 16):
                found += part
        for report in map(json.loads, found.splitlines()):
            if "failure" in report:
                self._reason = report["failure"]
            elif "ready" in report:
                self._started(report["pid"], report["ready"])
            elif late_s := self._watchdog.beat(report["pid"]):
                log.warning("worker %d responds again after %g s", report["pid"], late_s)

    def _started(self, pid: int, example: str) -> None:
        self._ready.add(pid)
        self._watchdog.beat(pid)  # from now on, heartbeats are due
        self._restarts.started()
        if self._was_ready:
            log.info("worker %d is ready", pid)
        elif len(self._ready) >= self._count:
            self._was_ready = True
            self._on_ready(example)


def install(on_ready: OnReady, *, watchdog_s: float, start_s: float) -> None:
    """Make BentoML use this Arbiter. Call it in the supervising process before the workers start.

    ``on_ready`` is called with what a worker has reported, once all are ready. ``watchdog_s``: the seconds without a
    heartbeat after which a worker is replaced; 0: never. ``start_s``: those from its start until it is ready.
    """
    reports, reporting = os.pipe()
    for end in (reports, reporting):
        os.set_blocking(end, False)
    os.set_inheritable(reporting, True)
    os.environ[REPORTS] = str(reporting)

    def arbiter(watchers: list[Any], *args: Any, **kwargs: Any) -> Arbiter:
        metrics = WorkerMetrics(watchers[0].env, workers=_count(watchers))
        watchdog = Watchdog(watchdog_s, start_s=start_s)
        return Arbiter(
            watchers, *args, reports=reports, on_ready=on_ready, watchdog=watchdog, metrics=metrics, **kwargs
        )

    bentoml_circus.Arbiter = arbiter  # type: ignore[misc, assignment]


def _count(watchers: list[Any]) -> int:
    return sum(watcher.numprocesses for watcher in watchers)


def _ended_children() -> Iterator[tuple[int, int]]:
    """Yield process id and wait status of each child that has ended."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            yield pid, status
