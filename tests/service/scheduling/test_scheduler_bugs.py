"""A bug in any method of any scheduler fails its requests, backs off and is logged once."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import pytest

from service.scheduling import loop as scheduler_loop
from service.scheduling.job import Scheduler
from service.scheduling.loop import LoopBudget, SchedulerLoop
from tests.support.polling import eventually, turns
from tests.support.scheduling import Client, DecodingHarness, Item, SequenceHarness, TensorHarness

ASK: dict[type[Any], Callable[[Any], Client]] = {
    SequenceHarness: lambda harness: harness.ask(Item("a"), Item("b")),
    DecodingHarness: lambda harness: harness.ask("abc", "d"),
    TensorHarness: lambda harness: harness.ask("a"),
}
METRICS = ("batch", "queue_time", "prefill", "first_token", "tokens", "steps")


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


class Bug:
    """Makes one method of a scheduler, of its work, or of its metrics raise."""

    def __init__(self, harness: Any, place: str) -> None:
        self.harness, self.place = harness, place
        self.calls = 0
        self.mended = False
        scheduler: Any = harness.scheduler
        if place in METRICS:
            setattr(harness.metrics, place, self.wrap(lambda *_, **__: None))
        elif place in ("run", "complete"):
            take = scheduler.take

            def take_broken() -> Any:
                work = take()
                if work is not None:
                    setattr(work, place, self.wrap(getattr(work, place)))
                return work

            scheduler.take = take_broken
        else:
            setattr(scheduler, place, self.wrap(getattr(scheduler, place)))

    def wrap(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if not self.mended:
                raise KeyError("a bug")
            return method(*args, **kwargs)

        return call


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        *((kind, place) for kind in ASK for place in ("take", "run", "complete")),
        (SequenceHarness, "batch"),
        *((DecodingHarness, place) for place in ("queue_time", "prefill", "first_token", "tokens", "steps")),
        (DecodingHarness, "drop_cancelled"),
    ],
)
async def test_a_bug_fails_its_requests_and_does_not_spin(
    kind: type[Any],
    place: str,
    executor: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    harness, event_loop = kind(), asyncio.get_running_loop()
    bug, delays, due = Bug(harness, place), list[float](), list[Callable[[], None]]()
    scheduler: Scheduler = harness.scheduler

    def call_later(delay_s: float, callback: Callable[[], None]) -> None:
        delays.append(delay_s)
        due.append(callback)

    monkeypatch.setattr(event_loop, "call_later", call_later)
    loop = SchedulerLoop(scheduler, executor, clock=monotonic, budget=LoopBudget(), inline_s=1e9)
    clients = [ASK[kind](harness) for _ in range(3)]
    loop.wake()
    await turns(20)
    assert all(client.job.done for client in clients)
    assert "InternalError" in {client.error for client in clients} or place in METRICS  # recorded after the results
    for _ in range(5):  # later requests meet the same bug
        client = ASK[kind](harness)
        loop.wake()
        await turns(20)
        callbacks, due[:] = due[:], []
        for callback in callbacks:
            callback()
        await turns(20)
        assert client.job.done
        assert client.error == "InternalError" or place in METRICS
    assert bug.calls <= 20
    assert delays == sorted(delays)
    assert delays[0] == scheduler_loop.BACKOFF_S
    bugs = [record for record in caplog.records if record.name == scheduler_loop.__name__]
    assert len(bugs) == 1
    assert not scheduler.jobs
    assert not scheduler.queued_items
    assert not scheduler.queued_tokens
    bug.mended = True
    client = ASK[kind](harness)
    loop.wake()
    monkeypatch.undo()
    for callback in due:
        callback()
    await eventually(lambda: client.job.done)
    assert client.error is None
    await eventually(lambda: loop.healthy)


async def test_a_bug_in_the_clean_up_after_a_bug_is_logged_once(
    executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    harness, event_loop = SequenceHarness(), asyncio.get_running_loop()
    take, abandon = Bug(harness, "take"), Bug(harness, "abandon")
    delays: list[float] = []

    def call_later(delay_s: float, callback: Callable[[], None]) -> None:
        delays.append(delay_s)
        event_loop.call_soon(callback)

    monkeypatch.setattr(event_loop, "call_later", call_later)
    loop = SchedulerLoop(harness.scheduler, executor, clock=monotonic, budget=LoopBudget(), inline_s=1e9)
    client = harness.ask(Item("a"))
    loop.wake()
    await turns(15)
    assert not loop.healthy
    assert delays[-1] == scheduler_loop.MAX_BACKOFF_S
    assert len([record for record in caplog.records if record.name == scheduler_loop.__name__]) <= 2
    take.mended = abandon.mended = True
    monkeypatch.undo()
    await eventually(lambda: client.job.done)
