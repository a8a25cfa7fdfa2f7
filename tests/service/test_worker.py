"""The worker: readiness, background tasks, and the start of the drain."""

import asyncio
import signal
from collections.abc import Iterator
from typing import cast

import pytest

from service import worker
from service.engine import Engine
from service.errors import Unavailable
from service.settings import Settings
from service.telemetry import RequestRecord
from service.worker import BACK_OFF_MAX_S, BACK_OFF_S, PERSISTENT_FAILURES, RECOVERY_S, Worker, every, supervise
from tests.support.fake_engine import FakeEngine
from tests.support.polling import eventually


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """A worker whose background tasks run and restart at once."""
    monkeypatch.setattr(worker, "CHORES_S", 0.0)
    monkeypatch.setattr(worker, "BACK_OFF_S", 0.0)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    found = Worker(Settings(), lambda *args: cast(Engine, FakeEngine(*args)))
    found.load()
    yield found
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_worker_is_not_ready_before_it_has_loaded() -> None:
    empty = Worker(Settings(), lambda *args: cast(Engine, FakeEngine(*args)))
    assert not empty.ready
    with pytest.raises(Unavailable):
        empty.engine.defaults()


async def test_a_background_task_that_keeps_failing_makes_the_worker_not_ready(loaded: Worker) -> None:
    def fail() -> None:
        raise OSError("no space left on device")

    loaded.add_chore("failing", fail)
    loaded.start()
    assert loaded.ready
    await eventually(lambda: not loaded.ready)
    await loaded.close()


async def test_a_task_that_fails_does_not_stop_the_others(loaded: Worker) -> None:
    calls = 0

    def fail() -> None:
        raise OSError("no space left on device")

    def count() -> None:
        nonlocal calls
        calls += 1

    loaded.add_chore("failing", fail)
    loaded.add_chore("counting", count)
    loaded.start()
    await eventually(lambda: not loaded.ready)
    before = calls
    await eventually(lambda: calls > before)
    await loaded.close()


async def test_a_signal_starts_the_drain_and_reaches_the_server(loaded: Worker) -> None:
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    drained = False

    def note() -> None:
        nonlocal drained
        drained = True

    loaded.on_drain(note)
    loaded.start()
    signal.raise_signal(signal.SIGTERM)
    assert received == [signal.SIGTERM]
    assert not loaded.ready
    with pytest.raises(Unavailable):
        loaded.engine.defaults()
    await eventually(lambda: drained)
    await loaded.close()


async def signaled(lame_duck_s: float) -> tuple[Worker, list[int]]:
    """Return a worker with a lame duck period after its first SIGTERM, and the signals that its server gets."""
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    found = Worker(Settings(lame_duck_s=lame_duck_s), lambda *args: cast(Engine, FakeEngine(*args)))
    found.load()
    found.start()
    signal.raise_signal(signal.SIGTERM)
    return found, received


async def test_in_the_lame_duck_period_a_worker_is_not_ready_and_takes_requests(loaded: Worker) -> None:
    found, received = await signaled(lame_duck_s=0.05)
    assert not found.ready
    assert found.engine.defaults()
    assert received == []
    await eventually(lambda: received == [signal.SIGTERM])
    with pytest.raises(Unavailable):
        found.engine.defaults()
    await found.close()


async def test_the_lame_duck_period_and_the_drain_are_announced(loaded: Worker) -> None:
    found, _ = await signaled(lame_duck_s=0.05)
    announced: list[str] = []
    found.on_stop(lambda: announced.append("stop"))
    found.on_drain(lambda: announced.append("drain"))
    await eventually(lambda: announced == ["stop"])
    await eventually(lambda: announced == ["stop", "drain"])
    await found.close()


async def test_a_second_signal_ends_the_lame_duck_period(loaded: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    found, received = await signaled(lame_duck_s=3600)
    signal.raise_signal(signal.SIGTERM)  # systemd signals all processes, and circus its workers
    assert found.engine.defaults()
    monkeypatch.setattr(worker, "SAME_SIGNAL_S", 0.0)
    signal.raise_signal(signal.SIGTERM)
    assert received == [signal.SIGTERM]
    with pytest.raises(Unavailable):
        found.engine.defaults()
    await found.close()


async def test_an_observer_that_fails_costs_no_request_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class FailingTracer:
        def __call__(self, _: object) -> None:
            raise OSError("the collector is away")

        def close(self) -> None:
            raise OSError("the collector is away")

    monkeypatch.setattr(worker, "open_tracer", lambda _: FailingTracer())
    found = Worker(Settings(access_log="all"), lambda *args: cast(Engine, FakeEngine(*args)))
    found.load()
    for observe in found.observers:
        observe(cast(RequestRecord, None))  # an access log line cannot be made of it, either
    found.start()
    await found.close()
    assert not found.ready


def test_a_worker_whose_shared_store_cannot_be_opened_counts_on_its_own(caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(rate_limit="5/s", rate_limit_store="sqlite:///nowhere/at/all.sqlite")
    found = Worker(settings, lambda *args: cast(Engine, FakeEngine(*args)))
    found.load()
    assert found.rate_limiter is not None
    found.rate_limiter.check()
    assert len(caplog.records) == 1


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
