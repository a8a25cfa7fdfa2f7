"""The step scheduler: texts join and leave between steps, and none ever reads another's state."""

import pytest

from service.errors import InternalError, Overloaded, Unavailable
from service.scheduling.decoding import Prefill, Steps
from tests.service.batching.fakes import Waiter, expected, text
from tests.service.batching.writing import Desk, state_after, texts


def test_a_text_is_what_the_model_writes_alone() -> None:
    desk = Desk()
    waiter = desk.ask("romeo", max_new_tokens=7)
    desk.work()
    assert texts(waiter) == [expected("romeo", 7)]


def test_texts_of_one_request_come_in_its_order_whichever_is_done_first() -> None:
    desk = Desk()
    waiter = Waiter(desk.clock, 3)
    desk.scheduler.submit(waiter.ticket, [text("a", 9), text("bb", 2), text("ccc", 5)])
    desk.work()
    assert texts(waiter) == [expected("a", 9), expected("bb", 2), expected("ccc", 5)]


def test_a_newcomer_joins_between_two_steps_and_disturbs_nobody() -> None:
    desk = Desk()
    first = desk.ask("first", max_new_tokens=9)
    for _ in range(3):
        desk.turn()
    second = desk.ask("second", max_new_tokens=9)
    desk.turn()
    desk.turn()
    assert desk.author.calls[-1] == (1, 2)
    desk.work()
    assert texts(first) + texts(second) == [expected("first", 9), expected("second", 9)]


@pytest.mark.parametrize("shortest", range(4))
def test_the_last_row_moves_into_the_place_of_a_finished_one(shortest: int) -> None:
    desk = Desk()
    names = ["a", "bb", "ccc", "dddd"]
    waiters = [desk.ask(name, max_new_tokens=3 if row == shortest else 8) for row, name in enumerate(names)]
    desk.work()
    for row, waiter in enumerate(waiters):
        assert texts(waiter) == [expected(names[row], 3 if row == shortest else 8)]
    assert desk.author.calls[-1] == (1, 3)


def test_several_rows_can_finish_in_the_same_step() -> None:
    desk = Desk()
    lengths = [4, 8, 4, 4, 8]
    waiters = [desk.ask("x" * (row + 1), max_new_tokens=length) for row, length in enumerate(lengths)]
    desk.work()
    assert [texts(waiter)[0] for waiter in waiters] == [expected("x" * (i + 1), n) for i, n in enumerate(lengths)]


def test_prompts_that_wait_are_read_in_one_ragged_call() -> None:
    desk = Desk()
    waiters = [desk.ask("abc"), desk.ask("a")]
    desk.turn()
    assert desk.author.calls == [(3, 2)]
    (told,) = desk.observer.told["prefill"]
    assert (told["rows"], told["padded_tokens"], told["real_tokens"]) == (2, 6, 4)
    desk.work()
    assert [texts(waiter) for waiter in waiters] == [[expected("abc", 5)], [expected("a", 5)]]


def test_a_long_prompt_is_read_in_pieces_while_others_write_on() -> None:
    desk = Desk(prefill_steps=4)
    writing = desk.ask("w", max_new_tokens=20)
    desk.turn()
    reading = desk.ask("abcdefghijkl", max_new_tokens=2)
    kinds = [type(desk.turn()) for _ in range(6)]
    assert kinds == [Steps, Prefill, Steps, Prefill, Steps, Prefill]
    desk.work()
    assert texts(writing) + texts(reading) == [expected("w", 20), expected("abcdefghijkl", 2)]


def test_prompts_are_read_together_as_far_as_their_padded_tokens_fit() -> None:
    desk = Desk(prefill_tokens=12)
    waiters = [desk.ask(prompt, max_new_tokens=2) for prompt in ("abc", "ab", "abcde", "a" * 20)]
    desk.turn()
    assert desk.author.calls == [(3, 2)]
    desk.work()
    assert [texts(waiter)[0] for waiter in waiters] == [expected(p, 2) for p in ("abc", "ab", "abcde", "a" * 20)]


