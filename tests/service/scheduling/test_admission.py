"""Admission: what is queued, and what is refused at once."""

from itertools import chain
from typing import Any

import pytest

from service.errors import DeadlinePassed, Overloaded, Unavailable
from tests.support.scheduling import Client, FixedCostModel, Item, SequenceHarness


def test_a_full_queue_refuses_the_whole_request() -> None:
    harness = SequenceHarness(queue_items=3)
    harness.ask(Item("a"), Item("b"))
    with pytest.raises(Overloaded) as caught:
        harness.ask(Item("c"), Item("d"))
    assert (caught.value.details["limit"], caught.value.details["retry_after_s"]) == (3, 0.1)
    harness.ask(Item("e"))
    harness.run_all()
    assert sorted(chain(*harness.model.batches)) == ["a", "b", "e"]


def test_a_queue_with_too_many_tokens_refuses() -> None:
    harness = SequenceHarness(queue_tokens=10)
    harness.ask(Item("a"))
    harness.ask(Item("b"))
    with pytest.raises(Overloaded):
        harness.ask(Item("c"))


def test_a_refusal_says_whether_a_smaller_request_is_refused_too() -> None:
    harness = SequenceHarness(queue_items=3)
    harness.ask(Item("a"), Item("b"))
    with pytest.raises(Overloaded) as room_for_one:
        harness.ask(Item("c"), Item("d"))
    harness.ask(Item("c"))
    with pytest.raises(Overloaded) as room_for_none:
        harness.ask(Item("d"))
    assert (room_for_one.value.any_size, room_for_none.value.any_size) == (False, True)


def test_an_empty_queue_admits_a_request_of_any_size() -> None:
    harness = SequenceHarness(queue_items=1, queue_tokens=1)
    client = harness.ask(Item("a"), Item("b"))
    harness.run_all()
    assert client.job.results == ["answer to a", "answer to b"]


def test_a_reservation_counts_until_its_items_are_queued() -> None:
    harness = SequenceHarness(queue_items=3)
    scheduler = harness.scheduler
    encoding = scheduler.admit(Client(harness.clock).request, 3)
    with pytest.raises(Overloaded):
        harness.ask(Item("b"))
    scheduler.submit(encoding, [Item("a")])
    assert harness.ask(Item("b"), Item("c")).error is None
    with pytest.raises(Overloaded):
        harness.ask(Item("d"))


def test_an_error_while_encoding_frees_the_reservation() -> None:
    harness = SequenceHarness(queue_items=1)
    with (
        pytest.raises(ValueError, match="cannot be encoded"),
        harness.scheduler.admit(Client(harness.clock).request, 1),
    ):
        raise ValueError("cannot be encoded")
    assert not harness.scheduler.jobs
    scheduler = harness.scheduler
    first = scheduler.admit(Client(harness.clock).request, 1)
    with pytest.raises(Overloaded):
        scheduler.admit(Client(harness.clock).request, 1)
    first.cancel()
    assert harness.ask(Item("a")).error is None


def test_a_job_that_was_cancelled_while_encoding_is_not_queued() -> None:
    harness = SequenceHarness()
    job = harness.scheduler.admit(Client(harness.clock).request, 1)
    job.cancel()
    harness.scheduler.submit(job, [Item("a")])
    harness.run_all()
    assert harness.model.batches == []


@pytest.mark.parametrize(("limits", "ratio"), [({"queue_items": 8}, 0.25), ({"queue_tokens": 20}, 0.5)])
def test_saturation_is_the_share_of_the_limit_that_is_closest(limits: dict[str, int], ratio: float) -> None:
    harness = SequenceHarness(**limits)
    harness.ask(Item("a"), Item("b"))  # of 5 tokens each
    assert harness.scheduler.saturation == ratio
    harness.run_all()
    assert harness.scheduler.saturation == 0


def test_a_closed_scheduler_refuses_and_runs_what_was_admitted() -> None:
    harness = SequenceHarness()
    encoding = harness.scheduler.admit(Client(harness.clock).request, 1)
    harness.scheduler.close()
    with pytest.raises(Unavailable):
        harness.ask(Item("b"))
    harness.scheduler.submit(encoding, [Item("a")])
    harness.run_all()
    assert encoding.results == ["answer to a"]


def test_a_queue_with_too_many_seconds_of_work_refuses() -> None:
    harness = SequenceHarness(cost=FixedCostModel(0.002), queue_s=0.1)
    for number in range(11):
        harness.ask(Item(str(number), 5))
    with pytest.raises(Overloaded):
        harness.ask(Item("one more"))


def test_a_deadline_that_the_queue_cannot_meet_is_refused_at_once() -> None:
    harness = SequenceHarness(cost=FixedCostModel(0.001), queue_s=1e9)
    clients = [harness.ask(Item("a", 40)) for _ in range(10)]  # 0.4 s of work
    with pytest.raises(DeadlinePassed) as caught:
        harness.ask(Item("late"), timeout_s=0.19)
    assert caught.value.details["limit"] == 0.19
    assert harness.ask(Item("perhaps in time"), timeout_s=0.21).error is None
    for client in clients:
        client.connected = False
    harness.clock.now_s += 0.06
    assert harness.ask(Item("in front"), timeout_s=0.19).error is None


def test_a_deadline_that_has_passed_already_ends_the_job_in_the_queue() -> None:
    harness = SequenceHarness(cost=FixedCostModel(0.001), queue_s=1e9)
    harness.ask(Item("a", 40))
    late = harness.ask(Item("late"), timeout_s=-0.5)
    harness.run_all()
    assert late.error == "DeadlinePassed"


def test_every_batch_makes_room_in_the_queue() -> None:
    harness = SequenceHarness(batch_rows=1, queue_items=3, queue_tokens=15)
    clients = [harness.ask(Item("a")), harness.ask(Item("b"))]
    for number in range(20):
        clients.append(harness.ask(Item(str(number))))
        harness.run_once()
    harness.run_all()
    assert all(client.error is None for client in clients)


def test_a_longer_queue_asks_clients_to_retry_later() -> None:
    def retry_after_s(length: int) -> Any:
        harness = SequenceHarness(queue_items=1)
        harness.ask(Item("a", length=length))
        with pytest.raises(Overloaded) as caught:
            harness.ask(Item("b"))
        return caught.value.details["retry_after_s"]

    assert retry_after_s(1) == 0.1 < retry_after_s(100_000) < retry_after_s(1_000_000)


def test_a_refusal_does_not_search_the_queue_each_time() -> None:
    harness = SequenceHarness(queue_items=2)
    client = harness.ask(Item("a"), Item("b"))
    with pytest.raises(Overloaded):
        harness.ask(Item("c"))
    client.connected = False
    with pytest.raises(Overloaded):
        harness.ask(Item("d"))
    harness.clock.now_s += 0.06
    assert harness.ask(Item("e")).error is None
    assert client.error == "ClientGone"
