"""How the supervising process decides when to start another worker."""

import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from service.server import supervisor


class Loop:
    """Duck-types tornado's event loop, with a clock that stands still."""

    def __init__(self) -> None:
        self.asyncio_loop = self
        self.READ = 1

    def time(self) -> float:
        return 100.0

    def add_signal_handler(self, *_: Any) -> None: ...
    def add_handler(self, *_: Any) -> None: ...
    def add_callback(self, *_: Any) -> None: ...
    def call_later(self, *_: Any) -> None: ...


class Workers:
    """Duck-types circus's Watcher: three workers, by process id."""

    def __init__(self) -> None:
        self.name, self.numprocesses, self.respawn = "workers", 3, True
        self.hooks: dict[str, Callable[..., bool]] = {}
        self.processes: dict[int, object] = {}

    def start(self, pid: int) -> None:
        self.processes[pid] = object()
        self.hooks["after_spawn"](pid=pid)

    def reap_process(self, pid: int, _: int) -> None:
        del self.processes[pid]


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The children that have ended: process id and wait status."""
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "waitpid", lambda *_: found.pop() if found else (0, 0))
    return found


def test_a_worker_that_was_ready_is_replaced_during_the_back_off_of_another(ended: list[tuple[int, int]]) -> None:
    reports, reporting = os.pipe()
    os.set_blocking(reports, False)
    workers = Workers()
    arbiter = supervisor.Arbiter(
        [workers], "tcp://127.0.0.1:0", "tcp://127.0.0.1:0", loop=Loop(), reports=reports, on_ready=lambda _: None
    )
    for pid in (1, 2, 3):
        workers.start(pid)
    for pid in (1, 2):
        os.write(reporting, json.dumps({"pid": pid, "ready": ""}).encode() + b"\n")
    ended.append((3, 1 << 8))
    arbiter.reap_processes()
    assert not workers.respawn  # back-off
    ended.append((1, signal.SIGKILL))
    arbiter.reap_processes()
    assert workers.respawn
    os.close(reports)
    os.close(reporting)