def test_newcomers_and_steps_take_turns() -> None:
    desk = Desk()
    desk.ask("a", max_new_tokens=50)
    kinds = []
    for _ in range(6):
        desk.ask("b", max_new_tokens=50)
        kinds.append(type(desk.turn()))
    assert kinds == [Prefill, Steps, Prefill, Steps, Prefill, Steps]


def test_a_text_of_one_token_never_enters_the_table() -> None:
    desk = Desk()
    waiter = desk.ask("a", max_new_tokens=1)
    desk.work()
    assert (texts(waiter), len(desk.author.calls)) == ([expected("a", 1)], 1)


def test_a_stop_string_ends_a_text() -> None:
    desk = Desk()
    whole = expected("romeo", 20)
    waiter = desk.ask("romeo", max_new_tokens=20, stop=(whole[5:8],))
    desk.work()
    assert texts(waiter) == [whole[: whole.index(whole[5:8]) + 3]]
    assert waiter.ticket.results[0].finish_reason == "stop"


def test_slots_bound_the_table_and_the_next_in_line_gets_the_first_free_one() -> None:
    desk = Desk(slots=2)
    waiters = [desk.ask(name, max_new_tokens=4) for name in ("a", "b", "c", "d", "e")]
    desk.work()
    assert max(rows for _, rows in desk.author.calls) == 2
    assert [texts(waiter)[0] for waiter in waiters] == [expected(name, 4) for name in "abcde"]


def test_one_bad_prompt_fails_alone() -> None:
    desk = Desk()
    waiters = [desk.ask(prompt) for prompt in ("good", "b!d", "fine")]
    desk.work()
    assert [waiter.error for waiter in waiters] == [None, "InternalError", None]
    assert texts(waiters[0]) + texts(waiters[2]) == [expected("good", 5), expected("fine", 5)]


def test_one_bad_row_fails_alone_in_a_step() -> None:
    desk = Desk()
    desk.author.cursed = {state_after("bad", 3)}
    waiters = [desk.ask(prompt, max_new_tokens=8) for prompt in ("one", "bad", "two")]
    desk.work()
    assert [waiter.error for waiter in waiters] == [None, "InternalError", None]
    assert texts(waiters[0]) + texts(waiters[2]) == [expected("one", 8), expected("two", 8)]
    assert all(waiter.settled == 1 for waiter in waiters)


@pytest.mark.parametrize("turns", [0, 2])
def test_rows_that_go_missing_fail_their_texts_and_nobody_gets_anothers(turns: int) -> None:
    desk = Desk()
    waiters = [desk.ask(prompt) for prompt in ("one", "two", "three")]
    for _ in range(turns):
        desk.turn()
    desk.author.missing = 1
    desk.work()
    assert [(waiter.error, waiter.settled) for waiter in waiters] == [("InternalError", 1)] * 3


@pytest.mark.parametrize(("how", "error"), [("leaves", "ClientGone"), ("is late", "DeadlinePassed")])
def test_who_is_not_waited_for_frees_the_slot_before_the_next_step(how: str, error: str) -> None:
    desk = Desk()
    gone = desk.ask("gone", max_new_tokens=50, timeout_s=10)
    there = desk.ask("there", max_new_tokens=6)
    desk.turn()
    desk.turn()
    if how == "leaves":
        gone.connected = False
    else:
        desk.clock.now_s += 10
    desk.turn()
    assert (gone.error, desk.author.calls[-1]) == (error, (1, 1))
    desk.work()
    assert texts(there) == [expected("there", 6)]


@pytest.mark.parametrize("stage", ["waiting", "reading"])
def test_who_leaves_before_the_first_token_costs_no_more_calls(stage: str) -> None:
    desk = Desk(prefill_steps=2)
    waiter = desk.ask("abcdefgh")
    if stage == "reading":
        desk.turn()
    calls = len(desk.author.calls)
    waiter.connected = False
    desk.work()
    assert (waiter.error, waiter.settled, len(desk.author.calls)) == ("ClientGone", 1, calls)


def test_a_failed_text_takes_the_others_of_its_request_off_the_table() -> None:
    desk = Desk()
    waiter = desk.ask("b!d", "long", max_new_tokens=50)
    desk.work()
    assert (waiter.error, waiter.settled) == ("InternalError", 1)
    assert len(desk.author.calls) < 5


