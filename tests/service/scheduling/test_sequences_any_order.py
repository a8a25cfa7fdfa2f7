"""Whole sequences in any order of events: each request is answered once, with its own results."""

from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import DeadlinePassed, Overloaded, Unavailable
from tests.support.scheduling import Client, Interleaving, Item, SequenceHarness, answers, check_outcome


class Sequences(Interleaving):
    """Each admitted client must get an answer to each of its items."""

    def __init__(self) -> None:
        super().__init__(SequenceHarness(batch_rows=3, queue_items=12, queue_tokens=150))
        self.lost = False
        self.encoding: list[tuple[Client, int]] = []

    def ask(self, parts: list[tuple[int, int]], timeout_s: float) -> None:
        number = len(self.admitted)
        items = [Item(f"{number}.{i}", length, bad=luck == 0) for i, (length, luck) in enumerate(parts)]
        with suppress(Overloaded, Unavailable, DeadlinePassed):
            self.admitted.append((self.harness.ask(*items, timeout_s=timeout_s), items))

    def reserve(self, items: int) -> None:
        """Admit a request whose inputs are not encoded yet."""
        with suppress(Overloaded, Unavailable, DeadlinePassed):
            client = Client(self.harness.clock)
            client.job = self.harness.scheduler.admit(client.request, items)
            self.encoding.append((client, items))

    def submit(self, number: int) -> None:
        if self.encoding:
            client, count = self.encoding.pop(number % len(self.encoding))
            client.job.on_done = client.record_completion
            items = [Item(f"{len(self.admitted)}.{i}", 1 + i) for i in range(count)]
            self.harness.scheduler.submit(client.job, items)
            self.admitted.append((client, items))

    def fail_encoding(self) -> None:
        if self.encoding:
            self.encoding.pop()[0].job.cancel()

    def complete(self) -> None:
        if self.work is not None:
            super().complete()
            self.harness.model.surplus = 0

    def end(self) -> None:
        while self.encoding:
            self.submit(0)
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
    st.tuples(st.just("reserve"), st.integers(1, 5)),
    st.tuples(st.just("submit"), st.integers(0, 50)),
    st.tuples(st.just("fail_encoding")),
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
    with suppress(Unavailable):  # no reservation is left: the queue has room for all its items
        for items in (11, 1):
            interleaving.harness.scheduler.admit(Client(interleaving.harness.clock).request, items)
