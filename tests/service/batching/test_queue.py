"""The queue of the sequence scheduler: what may wait, and what is refused at once."""

from itertools import chain
from typing import Any

import pytest

from service.errors import DeadlinePassed, Overloaded
from service.scheduling.cost_model import CostModel
from tests.service.batching.desk import Desk
from tests.service.batching.fakes import Item


@pytest.mark.parametrize("limits", [{"queue_items": 3}, {"queue_tokens": 15}])
def test_a_full_queue_refuses_all_of_a_request(limits: dict[str, int]) -> None:
    desk = Desk(**limits)
    desk.ask(Item("a"), Item("b"))
    with pytest.raises(Overloaded) as caught:
        desk.ask(Item("c"), Item("d"))
    assert caught.value.details["retry_after_s"] >= 0.1
    desk.ask(Item("e"))
    desk.work()
    assert sorted(chain(*desk.network.batches)) == ["a", "b", "e"]


def test_a_request_that_is_alone_is_taken_whatever_its_size() -> None:
    desk = Desk(queue_items=1, queue_tokens=1)
    waiter = desk.ask(Item("a"), Item("b"))
    desk.work()
    assert waiter.ticket.results == ["answer to a", "answer to b"]


class Fixed(CostModel):
    """A cost model that has stopped learning: a word costs `word_s`, everything else nothing."""

    def __init__(self, word_s: float) -> None:
        super().__init__(call_s=0.0, step_s=0.0, cell_s=word_s, extra_s=0.0)

    def learn(self, rows: int, steps: int, seconds: float, extra: int = 0) -> None:
        pass


def test_the_queue_is_bounded_by_the_time_that_its_work_will_take() -> None:
    desk = Desk(cost=Fixed(0.002), queue_s=0.1)
    for number in range(11):
        desk.ask(Item(str(number), 5))
    with pytest.raises(Overloaded):
        desk.ask(Item("one more"))


def test_what_cannot_be_expected_in_time_is_refused_at_once() -> None:
    desk = Desk(cost=Fixed(0.001), queue_s=1e9)
    waiters = [desk.ask(Item("a", 40)) for _ in range(10)]  # 0.4 s of work
    with pytest.raises(DeadlinePassed, match=r"takes 0\.400 s, and this request has 0\.190 s"):
        desk.ask(Item("late"), timeout_s=0.19)
    assert desk.ask(Item("in time, perhaps"), timeout_s=0.21).error is None
    for waiter in waiters:
        waiter.connected = False
    desk.clock.now_s += 0.06
    assert desk.ask(Item("behind nobody"), timeout_s=0.19).error is None


def test_a_deadline_that_has_passed_already_is_told_as_such() -> None:
    desk = Desk(cost=Fixed(0.001), queue_s=1e9)
    desk.ask(Item("a", 40))
    late = desk.ask(Item("late"), timeout_s=-0.5)
    desk.work()
    assert late.error == "DeadlinePassed"


def test_every_batch_makes_room_in_the_queue() -> None:
    desk = Desk(batch_rows=1, queue_items=3, queue_tokens=15)
    waiters = [desk.ask(Item("a")), desk.ask(Item("b"))]
    for number in range(20):
        waiters.append(desk.ask(Item(str(number))))
        desk.turn()
    desk.work()
    assert all(waiter.error is None for waiter in waiters)


def test_the_longer_the_queue_the_later_one_should_come_back() -> None:
    def retry_after_s(length: int) -> Any:
        desk = Desk(queue_items=1)
        desk.ask(Item("a", length=length))
        with pytest.raises(Overloaded) as caught:
            desk.ask(Item("b"))
        return caught.value.details["retry_after_s"]

    assert retry_after_s(1) == 0.1 < retry_after_s(100_000) < retry_after_s(1_000_000)


def test_a_refusal_does_not_search_the_queue_each_time() -> None:
    desk = Desk(queue_items=2)
    gone = desk.ask(Item("a"), Item("b"))
    with pytest.raises(Overloaded):
        desk.ask(Item("c"))
    gone.connected = False
    with pytest.raises(Overloaded):
        desk.ask(Item("d"))
    desk.clock.now_s += 0.06
    assert desk.ask(Item("e")).error is None
    assert gone.error == "ClientGone"