def test_a_full_queue_refuses_all_of_a_request() -> None:
    desk = Desk(slots=1, queue_items=2)
    accepted = desk.ask("a", "b")
    with pytest.raises(Overloaded) as caught:
        desk.ask("c")
    assert caught.value.details == {"limit": 2, "retry_after_s": 1.0}
    desk.work()
    assert texts(accepted) == [expected("a", 5), expected("b", 5)]


def test_what_was_accepted_before_the_shutdown_is_written_and_nothing_after() -> None:
    desk = Desk(slots=1)
    accepted = [desk.ask("a"), desk.ask("b")]
    desk.turn()
    desk.scheduler.close()
    with pytest.raises(Unavailable):
        desk.ask("c")
    desk.work()
    assert [texts(waiter)[0] for waiter in accepted] == [expected("a", 5), expected("b", 5)]


def test_steps_are_taken_together_for_the_time_of_a_dispatch() -> None:
    desk = Desk(dispatch_s=0.01)
    waiter = desk.ask("a", max_new_tokens=1000)
    desk.turn()
    step_s = desk.cost.seconds(1, 1)
    work = desk.turn()
    assert work is not None
    assert 0.01 - step_s < work.estimate_s <= 0.01
    (told,) = desk.observer.told["steps"]
    assert told["count"] == int(0.01 / step_s) > 1
    desk.work()
    assert texts(waiter) == [expected("a", 1000)]


def test_a_dispatch_becomes_shorter_on_a_machine_that_is_slow() -> None:
    desk = Desk(dispatch_s=0.01)
    desk.author.seconds = 0.006
    desk.ask("a", max_new_tokens=10**9)
    for _ in range(40):
        desk.turn()
    assert desk.observer.told["steps"][-1]["count"] == 1


def test_a_dispatch_ends_with_the_first_text_that_is_done() -> None:
    desk = Desk(dispatch_s=1.0)
    desk.ask("a", max_new_tokens=4)
    desk.ask("b", max_new_tokens=100)
    desk.turn()
    desk.turn()
    assert [told["count"] for told in desk.observer.told["steps"]] == [3]


@pytest.mark.parametrize("turns", [0, 1])
def test_what_is_running_is_abandoned_too(turns: int) -> None:
    desk = Desk()
    waiter = desk.ask("a", max_new_tokens=5)
    for _ in range(turns):
        desk.turn()
    assert desk.scheduler.take() is not None
    desk.scheduler.abandon(InternalError())
    assert waiter.error == "InternalError"


def test_a_queue_is_full_of_texts_that_are_long_to_write() -> None:
    desk = Desk(queue_tokens=100)
    desk.ask("a", max_new_tokens=90)
    with pytest.raises(Overloaded, match="91 tokens are waiting"):
        desk.ask("b", max_new_tokens=20)


def test_all_who_are_no_longer_waited_for_are_told_in_one_look() -> None:
    desk = Desk(slots=1)
    desk.ask("long", max_new_tokens=50)
    desk.turn()
    late = [desk.ask("a", timeout_s=0.5) for _ in range(3)]
    gone = [desk.ask("b") for _ in range(3)]
    for waiter in gone:
        waiter.connected = False
    desk.clock.now_s += 1.0
    desk.turn()
    assert [waiter.error for waiter in late + gone] == ["DeadlinePassed"] * 3 + ["ClientGone"] * 3


def test_a_table_begins_again_where_there_is_room_after_a_row_has_failed() -> None:
    desk = Desk()
    desk.author.cursed = {state_after("bad", 3)}
    rooms = []
    room = desk.author.room
    desk.author.room = lambda: rooms.append(room()) or rooms[-1]  # type: ignore[method-assign,func-returns-value]
    waiters = [desk.ask(prompt, max_new_tokens=8) for prompt in ("one", "bad")]
    while waiters[1].settled == 0:
        desk.turn()
    assert len(rooms) == 2
    assert desk.scheduler._table.state[0].base is rooms[-1][0].base
