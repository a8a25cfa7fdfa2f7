"""How the supervising process decides when to start another worker, and when to give up."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import psutil
import pytest
from bentoml._internal.utils import circus as bentoml_circus
from circus.exc import ConflictError

from service.server import supervisor
from service.server.supervisor import DEATHS_S, RestartPolicy
from service.server.watchdog import Watchdog
from service.server.worker_metrics import WorkerMetrics

START_S = 8.0


class Loop:
    """Duck-types tornado's event loop, with a clock that stands still."""

    def __init__(self) -> None:
        self.asyncio_loop = self
        self.READ = 1
        self.later: list[Callable[[], object]] = []
        self.called: list[Callable[[], object]] = []

    def time(self) -> float:
        return 100.0

    def add_signal_handler(self, *_: Any) -> None: ...
    def add_handler(self, *_: Any) -> None: ...
    def add_callback(self, action: Callable[[], object]) -> None:
        self.called.append(action)

    def call_later(self, _: float, action: Callable[[], object]) -> None:
        self.later.append(action)


class Workers:
    """Duck-types circus's Watcher: three workers, by process id."""

    def __init__(self) -> None:
        self.name, self.numprocesses, self.respawn = "workers", 3, True
        self.hooks: dict[str, Callable[..., bool]] = {}
        self.processes: dict[int, object] = {}

    def start(self, pid: int) -> None:
        self.processes[pid] = SimpleNamespace(wid=pid)
        self.hooks["after_spawn"](watcher=self, pid=pid)

    def reap_process(self, pid: int, _: int) -> None:
        del self.processes[pid]


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The children that have ended: process id and wait status."""
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "waitpid", lambda *_: found.pop() if found else (0, 0))
    return found


class Service:
    """An Arbiter with three workers whose ends and reports a test makes."""

    def __init__(self, ended: list[tuple[int, int]]) -> None:
        self._ended = ended
        self.reports, self._reporting = os.pipe()
        os.set_blocking(self.reports, False)
        self.loop, self.workers, self.metrics = Loop(), Workers(), mock.create_autospec(WorkerMetrics)
        self.arbiter = supervisor.Arbiter(
            [self.workers],
            *("tcp://127.0.0.1:0", "tcp://127.0.0.1:0"),
            loop=self.loop,
            reports=self.reports,
            on_ready=lambda _: None,
            watchdog=Watchdog(5.0, start_s=START_S),
            metrics=self.metrics,
        )
        self.look = self.loop.later.pop()

    def start(self, pid: int, **report: object) -> None:
        self.workers.start(pid)
        if report:
            self.report(pid, **report)

    def report(self, pid: int, **report: object) -> None:
        os.write(self._reporting, json.dumps({"pid": pid, **report}).encode() + b"\n")

    def end(self, pid: int, status: int) -> None:
        self._ended.append((pid, status))
        self.arbiter.reap_processes()

    def close(self) -> None:
        os.close(self.reports)
        os.close(self._reporting)


@pytest.fixture
def service(ended: list[tuple[int, int]]) -> Iterator[Service]:
    found = Service(ended)
    yield found
    found.close()


def test_a_worker_that_was_ready_is_replaced_during_the_back_off_of_another(service: Service) -> None:
    for pid in (1, 2):
        service.start(pid, ready="")
    service.start(3)
    service.end(3, 1 << 8)
    assert not service.workers.respawn  # back-off
    service.end(1, signal.SIGKILL)
    assert service.workers.respawn


def test_a_worker_that_hangs_is_killed(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *signal_of: sent.append(signal_of))
    for pid in (1, 2):
        service.start(pid, ready="")
        service.report(pid, beat=True)
    for _ in range(6):
        service.report(2, beat=True)
        service.look()
    assert {pid for pid, _ in sent} == {1}
    assert sent[-1] == (1, signal.SIGKILL)
    service.end(1, signal.SIGKILL)
    service.metrics.ended.assert_called_once_with(1, "watchdog")


def test_a_worker_that_hangs_before_it_is_ready_is_killed(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *signal_of: sent.append(signal_of))
    for pid in (1, 2):
        service.start(pid)
    service.report(2, ready="")
    for _ in range(int(START_S)):
        service.report(2, beat=True)
        service.look()
    assert sent[-1] == (1, signal.SIGCONT)
    service.look()
    assert sent[-1] == (1, signal.SIGKILL)
    assert {pid for pid, _ in sent} == {1}
    service.end(1, signal.SIGKILL)
    service.metrics.ended.assert_called_once_with(1, "watchdog")


def test_while_the_service_stops_only_running_workers_can_hang(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    acted: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _: acted.append(pid))
    monkeypatch.setattr(psutil, "pid_exists", lambda pid: pid == 2)
    monkeypatch.setattr(bentoml_circus.Arbiter, "stop", lambda self: setattr(self, "_stopping", True))
    for pid in (1, 2):
        service.start(pid, ready="")
    service.arbiter.stop()
    for _ in range(6):
        service.look()
    assert set(acted) == {2}


def test_a_look_at_the_workers_during_another_one_is_repeated(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise ConflictError

    monkeypatch.setattr(bentoml_circus.Arbiter, "manage_watchers", refuse)
    assert service.arbiter.manage_watchers() is None
    again = service.loop.later.pop()
    managed: list[object] = []
    monkeypatch.setattr(bentoml_circus.Arbiter, "manage_watchers", lambda arbiter: managed.append(arbiter))
    again()
    assert managed == [service.arbiter]


def test_the_service_exits_if_workers_keep_ending(service: Service) -> None:
    for pid in range(1, 10):
        service.start(pid, ready="")
        service.end(pid, signal.SIGSEGV)
        assert service.loop.called == []
    service.start(10, ready="")
    service.end(10, signal.SIGSEGV)
    assert service.loop.called == [service.arbiter.stop]


def test_a_second_signal_reaches_the_workers(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *signal_of: sent.append(signal_of))
    monkeypatch.setattr(bentoml_circus.Arbiter, "stop", lambda self: setattr(self, "_stopping", True))
    service.start(1, ready="")
    service.arbiter.stop()
    assert sent == []
    service.arbiter.stop()
    assert sent == [(1, signal.SIGTERM)]


def test_replacements_wait_once_several_workers_have_ended() -> None:
    policy = RestartPolicy(workers=2)
    assert [policy.died(now_s) for now_s in range(7)] == [0, 0, 0, 0, 0.5, 1, 2]
    assert policy.retry_s == 6 + 2
    assert not policy.gives_up(any_ready=True)
    assert policy.died(7) == 4
    assert policy.gives_up(any_ready=True)


def test_only_recent_ends_count() -> None:
    policy = RestartPolicy(workers=1)
    for number in range(20):
        assert policy.died(number * (1 + DEATHS_S / 3)) == 0
    assert not policy.gives_up(any_ready=True)


def test_failed_starts_count_until_a_worker_is_ready() -> None:
    policy = RestartPolicy(workers=1)
    assert [policy.start_failed(0) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert policy.gives_up(any_ready=False)
    assert not policy.gives_up(any_ready=True)
    policy.started()
    assert not policy.gives_up(any_ready=False)
