"""Background tasks that restart after a failure."""

import asyncio

import pytest

from service.background import BACK_OFF_MAX_S, BACK_OFF_S, PERSISTENT_FAILURES, RECOVERY_S, every, supervise


class Time:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept_s: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds
        await asyncio.sleep(0)


async def test_a_failed_task_is_logged_and_restarted_with_back_off(caplog: pytest.LogCaptureFixture) -> None:
    time, runs, persistent = Time(), 0, 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs < 12:
            raise OSError("no space left on device")

    def note() -> None:
        nonlocal persistent
        persistent += 1

    await supervise("flush", run, on_persistent_failure=note, sleep=time.sleep, clock=lambda: time.now_s)
    assert time.slept_s[:3] == [BACK_OFF_S, 2 * BACK_OFF_S, 4 * BACK_OFF_S]
    assert max(time.slept_s) == BACK_OFF_MAX_S
    assert persistent == 1
    failures = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [bool(record.exc_info) for record in failures] == [True] + [False] * 10


async def test_a_failure_after_a_long_run_is_the_first_of_a_new_row() -> None:
    time, runs = Time(), 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs <= 2 * PERSISTENT_FAILURES:
            await time.sleep(RECOVERY_S)
            raise OSError

    await supervise("sweep", run, on_persistent_failure=pytest.fail, sleep=time.sleep, clock=lambda: time.now_s)
    assert set(time.slept_s) == {BACK_OFF_S, RECOVERY_S}


async def test_recovery_is_reported() -> None:
    time, runs, recovered = Time(), 0, asyncio.Event()

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs <= PERSISTENT_FAILURES:
            raise OSError
        await recovered.wait()

    task = supervise(
        "keys",
        run,
        on_persistent_failure=lambda: None,
        on_recovery=recovered.set,
        recovery_s=0.001,
        sleep=time.sleep,
        clock=lambda: time.now_s,
    )
    await asyncio.wait_for(task, 5)


async def test_an_action_is_called_periodically_until_it_raises() -> None:
    time, calls = Time(), 0

    def action() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk"):
        await every(2.0, action, sleep=time.sleep)
    assert time.slept_s == [2.0] * 3
