"""The step scheduler tells readers and observers how far texts are, and keeps tokens only while nobody looks."""

import pytest

from service.errors import InternalError
from service.scheduling.decoding import Prefill
from service.scheduling.decoding_batch import TELL_S
from service.scheduling.decoding_work import HELD
from tests.service.batching.fakes import Waiter, expected, text
from tests.service.batching.writing import Desk, state_after, texts


def test_who_follows_a_text_is_told_of_its_first_token_before_a_step_is_taken() -> None:
    desk = Desk()
    waiter = desk.ask("abc")
    waiter.follow()
    assert isinstance(desk.turn(), Prefill)
    assert waiter.told == 1


def test_who_follows_alone_is_told_after_every_dispatch() -> None:
    desk = Desk()
    waiter = desk.ask("abc", max_new_tokens=6)
    waiter.follow()
    told = []
    while desk.turn():
        told.append(waiter.told)
    assert told == [1, 2, 3, 4, 5, 5]  # with the last token the ticket settles, which tells as much
    assert waiter.settled == 1


def test_many_who_follow_are_told_as_often_as_there_is_time_for_it() -> None:
    desk = Desk(slots=64)
    waiters = [desk.ask("a", max_new_tokens=1000) for _ in range(40)]
    for waiter in waiters:
        waiter.follow()
    desk.turn()
    for _ in range(60):  # of a millisecond each
        desk.turn()
    assert pytest.approx(0.020) == 40 * TELL_S
    assert {waiter.told for waiter in waiters} <= {1 + 2, 1 + 3}  # the first tokens, then every 20 or 21 ms


def test_tokens_nobody_looks_at_are_pushed_together_and_none_is_lost() -> None:
    desk = Desk()
    length = 2 * HELD + 5
    waiter = Waiter(desk.clock, 1)
    writing = text("romeo", length)
    desk.scheduler.submit(waiter.ticket, [writing])
    grown = []
    while desk.turn() is not None:
        grown.append(len(writing[1].tokens))
    assert sorted(set(grown)) == [1, 1 + HELD, 1 + 2 * HELD, length]
    assert texts(waiter) == [expected("romeo", length)]


def test_who_leaves_the_table_leaves_the_others_what_was_drawn_for_them() -> None:
    desk = Desk()
    late = desk.ask("tybalt", max_new_tokens=20, timeout_s=0.0065)
    stopped = desk.ask("romeo", max_new_tokens=20, stop=(expected("romeo", 12)[8:11],))
    others = [desk.ask(name, max_new_tokens=20) for name in ("juliet", "paris")]
    desk.work()
    assert late.error == "DeadlinePassed"
    assert texts(stopped) == [expected("romeo", 11)]
    assert [texts(other) for other in others] == [[expected("juliet", 20)], [expected("paris", 20)]]


@pytest.mark.parametrize("how", ["deadline", "failure", "abandoned"])
def test_what_was_drawn_before_an_error_comes_before_it(how: str) -> None:
    desk = Desk(slots=64)
    prompts = [f"{letter}romeo" for letter in "abcdefghijklmnopqrst"]
    written, seen = [text(prompt, 1000) for prompt in prompts], []
    for writing in written:
        waiter = Waiter(desk.clock, 1, timeout_s=0.0165 if how == "deadline" else 1e9)
        waiter.at_the_end = lambda writing=writing: seen.append(len(writing[1].tokens))  # type: ignore[misc]
        desk.scheduler.submit(waiter.ticket, [writing])
        waiter.follow()
    for _ in range(11):  # the prompts, then ten steps: less than the pace of so many who follow
        desk.turn()
    if how == "failure":
        desk.author.cursed |= {state_after(prompt, 12) for prompt in prompts}
    elif how == "abandoned":
        desk.scheduler.abandon(InternalError())
    desk.work()
    assert seen == [{"deadline": 17, "failure": 12, "abandoned": 11}[how]] * 20


def test_who_does_not_follow_changes_nothing_for_who_does() -> None:
    desk = Desk()
    for _ in range(7):
        desk.ask("a", max_new_tokens=1000)
    waiter = desk.ask("b", max_new_tokens=1000)
    waiter.follow()
    for _ in range(9):
        desk.turn()
    assert waiter.told == 9


def test_times_are_told_once_for_each_text_and_request() -> None:
    desk = Desk()
    waiter = desk.ask("ab", "cd", max_new_tokens=3)
    desk.clock.now_s += 0.5
    desk.work()
    assert desk.observer.told["first_token"] == pytest.approx([0.501, 0.501])
    assert sum(told["count"] for told in desk.observer.told["tokens"]) == 6
    assert desk.observer.told["waited"] == pytest.approx([0.5, 0.5])
    assert (waiter.request.queue_s, waiter.request.compute_s) == pytest.approx((0.5, 0.003))
    assert waiter.request.batch_items == 2


def test_the_table_is_told_when_it_is_empty_again() -> None:
    desk = Desk(slots=1)
    desk.ask("a", "b", max_new_tokens=2)
    desk.work()
    assert desk.observer.told["table"][0] == {"waiting": 1, "active": 1}
    assert desk.observer.told["table"][-1] == {"waiting": 0, "active": 0}


def test_a_text_that_is_done_is_told_at_once_though_the_next_of_its_request_waits() -> None:
    desk = Desk(slots=4)
    for _ in range(3):  # so many readers that they are told after every other step
        desk.ask("a", max_new_tokens=50).follow()
    waiter = desk.ask("x", "y", max_new_tokens=2)
    waiter.follow()
    desk.turn()
    told = waiter.told
    desk.turn()
    assert waiter.ticket.results[0] is not None
    assert waiter.told == told + 1
