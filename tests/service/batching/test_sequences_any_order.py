"""Whole sequences: whatever arrives, leaves, fails or ends in any order, each is answered once, with its own answer."""

from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import DeadlinePassed, Overloaded, Unavailable
from tests.service.batching.desk import Desk, answers
from tests.service.batching.fakes import Item
from tests.service.batching.play import Play, check_end


class Sequences(Play):
    """Who is accepted is owed an answer to each of its items."""

    def __init__(self) -> None:
        super().__init__(Desk(batch_rows=3, queue_items=12, queue_tokens=150))
        self.lost = False

    def ask(self, parts: list[tuple[int, int]], timeout_s: float) -> None:
        number = len(self.accepted)
        items = [Item(f"{number}.{i}", length, bad=luck == 0) for i, (length, luck) in enumerate(parts)]
        with suppress(Overloaded, Unavailable, DeadlinePassed):
            self.accepted.append((self.desk.ask(*items, timeout_s=timeout_s), items))

    def settle(self) -> None:
        if self.work is not None:
            super().settle()
            self.desk.network.spare = 0

    def end(self) -> None:
        self.settle()
        self.desk.network.spare = 0
        super().end()

    def rest(self, seconds: float) -> None:
        self.desk.clock.now_s += seconds

    def lose(self) -> None:
        self.desk.network.spare, self.lost = -1, True


PARTS = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9)), min_size=1, max_size=5)
ACTIONS = st.one_of(
    st.tuples(st.just("ask"), PARTS, st.sampled_from([0.002, 1e9])),
    st.tuples(st.just("leave"), st.integers(0, 50)),
    st.tuples(st.just("rest"), st.sampled_from([0.001, 0.01])),
    st.tuples(st.sampled_from(["take", "settle", "take", "settle", "lose", "close"])),
)


@settings(max_examples=400, deadline=None)
@given(actions=st.lists(ACTIONS, max_size=50))
def test_no_interleaving_loses_duplicates_or_swaps_an_answer(actions: list[tuple[Any, ...]]) -> None:
    play = Sequences()
    play.run(actions)
    for waiter, items in play.accepted:
        check_end(waiter, failed=play.lost or any(item.bad for item in items))
        if waiter.error is None:
            assert waiter.ticket.results == answers(*items)
