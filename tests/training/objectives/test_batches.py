"""Batches: every sequence once and within the budget; streams of text without a gap."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.objectives import bucket_by_length
from training.objectives.language_model import split_into_streams


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=80), st.integers(1, 200), st.one_of(st.none(), st.integers(0, 9)))
def test_every_non_empty_sequence_is_in_one_bucket_within_the_budget(
    lengths: list[int], budget: int, seed: int | None
) -> None:
    groups = bucket_by_length(lengths, budget, None if seed is None else np.random.default_rng(seed))
    assert sorted(i for group in groups for i in group) == [i for i, length in enumerate(lengths) if length]
    for group in groups:
        assert len(group) == 1 or max(lengths[i] for i in group) * len(group) <= budget


def test_buckets_depend_on_the_seed_alone() -> None:
    lengths = [1 + i % 17 for i in range(200)]
    first, again, other = (bucket_by_length(lengths, 100, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_buckets_of_sorted_lengths_waste_little() -> None:
    lengths = np.random.default_rng(0).integers(1, 40, 1000).tolist()
    groups = bucket_by_length(lengths, 400, np.random.default_rng(0))
    padded = sum(max(lengths[i] for i in group) * len(group) for group in groups)
    assert sum(lengths) / padded > 0.9


@pytest.mark.parametrize("offset", [0, 7])
def test_streams_are_contiguous_and_targets_are_the_next_character(offset: int) -> None:
    text = np.arange(1000, dtype=np.int32)
    pieces = list(split_into_streams(text, 4, 30, offset))
    inputs = np.concatenate([piece[0].numpy() for piece in pieces])  # (T, 4)
    targets = np.concatenate([piece[1].numpy() for piece in pieces])
    assert (targets == inputs + 1).all()
    assert (np.diff(inputs, axis=0) == 1).all()
    assert inputs[0].tolist() == [offset + k * len(inputs) for k in range(4)]
    assert [first for _, _, first in pieces] == [True] + [False] * (len(pieces) - 1)
    assert all(len(piece[0]) == 30 for piece in pieces[:-1])


def test_text_too_short_for_its_streams_is_rejected() -> None:
    with pytest.raises(ValueError, match="5 characters cannot be cut into 9 streams"):
        next(split_into_streams(np.arange(5, dtype=np.int32), 9, 2))
