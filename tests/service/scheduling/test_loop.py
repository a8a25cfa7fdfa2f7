"""The scheduler loop: short work on the event loop, long work in a thread, one piece at a time; and after a bug."""

import asyncio
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import pytest

from service.errors import ServiceError
from service.scheduling import loop as scheduler_loop
from service.scheduling.loop import LoopBudget, SchedulerLoop


class FakeWork:
    def __init__(self, queue: "FakeScheduler", name: str, estimate_s: float) -> None:
        self.queue, self.name, self.estimate_s = queue, name, estimate_s
        self.ran_in = self.completed_in = ""

    def run(self) -> None:
        self.ran_in = threading.current_thread().name
        self.queue.log.append(f"run {self.name}")

    def complete(self) -> None:
        self.completed_in = threading.current_thread().name
        self.queue.log.append(f"complete {self.name}")
        self.queue.completed.release()


class FakeScheduler:
    """Hands out the work that was put into it."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.queue: deque[FakeWork] = deque()
        self.completed = asyncio.Semaphore(0)

    def put(self, name: str, estimate_s: float = 0.0) -> FakeWork:
        self.queue.append(FakeWork(self, name, estimate_s))
        return self.queue[-1]

    def take(self) -> FakeWork | None:
        return self.queue.popleft() if self.queue else None

    def abandon(self, error: ServiceError) -> None:
        self.log.append(f"abandon {type(error).__name__}")

    async def wait_for(self, pieces: int) -> None:
        """Wait until so many pieces have completed, and let the loop take its next turns."""
        async with asyncio.timeout(5):
            for _ in range(pieces):
                await self.completed.acquire()
        await turns(3)


async def turns(count: int) -> None:
    """Let the event loop take so many turns."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1, thread_name_prefix="compute") as executor:
        yield executor


def drive(scheduler: Any, executor: ThreadPoolExecutor, **how: Any) -> SchedulerLoop:
    settings: dict[str, Any] = {"clock": monotonic, "budget": LoopBudget(), **how}
    loop = SchedulerLoop(scheduler, executor, **settings)
    loop.wake()
    return loop


async def test_short_work_runs_on_the_event_loop_and_long_work_in_a_thread(executor: ThreadPoolExecutor) -> None:
    scheduler = FakeScheduler()
    short, long = scheduler.put("short", 0.001), scheduler.put("long", 0.1)
    drive(scheduler, executor, inline_s=0.004)
    await scheduler.wait_for(2)
    here = threading.current_thread().name
    assert (short.ran_in, short.completed_in, long.completed_in) == (here, here, here)
    assert long.ran_in.startswith("compute")


async def test_pieces_run_one_after_the_other_in_their_order(executor: ThreadPoolExecutor) -> None:
    scheduler = FakeScheduler()
    for number in range(4):
        scheduler.put(str(number), 0.1 * (number % 2))
    drive(scheduler, executor).wake()
    await scheduler.wait_for(4)
    assert scheduler.log == [f"{what} {number}" for number in range(4) for what in ("run", "complete")]


async def test_it_sleeps_without_work_and_wakes_again(executor: ThreadPoolExecutor) -> None:
    scheduler = FakeScheduler()
    loop = drive(scheduler, executor)
    await turns(3)
    for number in range(2):
        scheduler.put(str(number))
        assert len(scheduler.log) == 2 * number
        loop.wake()
        await scheduler.wait_for(1)


async def test_the_event_loop_has_a_turn_between_two_pieces(executor: ThreadPoolExecutor) -> None:
    scheduler = FakeScheduler()
    scheduler.put("first")
    scheduler.put("second")
    drive(scheduler, executor)
    asyncio.get_running_loop().call_soon(scheduler.log.append, "a request is read")
    await scheduler.wait_for(2)
    log = scheduler.log
    assert log.index("complete first") < log.index("a request is read") < log.index("run second")


async def test_the_event_loop_continues_while_long_work_runs(executor: ThreadPoolExecutor) -> None:
    scheduler, started, release = FakeScheduler(), threading.Event(), threading.Event()
    work = scheduler.put("long", 1.0)

    def run() -> None:
        started.set()
        scheduler.log.append(f"released {release.wait(5)}")

    work.run = run  # type: ignore[method-assign]
    loop = drive(scheduler, executor)
    assert await asyncio.to_thread(started.wait, 5)
    loop.wake()
    release.set()
    await scheduler.wait_for(1)
    assert scheduler.log == ["released True", "complete long"]


