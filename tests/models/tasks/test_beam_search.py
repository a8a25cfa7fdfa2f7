"""Beam search: which targets it finds, in which order, and when it ends."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.codecs.pieces import END
from models.tasks.beam_search import BeamSearch, Hypothesis, StepOutputs, TranslateOptions, length_penalty

VOCABULARY = 4
Model = Callable[[Sequence[int]], NDArray[np.float32]]  # pieces so far -> log-probabilities (V,)


def random_model(seed: int) -> Model:
    """Return a model whose log-probabilities depend on all pieces so far."""

    def model(pieces: Sequence[int]) -> NDArray[np.float32]:
        logits = np.random.default_rng([seed, *pieces]).normal(0, 1.5, VOCABULARY)
        found: NDArray[np.float32] = (logits - np.log(np.exp(logits).sum())).astype(np.float32)
        return found

    return model


def outputs(logs: NDArray[np.float32], rows_before: int = 0) -> StepOutputs:
    """Return what the graph says for log-probabilities (B, V), behind rows of other searches."""
    logs = np.concatenate([np.zeros((rows_before, VOCABULARY), np.float32), logs])
    best = np.argsort(-logs, axis=1, kind="stable").astype(np.int32)
    scores = np.take_along_axis(logs, best, axis=1)
    attention = np.exp(logs)[:, :3]
    return StepOutputs(scores, best, attention, logs)


def search(model: Model, *, rows_before: int = 0, **options: Any) -> list[Hypothesis]:
    beams = BeamSearch(TranslateOptions(**options))
    targets: list[list[int]] = [[]]
    while beams.rows:
        step = outputs(np.array([model(target) for target in targets]), rows_before)
        parents = beams.advance(step, rows_before)
        targets = [[*targets[row - rows_before], piece] for row, piece in zip(parents, beams.pieces, strict=True)]
    return beams.finished


def all_targets(model: Model, longest: int, alpha: float) -> list[tuple[float, list[int]]]:
    """Return the score and the pieces of every target, best first."""
    found = []
    for length in range(longest + 1):
        for pieces in itertools.product(range(1, VOCABULARY), repeat=length):
            score = sum(float(model(pieces[:place])[piece]) for place, piece in enumerate(pieces))
            count = length
            if length < longest:
                score, count = score + float(model(pieces)[END]), length + 1
            found.append((score / length_penalty(count, alpha), list(pieces)))
    return sorted(found, key=lambda each: -each[0])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), alpha=st.sampled_from([0.0, 0.6, 1.0, 3.0, 10.0]), count=st.integers(1, 5))
def test_a_wide_beam_finds_the_best_of_all_targets(seed: int, alpha: float, count: int) -> None:
    model = random_model(seed)
    found = search(model, num_beams=200, num_return_sequences=count, max_new_tokens=3, length_penalty=alpha)
    expected = all_targets(model, 3, alpha)[:count]
    assert [each.pieces for each in found] == [pieces for _, pieces in expected]
    assert [each.score for each in found] == pytest.approx([score for score, _ in expected])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), longest=st.integers(1, 12))
def test_a_beam_of_one_is_greedy_decoding(seed: int, longest: int) -> None:
    model = random_model(seed)
    greedy: list[int] = []
    while len(greedy) < longest and (piece := int(model(greedy).argmax())) != END:
        greedy.append(piece)
    (found,) = search(model, max_new_tokens=longest)
    assert found.pieces == greedy
    assert found.finish_reason == ("length" if len(greedy) == longest else "eos")


def test_targets_are_sorted_by_score() -> None:
    found = search(random_model(5), num_beams=5, num_return_sequences=5, max_new_tokens=8)
    scores = [each.score for each in found]
    assert len(found) == 5
    assert scores == sorted(scores, reverse=True)
    assert len({tuple(each.pieces) for each in found}) == 5


@pytest.mark.parametrize("beams", [1, 3])
def test_a_score_is_the_sum_of_the_log_probabilities_over_the_length_penalty(beams: int) -> None:
    model = random_model(3)
    (found,) = search(model, num_beams=beams, max_new_tokens=6, length_penalty=0.6)
    logs = [float(model(found.pieces[:place])[piece]) for place, piece in enumerate([*found.pieces, END])]
    logs = logs[: len(found.log_probabilities)]
    assert found.log_probabilities == logs
    assert found.score == pytest.approx(sum(logs) / ((5 + len(logs)) / 6) ** 0.6)


@pytest.mark.parametrize("beams", [1, 4])
def test_every_target_begins_with_the_prefix(beams: int) -> None:
    found = search(random_model(8), num_beams=beams, num_return_sequences=beams, max_new_tokens=3, prefix=(3, 3, 1, 2))
    assert all(each.pieces[:4] == [3, 3, 1, 2] for each in found)
    assert all(len(each.pieces) <= 7 for each in found)


def test_of_equal_scores_the_lower_row_and_piece_come_first() -> None:
    def flat(pieces: Sequence[int]) -> NDArray[np.float32]:
        logs = np.full(VOCABULARY, math.log(1 / 3), np.float32)
        logs[END] = 0.0 if len(pieces) == 2 else -np.inf
        return logs

    found = search(flat, num_beams=4, num_return_sequences=4, max_new_tokens=5)
    assert [each.pieces for each in found] == [[1, 1], [1, 2], [1, 3], [2, 1]]


def test_a_search_needs_fewer_rows_as_its_targets_end() -> None:
    model = random_model(11)
    beams = BeamSearch(TranslateOptions(num_beams=4, num_return_sequences=4, max_new_tokens=9))
    targets: list[list[int]] = [[]]
    while beams.rows:
        assert beams.rows + len(beams.finished) <= 4
        parents = beams.advance(outputs(np.array([model(target) for target in targets])), 0)
        targets = [[*targets[row], piece] for row, piece in zip(parents, beams.pieces, strict=True)]
    assert len(beams.finished) == 4


def test_the_rows_of_a_batch_before_it_change_nothing() -> None:
    asked: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 6}
    alone, behind = search(random_model(2), **asked), search(random_model(2), rows_before=7, **asked)
    assert [(each.pieces, each.score) for each in behind] == [(each.pieces, each.score) for each in alone]


def test_the_attention_of_each_piece_is_that_of_its_own_row() -> None:
    model = random_model(4)
    for found in search(model, num_beams=3, num_return_sequences=3, max_new_tokens=5, details=True):
        assert len(found.attention) == len(found.pieces)
        for place, weights in enumerate(found.attention):
            np.testing.assert_array_equal(weights, np.exp(model(found.pieces[:place]))[:3])


def test_a_search_without_details_keeps_no_attention() -> None:
    (found,) = search(random_model(4), num_beams=3, max_new_tokens=5)
    assert found.attention == []


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_scores_that_are_not_finite_are_an_error(beams: int, value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        search(lambda _: np.full(VOCABULARY, value, np.float32), num_beams=beams)
