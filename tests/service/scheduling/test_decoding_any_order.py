"""Generation in any order of events: each request is answered once, with its own texts."""

from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import Overloaded, Unavailable
from tests.support.scheduling import DecodingHarness, Interleaving, check_outcome, expected_text, state_after


def cut(whole: str, stop: tuple[str, ...]) -> str:
    """Return a text up to the first letter of `stop` in it, inclusive."""
    return whole[: next((place + 1 for place, letter in enumerate(whole) if letter in stop), len(whole))]


class Texts(Interleaving):
    """Each admitted client must get the texts that follow its prompts."""

    def __init__(self, dispatch_s: float) -> None:
        super().__init__(
            DecodingHarness(slots=4, queue_items=5, prefill_steps=3, prefill_tokens=6, dispatch_s=dispatch_s)
        )

    def ask(self, prompts: list[str], count: int, timeout_s: float, stop: tuple[str, ...]) -> None:
        with suppress(Overloaded, Unavailable):
            client = self.harness.ask(*prompts, max_new_tokens=count, timeout_s=timeout_s, stop=stop)
            self.admitted.append((client, (prompts, [cut(expected_text(prompt, count), stop) for prompt in prompts])))

    def break_state(self, prompt: str, tokens: int) -> None:
        self.harness.model.bad_states.add(state_after(prompt, tokens))


# Mostly good prompts: a text that fails tells nothing about the rows next to it.
PROMPT = st.text("abc", min_size=1, max_size=9)
PROMPTS = st.lists(st.one_of(PROMPT, PROMPT, PROMPT, PROMPT, st.just("ab!")), min_size=1, max_size=3)
ASK = st.tuples(
    st.just("ask"),
    PROMPTS,
    st.integers(1, 12),
    st.sampled_from([0.01, 1e9, 1e9]),
    st.sampled_from([(), tuple("acegi")]),
)
WORK = st.tuples(st.sampled_from(["take", "complete"] * 6 + ["close"]))
DISCONNECT = st.tuples(st.just("disconnect"), st.integers(0, 50))
BREAK = st.tuples(st.just("break_state"), st.text("abc", min_size=4, max_size=9), st.integers(0, 6))
ACTIONS = st.one_of(ASK, ASK, ASK, WORK, WORK, WORK, DISCONNECT, BREAK)


@settings(max_examples=400, deadline=None)
@given(actions=st.lists(ACTIONS, max_size=50), dispatch_s=st.sampled_from([0.0, 0.004]))
def test_no_interleaving_loses_duplicates_or_swaps_a_text(actions: list[tuple[Any, ...]], dispatch_s: float) -> None:
    interleaving = Texts(dispatch_s)
    interleaving.run(actions)
    for client, (prompts, texts) in interleaving.admitted:
        may_fail = bool(interleaving.harness.model.bad_states) or any("!" in prompt for prompt in prompts)
        check_outcome(client, may_fail=may_fail)
        if client.error is None:
            assert client.texts == texts
