"""Sorted lengths are cut into the cheapest batches within the limits."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.scheduling.cost_model import CostModel
from service.scheduling.sequences import PADDING_AVERSION, cut_batch

Cut = tuple[int, ...]


def cuts(lengths: Sequence[int], rows: int, tokens: int) -> Iterator[Cut]:
    """Yield the bounds of every cut that keeps equal lengths together.

    Equal lengths that exceed one batch are cut into as few batches as possible, of about the same size.
    """
    places = [place for place in range(1, len(lengths)) if lengths[place] != lengths[place - 1]]
    for inner in range(2 ** len(places)):
        bounds = [0, *(place for number, place in enumerate(places) if inner >> number & 1), len(lengths)]
        cut = {0}
        for first, last in pairwise(bounds):
            most = min(rows, max(1, tokens // lengths[last - 1]))
            alike = lengths[first] == lengths[last - 1]
            size = -(-(last - first) // -(-(last - first) // most)) if alike else last - first
            cut |= {*range(first + size, last, size), last}
        yield tuple(sorted(cut))


def price(lengths: Sequence[int], cut: Cut, cost: CostModel, rows: int, tokens: int) -> float:
    total = 0.0
    for first, last in pairwise(cut):
        fits = last - first == 1 or (last - first <= rows and (last - first) * lengths[last - 1] <= tokens)
        cells = (last - first) * lengths[last - 1]
        seconds = cost.seconds(last - first, lengths[last - 1]) + (PADDING_AVERSION - 1) * cost.cell_s * cells
        total += seconds if fits else float("inf")
    return total


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=9).map(sorted),
    st.floats(1e-6, 1e-3),
    st.floats(1e-7, 1e-4),
    st.integers(1, 9),
    st.integers(1, 120),
)
def test_the_batches_of_all_sequences_are_a_cheapest_cut(
    lengths: list[int], call_s: float, cell_s: float, rows: int, tokens: int
) -> None:
    cost = CostModel(call_s=call_s, cell_s=cell_s)
    found = {cut_batch(lengths, place, cost, rows=rows, tokens=tokens) for place in range(len(lengths))}
    cut = (0, *sorted(last for _, last in found))
    assert {*pairwise(cut)} == found
    best = min(price(lengths, other, cost, rows, tokens) for other in cuts(lengths, rows, tokens))
    assert price(lengths, cut, cost, rows, tokens) == pytest.approx(best)


def test_a_long_sequence_runs_alone_and_the_short_ones_together() -> None:
    lengths = [5, 5, 6, 6, 90]
    cost = CostModel(call_s=1e-4, step_s=1e-6, cell_s=5e-6)
    assert cut_batch(lengths, 0, cost, rows=32, tokens=2048) == (0, 4)
    assert cut_batch(lengths, 4, cost, rows=32, tokens=2048) == (4, 5)


def test_too_many_sequences_of_one_length_are_cut_evenly() -> None:
    cost = CostModel(call_s=1e-4, step_s=1e-6, cell_s=5e-6)
    lengths = [7] * 9 + [8]
    found = {cut_batch(lengths, place, cost, rows=4, tokens=2048) for place in range(10)}
    assert found == {(0, 3), (3, 6), (6, 9), (9, 10)}


def test_a_sequence_over_the_token_limit_is_a_batch_of_its_own() -> None:
    assert cut_batch([9, 3000], 1, CostModel(call_s=1.0), rows=32, tokens=2048) == (1, 2)


def test_batches_are_short_where_that_costs_little() -> None:
    cost = CostModel(call_s=1e-4, step_s=0.0, cell_s=1e-5)
    lengths = [10] * 40  # 0.1 ms each, and 0.1 ms for the call

    def found(target_s: float) -> set[tuple[int, int]]:
        return {
            cut_batch(lengths, place, cost, rows=32, tokens=2048, target_s=target_s) for place in range(len(lengths))
        }

    assert found(0.00115) == {(0, 10), (10, 20), (20, 30), (30, 40)}
    assert len(found(0.00045)) == 2  # the call is a third of three rows: too much
