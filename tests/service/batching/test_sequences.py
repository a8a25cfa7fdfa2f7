"""The sequence scheduler: who runs with whom, and that everybody is answered, whatever happens."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InternalError, TooLarge, Unavailable
from tests.service.batching.desk import Desk, answers
from tests.service.batching.fakes import Item


def test_sequences_that_wait_together_run_together() -> None:
    desk = Desk()
    items = [Item(str(number)) for number in range(5)]
    waiters = [desk.ask(item) for item in items]
    assert desk.turn()
    assert [waiter.ticket.results for waiter in waiters] == [[answer] for answer in answers(*items)]
    assert not desk.turn()


def test_nothing_is_waited_for() -> None:
    desk = Desk()
    desk.ask(Item("a"))
    batch = desk.scheduler.take()
    assert batch is not None
    late = desk.ask(Item("b"))
    assert not desk.scheduler.idle
    batch.run()
    batch.settle()
    assert (desk.turn(), late.ticket.results) == (True, ["answer to b"])


def test_a_client_that_has_gone_is_dropped_before_its_batch() -> None:
    desk = Desk()
    gone, there = desk.ask(Item("gone")), desk.ask(Item("there"))
    gone.connected = False
    desk.work()
    assert (gone.error, gone.settled, there.settled) == ("ClientGone", 1, 1)
    assert desk.network.batches == [["there"]]


def test_a_client_that_goes_while_its_batch_is_chosen_is_left_out() -> None:
    desk = Desk()
    first, second = desk.ask(Item("first")), desk.ask(Item("second"))
    second.connected = False
    desk.work()
    assert (first.error, second.error, desk.network.batches) == (None, "ClientGone", [["first"]])


def test_a_deadline_that_passed_is_answered_and_the_work_not_done() -> None:
    desk = Desk()
    late, patient = desk.ask(Item("late"), timeout_s=1.0), desk.ask(Item("patient"), timeout_s=3.0)
    desk.clock.now_s += 2.0
    desk.work()
    assert (late.error, patient.error, desk.network.batches) == ("DeadlinePassed", None, [["patient"]])


def test_a_deadline_far_back_in_the_queue_is_answered_at_the_next_batch() -> None:
    desk = Desk(batch_rows=1)
    for number in range(5):
        desk.ask(Item(str(number)))
    last = desk.ask(Item("last"), timeout_s=0.5)
    desk.clock.now_s += 1.0
    desk.turn()
    assert last.error == "DeadlinePassed"


def test_one_bad_sequence_fails_alone() -> None:
    desk = Desk()
    bad = Item("bad", bad=True)
    good = [Item(str(number)) for number in range(6)]
    waiters = [desk.ask(item) for item in (*good[:3], bad, *good[3:])]
    desk.work()
    assert [waiter.error for waiter in waiters] == [None] * 3 + ["InternalError"] + [None] * 3
    healthy = waiters[:3] + waiters[4:]
    assert [waiter.ticket.results for waiter in healthy] == [[answer] for answer in answers(*good)]
    assert all(waiter.settled == 1 for waiter in waiters)


def test_the_error_of_a_bad_sequence_tells_nothing_of_it() -> None:
    desk = Desk()
    bad = desk.ask(Item("secret", bad=True))
    desk.work()
    assert "secret" not in str(bad.ticket.error)
    assert "a bad item" not in str(bad.ticket.error)


def test_an_error_for_the_client_reaches_it_as_it_is() -> None:
    desk = Desk()

    def refuse(items: Sequence[Item]) -> list[str]:
        raise TooLarge("too long", limit=5)

    desk.scheduler.run = refuse
    waiter = desk.ask(Item("a"))
    desk.work()
    assert waiter.error == "TooLarge"


@pytest.mark.parametrize("spare", [-1, 1])
def test_a_wrong_number_of_results_never_shifts_an_answer(spare: int) -> None:
    desk = Desk()
    desk.network.spare = spare
    waiters = [desk.ask(Item(str(number))) for number in range(3)]
    desk.work()
    assert [(waiter.error, waiter.settled) for waiter in waiters] == [("InternalError", 1)] * 3


def test_a_wrong_number_of_results_once_costs_nobody_an_answer() -> None:
    desk = Desk()
    waiters = [desk.ask(Item(str(number))) for number in range(3)]
    desk.network.spare = -1
    desk.turn()
    desk.network.spare = 0
    desk.work()
    assert [waiter.ticket.results for waiter in waiters] == [["answer to 0"], ["answer to 1"], ["answer to 2"]]


def test_what_was_accepted_before_the_shutdown_is_answered_and_nothing_after() -> None:
    desk = Desk()
    accepted = desk.ask(Item("a"))
    desk.scheduler.close()
    with pytest.raises(Unavailable):
        desk.ask(Item("b"))
    desk.work()
    assert accepted.ticket.results == ["answer to a"]


def test_a_request_of_many_parts_is_split_and_put_together_in_its_order() -> None:
    desk = Desk(batch_rows=4)
    items = [Item(str(number), length=1 + number * 7 % 10) for number in range(11)]
    waiter, other = desk.ask(*items), desk.ask(Item("other", length=3))
    desk.work()
    assert waiter.ticket.results == answers(*items)
    assert other.ticket.results == ["answer to other"]
    assert len(desk.network.batches) >= 3


def test_the_first_failure_of_a_request_spares_its_other_parts_the_work() -> None:
    desk = Desk(batch_rows=1)
    waiter = desk.ask(Item("bad", bad=True), Item("b"), Item("c"))
    desk.work()
    assert (waiter.error, waiter.settled, desk.network.batches) == ("InternalError", 1, [["bad"]])


def test_the_time_of_a_batch_counts_once_for_a_request_of_many_parts() -> None:
    desk = Desk()
    waiter = desk.ask(Item("a"), Item("b"), Item("c"))
    desk.clock.now_s += 0.25
    desk.work()
    assert waiter.request.compute_s == pytest.approx(0.001)
    assert waiter.request.queue_s == pytest.approx(0.25)
    assert waiter.request.batch_items == 3


@pytest.mark.parametrize(("limits", "reason"), [({"batch_rows": 2}, "rows"), ({"batch_tokens": 12}, "tokens")])
def test_limits_end_a_batch(limits: dict[str, int], reason: str) -> None:
    desk = Desk(**limits)
    for name in "abc":
        desk.ask(Item(name))
    desk.work()
    assert [len(batch) for batch in desk.network.batches] == [2, 1]
    assert [told["reason"] for told in desk.observer.told["batch"]] == [reason, "queue_empty"]


def test_a_batch_is_brief_among_others_of_its_length() -> None:
    desk = Desk(brief_s=0.0045, batch_tokens=10_000)  # of the costs that are assumed at first: 18 rows
    for number in range(40):
        desk.ask(Item(str(number), length=100))
    desk.work()
    assert len(desk.network.batches[0]) <= 18
    assert desk.observer.told["batch"][0]["reason"] == "brief"


def test_a_sequence_over_the_token_limit_runs_by_itself() -> None:
    desk = Desk(batch_tokens=10)
    waiter = desk.ask(Item("long", length=50))
    desk.work()
    assert waiter.ticket.results == ["answer to long"]


def test_a_short_sequence_is_not_padded_to_a_long_one() -> None:
    desk = Desk()
    desk.ask(Item("short", length=2))
    for number in range(4):
        desk.ask(Item(f"long{number}", length=500))
    desk.work()
    assert desk.network.batches[0] == ["short"]
    assert sorted(desk.network.batches[1]) == [f"long{number}" for number in range(4)]
    assert desk.observer.told["batch"][0]["reason"] == "padding"


def test_a_little_padding_is_cheaper_than_a_batch_of_its_own() -> None:
    desk = Desk()
    for length in (9, 11, 10):
        desk.ask(Item(str(length), length=length))
    desk.turn()
    assert sorted(desk.network.batches[0]) == ["10", "11", "9"]
    (told,) = desk.observer.told["batch"]
    assert (told["items"], told["padded_tokens"], told["real_tokens"]) == (3, 33, 30)


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=40), extra=st.lists(st.integers(1, 300)))
def test_a_sequence_behind_n_others_runs_at_the_latest_in_batch_n_plus_1(lengths: list[int], extra: list[int]) -> None:
    desk = Desk(batch_rows=4, batch_tokens=600)
    waiters = [desk.ask(Item(str(number), length=length)) for number, length in enumerate(lengths)]
    newcomers = iter(extra)
    for waiter in waiters:
        desk.turn()
        assert waiter.settled
        # Newcomers of a length that suits the others better never push anybody back.
        if (length := next(newcomers, None)) is not None:
            desk.ask(Item("new", length=length))


def test_a_batch_that_fails_is_halved_until_the_bad_one_is_found() -> None:
    desk = Desk()
    for number in range(8):
        desk.ask(Item(str(number), bad=number == 5))
    desk.work()
    assert [len(batch) for batch in desk.network.batches] == [8, 4, 4, 2, 1, 1, 2]


def test_a_suspect_whose_client_has_gone_is_not_run_again() -> None:
    desk = Desk()
    desk.ask(Item("bad", bad=True))
    other = desk.ask(Item("other"))
    desk.turn()
    other.connected = False
    desk.work()
    assert (other.error, desk.network.batches) == ("ClientGone", [["bad", "other"], ["bad"]])


def test_what_is_running_is_abandoned_too() -> None:
    desk = Desk()
    waiter = desk.ask(Item("a"))
    assert desk.scheduler.take() is not None
    desk.scheduler.abandon(InternalError())
    assert waiter.error == "InternalError"
    assert desk.scheduler.idle


def test_a_batch_that_cannot_be_settled_is_still_known_to_who_gives_up() -> None:
    desk = Desk()
    waiter = desk.ask(Item("a"))
    batch = desk.scheduler.take()
    assert batch is not None
    batch.run()
    desk.scheduler.cost.learn = None  # type: ignore[assignment]  # a bug
    with pytest.raises(TypeError):
        batch.settle()
    desk.scheduler.abandon(InternalError())
    assert waiter.error == "InternalError"


def test_a_failure_is_in_the_log_under_the_id_of_its_request(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    waiter = desk.ask(Item("bad", bad=True))
    waiter.request.request_id = "the-id"
    desk.work()
    assert waiter.error == "InternalError"
    assert [message for message in caplog.messages if "the-id" in message]
