"""A ticket settles exactly once, and remembers where the time went."""

import pytest

from service.errors import InternalError, Unavailable
from service.scheduling.job import Job, fail_all
from tests.service.batching.fakes import Clock, Waiter


def test_results_are_in_the_order_of_the_parts() -> None:
    waiter = Waiter(Clock(), 3)
    for index in (2, 0, 1):
        assert waiter.settled == 0
        waiter.ticket.succeed(index, index)
    assert (waiter.settled, waiter.ticket.results, waiter.error) == (1, [0, 1, 2], None)


def test_the_first_error_settles_and_nothing_later_does() -> None:
    waiter = Waiter(Clock(), 2)
    waiter.ticket.fail(InternalError("first"))
    waiter.ticket.fail(InternalError("second"))
    waiter.ticket.succeed(0, "late")
    waiter.ticket.succeed(1, "late")
    assert (waiter.settled, str(waiter.ticket.error), waiter.ticket.results) == (1, "first", [None, None])


def test_it_expires_at_its_deadline_and_not_before() -> None:
    clock = Clock()
    waiter = Waiter(clock, timeout_s=2.0)
    assert not waiter.ticket.expire(clock() + 1.999)
    assert waiter.ticket.expire(clock() + 2.0)
    assert waiter.error == "DeadlinePassed"
    assert waiter.ticket.error is not None
    assert waiter.ticket.error.details["limit"] == 2.0
    assert waiter.ticket.expire(clock())
    assert waiter.settled == 1


def test_it_expires_when_the_client_has_gone() -> None:
    clock = Clock()
    waiter = Waiter(clock)
    assert not waiter.ticket.expire(clock())
    waiter.connected = False
    assert waiter.ticket.expire(clock())
    assert waiter.error == "ClientGone"


def test_the_queue_ends_with_the_first_part_and_compute_adds_up() -> None:
    clock = Clock()
    waiter = Waiter(clock, 2)
    ticket: Job = waiter.ticket
    ticket.start(clock() + 0.5)
    ticket.start(clock() + 0.9)
    ticket.ran(0.25, 7)
    ticket.ran(0.25, 3)
    assert (waiter.request.queue_s, waiter.request.compute_s, waiter.request.batch_items) == (0.5, 0.5, 7)


def test_of_a_bug_all_who_are_told_stand_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    waiters = [Waiter(Clock()), Waiter(Clock()), Waiter(Clock())]
    for number, waiter in enumerate(waiters):
        waiter.request.request_id = f"r{number}"
    waiters[1].ticket.succeed(0, "before")
    fail_all([waiter.ticket for waiter in [*waiters, waiters[0]]], InternalError())
    assert [waiter.error for waiter in waiters] == ["InternalError", None, "InternalError"]
    assert caplog.messages == ["told to requests r0, r2"]


def test_of_a_shutdown_nobody_stands_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    waiter = Waiter(Clock())
    fail_all([waiter.ticket], Unavailable("over"))
    assert (waiter.error, caplog.messages) == ("Unavailable", [])
