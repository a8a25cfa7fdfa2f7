"""The step scheduler: whatever arrives, leaves, fails or ends in any order, each text is answered once, its own."""

from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from service.batching.steps import Prefill, Steps
from service.errors import Overloaded, Unavailable
from tests.service.batching.fakes import Waiter, expected
from tests.service.batching.writing import Desk, state_after, texts


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
