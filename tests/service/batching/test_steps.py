"""The step scheduler: texts join and leave between steps, and none ever reads another's state."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.cost import CostModel
from service.batching.dispatch import HELD
from service.batching.steps import Limits, Prefill, Steps, StepScheduler
from service.batching.table import TELL_S
from service.errors import InternalError, Overloaded, Unavailable
from tests.service.batching.fakes import CODEC, Author, Clock, Observer, Waiter, expected, following, text


class Desk:
    """A scheduler with its surroundings; each dispatch is one step, unless `dispatch_s` says otherwise."""

    def __init__(self, *, dispatch_s: float = 0.0, **limits: int) -> None:
        self.clock, self.observer = Clock(), Observer()
        self.author = Author(self.clock)
        limits_of = Limits(dispatch_s=dispatch_s, **limits)
        self.cost = CostModel()
        self.scheduler = StepScheduler(
            self.author, limits=limits_of, clock=self.clock, observer=self.observer, cost=self.cost
        )

    def ask(self, *prompts: str, timeout_s: float = 1e9, **asked: Any) -> Waiter:
        waiter = Waiter(self.clock, len(prompts), timeout_s=timeout_s)
        self.scheduler.submit(waiter.ticket, [text(prompt, **asked) for prompt in prompts])
        return waiter

    def turn(self) -> Prefill | Steps | None:
        work = self.scheduler.take()
        if work is not None:
            work.run()
            work.settle()
        return work

    def work(self) -> None:
        while self.turn() is not None:
            pass
        assert self.scheduler.idle


def texts(waiter: Waiter) -> list[str]:
    return [continuation.text for continuation in waiter.ticket.results]


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


def state_after(prompt: str, tokens: int) -> int:
    """The model's state once it has read the prompt and so many of its own tokens."""
    number = 0
    for letter in prompt + expected(prompt, tokens):
        number = following(number, int(CODEC.encode(letter).rows[0]))
    return number


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


def test_times_are_told_once_for_each_text_and_request() -> None:
    desk = Desk()
    waiter = desk.ask("ab", "cd", max_new_tokens=3)
    desk.clock.now_s += 0.5
    desk.work()
    assert desk.observer.told["first_token"] == pytest.approx([0.501, 0.501])
    assert sum(told["count"] for told in desk.observer.told["tokens"]) == 6
    assert desk.observer.told["waited"] == pytest.approx([0.5, 0.5])
    assert (waiter.call.queue_s, waiter.call.compute_s) == pytest.approx((0.5, 0.003))
    assert waiter.call.batch_items == 2


def test_the_table_is_told_when_it_is_empty_again() -> None:
    desk = Desk(slots=1)
    desk.ask("a", "b", max_new_tokens=2)
    desk.work()
    assert desk.observer.told["table"][0] == {"waiting": 1, "active": 1}
    assert desk.observer.told["table"][-1] == {"waiting": 0, "active": 0}


def cut(whole: str, stop: tuple[str, ...]) -> str:
    """A text to the end of the first letter of `stop` in it."""
    return whole[: next((place + 1 for place, letter in enumerate(whole) if letter in stop), len(whole))]


class Play:
    """A scheduler to which anything may happen in any order, and what it owes."""

    def __init__(self, dispatch_s: float) -> None:
        self.desk = Desk(slots=4, queue_items=5, prefill_steps=3, prefill_tokens=6, dispatch_s=dispatch_s)
        self.accepted: list[tuple[Waiter, list[str], list[str]]] = []  # and the texts that are owed
        self.work: Prefill | Steps | None = None

    def ask(self, prompts: list[str], count: int, timeout_s: float, stop: tuple[str, ...]) -> None:
        with suppress(Overloaded, Unavailable):
            waiter = self.desk.ask(*prompts, max_new_tokens=count, timeout_s=timeout_s, stop=stop)
            owed = [expected(prompt, count) for prompt in prompts]
            self.accepted.append((waiter, prompts, [cut(whole, stop) for whole in owed]))

    def leave(self, number: int) -> None:
        if self.accepted:
            self.accepted[number % len(self.accepted)][0].connected = False

    def take(self) -> None:
        self.work = self.work or self.desk.scheduler.take()

    def settle(self) -> None:
        if self.work is not None:
            self.work.run()
            self.work.settle()
            self.work = None

    def curse(self, prompt: str, tokens: int) -> None:
        self.desk.author.cursed.add(state_after(prompt, tokens))

    def close(self) -> None:
        self.desk.scheduler.close()

    def end(self) -> None:
        self.settle()
        self.desk.work()


PROMPTS = st.lists(st.text("abc", min_size=1, max_size=9) | st.just("ab!"), min_size=1, max_size=3)
ACTIONS = st.one_of(
    st.tuples(
        st.just("ask"), PROMPTS, st.integers(1, 12), st.sampled_from([0.01, 1e9]), st.sampled_from([(), tuple("acegi")])
    ),
    st.tuples(st.just("leave"), st.integers(0, 50)),
    st.tuples(st.just("curse"), st.text("abc", min_size=1, max_size=9), st.integers(0, 6)),
    st.tuples(st.sampled_from(["take", "settle", "take", "settle", "take", "settle", "close"])),
)


@given(actions=st.lists(ACTIONS, max_size=50), dispatch_s=st.sampled_from([0.0, 0.004]))
def test_no_interleaving_loses_duplicates_or_swaps_a_text(actions: list[tuple[Any, ...]], dispatch_s: float) -> None:
    play = Play(dispatch_s)
    for action, *details in actions:
        getattr(play, action)(*details)
    play.end()
    for waiter, prompts, owed in play.accepted:
        assert waiter.settled == 1
        if waiter.error is None:
            assert texts(waiter) == owed
        elif waiter.error == "ClientGone":
            assert not waiter.connected
        elif waiter.error == "DeadlinePassed":
            assert waiter.call.deadline_s < 1e6
        else:
            assert waiter.error == "InternalError"
            assert play.desk.author.cursed or any("!" in prompt for prompt in prompts)


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
