"""The pump: short work on the loop, long work in a thread, one piece at a time."""

import asyncio
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import pytest

from service.errors import ServiceError
from service.scheduling.loop import LoopBudget, SchedulerLoop


class Work:
    def __init__(self, log: list[str], name: str, estimate_s: float) -> None:
        self.log, self.name, self.estimate_s = log, name, estimate_s
        self.ran_in = self.settled_in = ""

    def run(self) -> None:
        self.ran_in = threading.current_thread().name
        self.log.append(f"run {self.name}")

    def settle(self) -> None:
        self.settled_in = threading.current_thread().name
        self.log.append(f"settle {self.name}")


class Queue:
    """A scheduler that hands out what was put into it."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.waiting: deque[Work] = deque()

    def put(self, name: str, estimate_s: float = 0.0) -> Work:
        self.waiting.append(Work(self.log, name, estimate_s))
        return self.waiting[-1]

    def take(self) -> Work | None:
        return self.waiting.popleft() if self.waiting else None

    def abandon(self, error: ServiceError) -> None:
        self.log.append(f"abandon {type(error).__name__}")


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1, thread_name_prefix="compute") as executor:
        yield executor


async def quiet(queue: Queue, pieces: int) -> None:
    """Wait until so many pieces of work are settled, and then for what may still come."""
    async with asyncio.timeout(5):
        while sum(entry.startswith("settle") for entry in queue.log) < pieces:
            await asyncio.sleep(0.001)
    for _ in range(3):
        await asyncio.sleep(0)


async def test_short_work_runs_on_the_loop_and_long_work_in_a_thread(executor: ThreadPoolExecutor) -> None:
    queue = Queue()
    short, long = queue.put("short", 0.001), queue.put("long", 0.1)
    SchedulerLoop(queue, executor, clock=monotonic, turns=LoopBudget(), inline_s=0.004).wake()
    await quiet(queue, 2)
    here = threading.current_thread().name
    assert (short.ran_in, short.settled_in, long.settled_in) == (here, here, here)
    assert long.ran_in.startswith("compute")


async def test_pieces_run_one_after_the_other_in_their_order(executor: ThreadPoolExecutor) -> None:
    queue = Queue()
    for number in range(4):
        queue.put(str(number), 0.1 * (number % 2))
    pump = SchedulerLoop(queue, executor, clock=monotonic, turns=LoopBudget())
    pump.wake()
    pump.wake()
    await quiet(queue, 4)
    assert queue.log == [f"{what} {number}" for number in range(4) for what in ("run", "settle")]


async def test_it_sleeps_when_there_is_nothing_and_wakes_again(executor: ThreadPoolExecutor) -> None:
    queue = Queue()
    pump = SchedulerLoop(queue, executor, clock=monotonic, turns=LoopBudget())
    pump.wake()
    await quiet(queue, 0)
    for number in range(2):
        queue.put(str(number))
        assert len(queue.log) == 2 * number
        pump.wake()
        await quiet(queue, number + 1)


async def test_the_loop_has_its_turn_between_two_pieces(executor: ThreadPoolExecutor) -> None:
    queue = Queue()
    queue.put("first")
    queue.put("second")
    SchedulerLoop(queue, executor, clock=monotonic, turns=LoopBudget()).wake()
    asyncio.get_running_loop().call_soon(queue.log.append, "a request is read")
    await quiet(queue, 2)
    assert queue.log.index("settle first") < queue.log.index("a request is read") < queue.log.index("run second")


async def test_the_loop_goes_on_while_long_work_runs(executor: ThreadPoolExecutor) -> None:
    queue, release = Queue(), threading.Event()
    work = queue.put("long", 1.0)
    work.run = lambda: queue.log.append(f"released {release.wait(5)}")  # type: ignore[method-assign]
    pump = SchedulerLoop(queue, executor, clock=monotonic, turns=LoopBudget())
    pump.wake()
    await asyncio.sleep(0.01)
    pump.wake()
    release.set()
    await quiet(queue, 1)
    assert queue.log == ["released True", "settle long"]


async def test_work_that_the_shutdown_took_out_of_the_thread_is_not_settled(executor: ThreadPoolExecutor) -> None:
    queue, release = Queue(), threading.Event()
    executor.submit(release.wait, 5)
    queue.put("never", 1.0)
    SchedulerLoop(queue, executor, clock=monotonic, turns=LoopBudget()).wake()
    await asyncio.sleep(0.01)
    executor.shutdown(wait=False, cancel_futures=True)
    release.set()
    await asyncio.sleep(0.01)
    assert queue.log == []


class Broken(Work):
    """A piece of work with a bug in its end."""

    def settle(self) -> None:
        raise KeyError("a bug of ours")


@pytest.mark.parametrize("estimate_s", [0.001, 0.1])
async def test_a_bug_in_a_scheduler_is_told_to_its_waiters_and_the_pump_goes_on(
    executor: ThreadPoolExecutor, estimate_s: float
) -> None:
    queue = Queue()
    queue.waiting.append(Broken(queue.log, "broken", estimate_s))
    queue.put("next")
    SchedulerLoop(queue, executor, clock=monotonic, turns=LoopBudget(), inline_s=0.01).wake()
    await quiet(queue, 1)
    assert queue.log == ["run broken", "abandon InternalError", "run next", "settle next"]


async def test_a_turn_is_the_longer_the_more_else_the_loop_had_to_do(executor: ThreadPoolExecutor) -> None:
    queue, now_s = Queue(), [0.0]

    def take() -> Work | None:
        now_s[0] += 0.003  # what each piece takes
        return Queue.take(queue)

    queue.take = take  # type: ignore[method-assign]
    for number in range(80):
        queue.put(str(number))
    taken: list[int] = []
    turns = LoopBudget()
    SchedulerLoop(queue, executor, inline_s=0.004, clock=lambda: now_s[0], turns=turns).wake()
    # Between two turns, and how much of it was another pump's.
    for passed_s, others_s in ((0.0, 0.0), (0.003, 0.0), (0.0115, 0.0), (0.0, 0.0), (9.0, 0.0), (9.0, 8.997)):
        before = len(queue.waiting)
        now_s[0] += passed_s
        turns.spent_s += others_s
        await asyncio.sleep(0)
        taken.append(before - len(queue.waiting))
    assert taken == [1, 1, 3, 1, 3, 1]  # of 3 ms each, until 8 ms have passed
