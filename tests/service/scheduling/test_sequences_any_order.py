"""Whole sequences in any order of events: each request is answered once, with its own results."""

from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import DeadlinePassed, Overloaded, Unavailable
from tests.support.scheduling import Interleaving, Item, SequenceHarness, answers, check_outcome


class Sequences(Interleaving):
    """Each admitted client must get an answer to each of its items."""

    def __init__(self) -> None:
        super().__init__(SequenceHarness(batch_rows=3, queue_items=12, queue_tokens=150))
        self.lost = False

    def ask(self, parts: list[tuple[int, int]], timeout_s: float) -> None:
        number = len(self.admitted)
        items = [Item(f"{number}.{i}", length, bad=luck == 0) for i, (length, luck) in enumerate(parts)]
        with suppress(Overloaded, Unavailable, DeadlinePassed):
            self.admitted.append((self.harness.ask(*items, timeout_s=timeout_s), items))

    def complete(self) -> None:
        if self.work is not None:
            super().complete()
            self.harness.model.surplus = 0

    def end(self) -> None:
        self.complete()
        self.harness.model.surplus = 0
        super().end()

    def rest(self, seconds: float) -> None:
        self.harness.clock.now_s += seconds

    def lose(self) -> None:
        self.harness.model.surplus, self.lost = -1, True


PARTS = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9)), min_size=1, max_size=5)
ACTIONS = st.one_of(
    st.tuples(st.just("ask"), PARTS, st.sampled_from([0.002, 1e9])),
    st.tuples(st.just("disconnect"), st.integers(0, 50)),
    st.tuples(st.just("rest"), st.sampled_from([0.001, 0.01])),
    st.tuples(st.sampled_from(["take", "complete", "take", "complete", "lose", "close"])),
)


@settings(max_examples=400, deadline=None)
@given(actions=st.lists(ACTIONS, max_size=50))
def test_no_interleaving_loses_duplicates_or_swaps_an_answer(actions: list[tuple[Any, ...]]) -> None:
    interleaving = Sequences()
    interleaving.run(actions)
    for client, items in interleaving.admitted:
        check_outcome(client, may_fail=interleaving.lost or any(item.bad for item in items))
        if client.error is None:
            assert client.job.results == answers(*items)
