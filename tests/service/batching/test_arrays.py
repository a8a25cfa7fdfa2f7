"""The queue of arrays that are run as they come."""

from types import SimpleNamespace
from typing import Any

import pytest

from service.errors import ClientGone, DeadlinePassed, InternalError, InvalidRequest, Overloaded, Unavailable
from service.scheduling.cost_model import CostModel
from service.scheduling.job import InferenceRequest, Job
from service.scheduling.tensors import ArrayScheduler


class Bench:
    """A scheduler with a clock that stands, and what it ran."""

    def __init__(self, queue_tokens: int = 100) -> None:
        self.now_s = 0.0
        self.ran: list[Any] = []
        self.gone = False
        self.scheduler = ArrayScheduler(
            self._run, queue_tokens=queue_tokens, cost=CostModel(), clock=lambda: self.now_s
        )

    def _run(self, item: Any) -> Any:
        self.ran.append(item.name)
        if item.error is not None:
            raise item.error
        return item.name.upper()

    def submit(self, name: str, *, steps: int = 10, deadline_s: float = 9.0, error: Exception | None = None) -> Job:
        call = InferenceRequest(request_id=name, route="", deadline_s=deadline_s, is_disconnected=lambda: self.gone)
        ticket = Job(call, 1, lambda _: None, self.now_s)
        self.scheduler.submit(ticket, SimpleNamespace(name=name, rows=2, steps=steps, extra=0, error=error))
        return ticket

    def run_all(self) -> None:
        while (work := self.scheduler.take()) is not None:
            work.run()
            work.settle()


def test_items_run_in_the_order_of_arrival() -> None:
    bench = Bench()
    tickets = [bench.submit(name) for name in "abc"]
    bench.run_all()
    assert bench.ran == ["a", "b", "c"]
    assert [ticket.results for ticket in tickets] == [["A"], ["B"], ["C"]]
    assert tickets[0].request.batch_items == 2


def test_what_is_too_late_or_whose_client_has_gone_is_not_run() -> None:
    bench = Bench()
    late = bench.submit("a", deadline_s=1.0)
    bench.now_s = 2.0
    bench.run_all()
    bench.gone = True
    gone = bench.submit("b")
    bench.run_all()
    assert bench.ran == []
    assert (type(late.error), type(gone.error)) == (DeadlinePassed, ClientGone)


def test_a_queue_that_is_full_refuses_and_has_room_again() -> None:
    bench = Bench(queue_tokens=30)
    bench.submit("a", steps=200)  # alone, it is taken whatever its size
    with pytest.raises(Overloaded):
        bench.submit("b")
    bench.run_all()
    bench.submit("c")
    with pytest.raises(Overloaded):
        bench.submit("d", steps=11)


def test_a_failure_is_told_to_its_own_waiter_alone() -> None:
    bench = Bench()
    refused, bug = InvalidRequest("no"), ValueError("bug")
    tickets = [bench.submit("a", error=refused), bench.submit("b", error=bug), bench.submit("c")]
    bench.run_all()
    assert tickets[0].error is refused
    assert isinstance(tickets[1].error, InternalError)
    assert tickets[2].results == ["C"]


def test_closed_it_takes_nothing_and_runs_what_waits() -> None:
    bench = Bench()
    ticket = bench.submit("a")
    bench.scheduler.close()
    with pytest.raises(Unavailable):
        bench.submit("b")
    bench.run_all()
    assert ticket.results == ["A"]


def test_abandoned_everybody_is_told() -> None:
    bench = Bench()
    running, waiting = bench.submit("a"), bench.submit("b")
    bench.scheduler.take()
    bench.scheduler.abandon(InternalError())
    assert running.settled
    assert waiting.settled


def test_an_item_that_cannot_be_settled_is_still_known_to_who_gives_up() -> None:
    bench = Bench()
    ticket = bench.submit("a")
    work = bench.scheduler.take()
    assert work is not None
    work.run()
    bench.scheduler.cost.learn = None  # type: ignore[assignment]  # a bug
    with pytest.raises(TypeError):
        work.settle()
    bench.scheduler.abandon(InternalError())
    assert isinstance(ticket.error, InternalError)