async def test_work_that_a_shutdown_removed_from_the_thread_is_not_completed(executor: ThreadPoolExecutor) -> None:
    scheduler, release = FakeScheduler(), threading.Event()
    blocker = executor.submit(release.wait, 5)
    scheduler.put("never", 1.0)
    drive(scheduler, executor)
    await turns(3)
    executor.shutdown(wait=False, cancel_futures=True)
    release.set()
    await asyncio.wrap_future(blocker)
    await turns(3)
    assert scheduler.log == []


class BrokenWork(FakeWork):
    """Work with a bug in `complete`."""

    def complete(self) -> None:
        raise KeyError("a bug")


@pytest.mark.parametrize("estimate_s", [0.001, 0.1])
async def test_a_bug_fails_the_jobs_and_the_loop_continues(executor: ThreadPoolExecutor, estimate_s: float) -> None:
    scheduler = FakeScheduler()
    scheduler.queue.append(BrokenWork(scheduler, "broken", estimate_s))
    scheduler.put("next")
    loop = drive(scheduler, executor, inline_s=0.01)
    await scheduler.wait_for(1)
    assert scheduler.log == ["run broken", "abandon InternalError", "run next", "complete next"]
    assert loop.healthy


class BrokenScheduler(FakeScheduler):
    """A scheduler whose `take` raises until it is mended."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0
        self.broken = True

    def take(self) -> FakeWork | None:
        self.taken += 1
        if self.broken:
            raise KeyError("a bug")
        return super().take()


@pytest.mark.parametrize("estimate_s", [0.0, 1.0])
async def test_a_persistent_bug_backs_off_marks_the_loop_unhealthy_and_logs_once(
    executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, estimate_s: float
) -> None:
    scheduler, delays = BrokenScheduler(), []
    event_loop = asyncio.get_running_loop()

    def call_later(delay_s: float, callback: Any) -> None:
        delays.append(delay_s)
        event_loop.call_soon(callback)

    monkeypatch.setattr(event_loop, "call_later", call_later)
    loop = drive(scheduler, executor)
    await turns(15)
    assert not loop.healthy
    assert delays[:4] == [scheduler_loop.BACKOFF_S * factor for factor in (1, 2, 4, 8)]
    assert delays[-1] == scheduler_loop.MAX_BACKOFF_S
    assert len(delays) == scheduler.taken - 1
    assert len(caplog.records) == 1
    scheduler.broken = False
    await turns(2)
    assert loop.healthy
    scheduler.put("again", estimate_s)
    loop.wake()
    await scheduler.wait_for(1)
    assert scheduler.log[-1] == "complete again"
    scheduler.queue.append(BrokenWork(scheduler, "broken", estimate_s))
    loop.wake()
    await turns(3)
    assert loop.healthy  # the count of failures has started again


async def test_a_turn_is_longer_after_the_event_loop_was_busy(executor: ThreadPoolExecutor) -> None:
    scheduler, now_s = FakeScheduler(), [0.0]

    def take() -> FakeWork | None:
        now_s[0] += 0.003  # what each piece takes
        return FakeScheduler.take(scheduler)

    scheduler.take = take  # type: ignore[method-assign]
    for number in range(80):
        scheduler.put(str(number))
    taken: list[int] = []
    budget = LoopBudget()
    drive(scheduler, executor, inline_s=0.004, clock=lambda: now_s[0], budget=budget)
    # The time between two turns, and how much of it was spent in another scheduler loop.
    for busy_s, others_s in ((0.0, 0.0), (0.003, 0.0), (0.0115, 0.0), (0.0, 0.0), (9.0, 0.0), (9.0, 8.997)):
        before = len(scheduler.queue)
        now_s[0] += busy_s
        budget.spent_s += others_s
        await asyncio.sleep(0)
        taken.append(before - len(scheduler.queue))
    assert taken == [1, 1, 3, 1, 3, 1]  # of 3 ms each, until 8 ms have passed
