"""The worker: readiness, background tasks, and the start of the drain."""

import signal
from collections.abc import Iterator
from typing import cast

import pytest

from service import background, worker
from service.engine import Engine
from service.errors import Unavailable
from service.settings import Settings
from service.telemetry import RequestRecord
from service.worker import Worker
from tests.support.fake_engine import FakeEngine
from tests.support.polling import eventually


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """A worker whose background tasks run and restart at once."""
    monkeypatch.setattr(worker, "CHORES_S", 0.0)
    monkeypatch.setattr(background, "BACK_OFF_S", 0.0)
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
