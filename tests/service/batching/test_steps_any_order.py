"""The step scheduler: whatever arrives, leaves, fails or ends in any order, each text is answered once, its own."""

from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import Overloaded, Unavailable
from tests.service.batching.fakes import expected
from tests.service.batching.play import Play, check_end
from tests.service.batching.writing import Desk, state_after, texts


def cut(whole: str, stop: tuple[str, ...]) -> str:
    """A text to the end of the first letter of `stop` in it."""
    return whole[: next((place + 1 for place, letter in enumerate(whole) if letter in stop), len(whole))]


class Texts(Play):
    """Who is accepted is owed the texts that follow its prompts."""

    def __init__(self, dispatch_s: float) -> None:
        super().__init__(Desk(slots=4, queue_items=5, prefill_steps=3, prefill_tokens=6, dispatch_s=dispatch_s))

    def ask(self, prompts: list[str], count: int, timeout_s: float, stop: tuple[str, ...]) -> None:
        with suppress(Overloaded, Unavailable):
            waiter = self.desk.ask(*prompts, max_new_tokens=count, timeout_s=timeout_s, stop=stop)
            self.accepted.append((waiter, (prompts, [cut(expected(prompt, count), stop) for prompt in prompts])))

    def curse(self, prompt: str, tokens: int) -> None:
        self.desk.author.cursed.add(state_after(prompt, tokens))


# Of what goes well more than of what does not: a text that fails says nothing of the rows beside it.
PROMPT = st.text("abc", min_size=1, max_size=9)
PROMPTS = st.lists(st.one_of(PROMPT, PROMPT, PROMPT, PROMPT, st.just("ab!")), min_size=1, max_size=3)
ASK = st.tuples(
    st.just("ask"),
    PROMPTS,
    st.integers(1, 12),
    st.sampled_from([0.01, 1e9, 1e9]),
    st.sampled_from([(), tuple("acegi")]),
)
WORK = st.tuples(st.sampled_from(["take", "settle"] * 6 + ["close"]))
LEAVE = st.tuples(st.just("leave"), st.integers(0, 50))
CURSE = st.tuples(st.just("curse"), st.text("abc", min_size=4, max_size=9), st.integers(0, 6))
ACTIONS = st.one_of(ASK, ASK, ASK, WORK, WORK, WORK, LEAVE, CURSE)


@settings(max_examples=400, deadline=None)
@given(actions=st.lists(ACTIONS, max_size=50), dispatch_s=st.sampled_from([0.0, 0.004]))
def test_no_interleaving_loses_duplicates_or_swaps_a_text(actions: list[tuple[Any, ...]], dispatch_s: float) -> None:
    play = Texts(dispatch_s)
    play.run(actions)
    for waiter, (prompts, owed) in play.accepted:
        failed = bool(play.desk.author.cursed) or any("!" in prompt for prompt in prompts)
        check_end(waiter, failed=failed)
        if waiter.error is None:
            assert texts(waiter) == owed
