"""The queue of tensors that run as they come."""

import pytest

from service.errors import InternalError, InvalidRequest, Overloaded, Unavailable
from tests.support.scheduling import TensorHarness


def test_items_run_in_the_order_of_arrival() -> None:
    harness = TensorHarness()
    clients = [harness.ask(name) for name in "abc"]
    harness.run_all()
    assert harness.ran == ["a", "b", "c"]
    assert [client.job.results for client in clients] == [["A"], ["B"], ["C"]]
    assert clients[0].request.batch_items == 2


def test_a_run_is_recorded_as_a_batch() -> None:
    harness = TensorHarness()
    harness.ask("a", steps=7)
    harness.clock.now_s += 0.25
    harness.run_all()
    (batch,) = harness.metrics.calls["batch"]
    assert (batch["reason"], batch["items"], batch["padded_tokens"], batch["real_tokens"]) == ("tensors", 2, 14, 14)
    assert batch["queue_s"] == [0.25]


def test_expired_and_disconnected_requests_do_not_run() -> None:
    harness = TensorHarness()
    late, gone = harness.ask("a", timeout_s=1.0), harness.ask("b")
    harness.clock.now_s += 2.0
    gone.connected = False
    harness.run_all()
    assert harness.ran == []
    assert (late.error, gone.error) == ("DeadlinePassed", "ClientGone")


def test_a_full_queue_refuses_until_it_has_room() -> None:
    harness = TensorHarness(queue_tokens=30)
    harness.ask("a", steps=200)  # the queue is empty: any size is admitted
    with pytest.raises(Overloaded):
        harness.ask("b")
    harness.run_all()
    harness.ask("c")
    assert harness.ask("d").error is None
    with pytest.raises(Overloaded):
        harness.ask("e")


def test_a_refusal_makes_room_by_dropping_disconnected_clients() -> None:
    harness = TensorHarness(queue_tokens=20)
    harness.ask("a").connected = False
    assert harness.ask("b").error is None
    assert harness.scheduler.queued_items == 1


def test_an_error_fails_its_own_request_only() -> None:
    harness = TensorHarness()
    refused = InvalidRequest("no")
    clients = [harness.ask("a", error=refused), harness.ask("b", error=ValueError("bug")), harness.ask("c")]
    harness.run_all()
    assert clients[0].job.error is refused
    assert isinstance(clients[1].job.error, InternalError)
    assert clients[2].job.results == ["C"]


def test_a_closed_queue_refuses_and_runs_what_was_admitted() -> None:
    harness = TensorHarness()
    client = harness.ask("a")
    harness.scheduler.close()
    with pytest.raises(Unavailable):
        harness.ask("b")
    harness.run_all()
    assert client.job.results == ["A"]


def test_abandon_fails_running_and_queued_requests() -> None:
    harness = TensorHarness()
    clients = [harness.ask("a"), harness.ask("b")]
    harness.scheduler.take()
    harness.scheduler.abandon(InternalError())
    assert [client.error for client in clients] == ["InternalError"] * 2


def test_a_request_that_could_not_be_completed_is_still_abandoned() -> None:
    harness = TensorHarness()
    client = harness.ask("a")
    work = harness.scheduler.take()
    assert work is not None
    work.run()
    harness.scheduler.cost.learn = None  # type: ignore[assignment]  # a bug
    with pytest.raises(TypeError):
        work.complete()
    harness.scheduler.abandon(InternalError())
    assert client.error == "InternalError"
