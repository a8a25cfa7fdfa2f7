"""Heartbeats of workers, and what follows if they stop."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from service.server.watchdog import LATE_LOOKS, SIGNALS, Heartbeat, Watchdog, apply
from service.telemetry import Telemetry
from service.worker import REPORTS

LIMIT_S, START_S = 30, 100


def looks(watchdog: Watchdog, count: int) -> list[tuple[int, str]]:
    """Return what is due in some looks."""
    return [due for _ in range(count) for due in watchdog.look()]


def test_a_worker_that_hangs_writes_its_stacks_and_is_resumed_and_killed() -> None:
    watchdog = Watchdog(LIMIT_S, start_s=START_S)
    watchdog.beat(7)
    assert looks(watchdog, LIMIT_S // 3 - 1) == []
    assert looks(watchdog, 1) == [(7, "write stacks")]
    assert looks(watchdog, LIMIT_S - LIMIT_S // 3 - 1) == []
    assert looks(watchdog, 2) == [(7, "resume"), (7, "kill")]
    assert watchdog.forget(7)
    assert looks(watchdog, 2 * LIMIT_S) == []


def test_a_worker_that_sends_heartbeats_is_left_alone() -> None:
    watchdog = Watchdog(LIMIT_S, start_s=START_S)
    for _ in range(2 * LIMIT_S):
        watchdog.beat(7)
        assert looks(watchdog, 2) == []
        assert not watchdog.is_late(7)
    assert not watchdog.forget(7)


def test_a_worker_that_is_not_ready_in_time_is_killed() -> None:
    watchdog = Watchdog(LIMIT_S, start_s=START_S)
    watchdog.started(7)
    assert looks(watchdog, START_S - 1) == []
    assert not watchdog.is_late(7)
    assert looks(watchdog, 2) == [(7, "resume"), (7, "kill")]
    assert watchdog.forget(7)
    assert looks(watchdog, 2 * START_S) == []


def test_without_a_limit_a_worker_may_start_for_any_time() -> None:
    watchdog = Watchdog(0, start_s=START_S)
    watchdog.started(7)
    assert looks(watchdog, 2 * START_S) == []


def test_a_worker_that_is_ready_has_no_limit_of_its_start() -> None:
    watchdog = Watchdog(LIMIT_S, start_s=START_S)
    watchdog.started(7)
    for _ in range(2 * START_S):
        watchdog.beat(7)
        assert looks(watchdog, 1) == []


def test_a_late_worker_can_recover_until_it_is_resumed() -> None:
    watchdog = Watchdog(LIMIT_S, start_s=START_S)
    watchdog.beat(7)
    looks(watchdog, LIMIT_S - 1)
    assert watchdog.is_late(7)
    assert watchdog.age_s(7) == LIMIT_S - 1
    assert watchdog.beat(7) == LIMIT_S - 1
    assert not watchdog.is_late(7)
    looks(watchdog, LIMIT_S)
    watchdog.beat(7)  # after SIGCONT
    assert looks(watchdog, 1) == [(7, "kill")]


def test_without_a_limit_late_workers_write_their_stacks_only() -> None:
    watchdog = Watchdog(0, start_s=START_S)
    watchdog.beat(7)
    assert looks(watchdog, 1000) == [(7, "write stacks")]
    assert not watchdog.forget(7)


def test_a_short_delay_is_not_an_event() -> None:
    watchdog = Watchdog(5, start_s=START_S)
    watchdog.beat(7)
    assert looks(watchdog, LATE_LOOKS - 1) == []
    assert watchdog.beat(7) == 0


def test_a_heartbeat_is_reported_and_its_lag_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    reports, reporting = os.pipe()
    monkeypatch.setenv(REPORTS, str(reporting))
    telemetry, times = Telemetry(), iter([0.0, 1.0, 3.5])
    heartbeat = Heartbeat(telemetry, period_s=1.0, clock=lambda: next(times))
    for _ in range(3):
        heartbeat()
    os.close(reporting)
    with os.fdopen(reports) as lines:
        assert [json.loads(line) for line in lines] == [{"pid": os.getpid(), "beat": True}] * 3
    telemetry.flush()
    assert telemetry.registry is not None
    value: Callable[..., float | None] = telemetry.registry.get_sample_value
    assert value("seqserve_event_loop_lag_seconds_count") == 2
    assert value("seqserve_event_loop_lag_seconds_sum") == 1.5


# The names of the functions are in the stacks. A stopped process writes them when it is resumed.
HANG = """
import os, signal
from service.server.watchdog import write_stacks_on_signal

def hang(how):
    print("ready", flush=True)
    if how == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    while True:
        pass

write_stacks_on_signal()
hang({how!r})
"""


@pytest.mark.parametrize("how", ["busy", "stopped"])
def test_a_process_that_hangs_writes_its_stacks(how: str) -> None:
    command = [sys.executable, "-c", HANG.format(how=how)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        if how == "stopped":
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        apply("resume", process.pid)
        written = ""
        while " in hang" not in written:
            written += process.stderr.readline()
        apply("kill", process.pid)
        assert process.wait(20) == -signal.SIGKILL
    apply("kill", process.pid)  # that has ended


def test_the_stacks_are_written_before_the_process_runs_on() -> None:
    assert SIGNALS["resume"].index(SIGNALS["write stacks"][0]) < SIGNALS["resume"].index(signal.SIGCONT)
