"""SamplingOptions: against an obvious implementation, and independent of everything but the row."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.sampling import UNIFORMS_BLOCK, SamplingBatch, SamplingOptions, sample, uniforms

Logs = NDArray[np.float32]


def obvious(logs: list[float], options: SamplingOptions, uniform: float) -> int:
    """One row, in plain Python, slowly."""
    if options.temperature == 0:
        return logs.index(max(logs))
    highest = max(logs)
    weights = [math.exp((log - highest) / options.temperature) for log in logs]
    order = sorted(range(len(weights)), key=lambda token: -weights[token])
    kept = order[: options.top_k] if options.top_k else order
    if options.top_p < 1:
        total, mass, nucleus = sum(weights[token] for token in kept), 0.0, []
        for token in kept:
            if mass >= options.top_p * total:
                break
            nucleus.append(token)
            mass += weights[token]
        kept = nucleus
    target, mass = uniform * sum(weights[token] for token in sorted(kept)), 0.0
    for token in sorted(kept):
        mass += weights[token]
        if mass > target:
            return token
    return max(kept)


# Distinct multiples of 1/8, so that there are no ties and rounding does not matter.
LOGS = st.lists(st.integers(-80, 0), min_size=2, max_size=12, unique=True).map(lambda row: [value / 8 for value in row])
OPTIONS = st.builds(
    SamplingOptions,
    temperature=st.sampled_from([0.0, 0.25, 0.7, 1.0, 3.0]),
    top_k=st.integers(0, 14),
    top_p=st.sampled_from([0.05, 0.31, 0.6, 0.93, 1.0]),
)
SEEDS = st.integers(0, 2**32 - 1)
UNIFORM = st.floats(0, 1, exclude_max=True)


@given(logs=LOGS, options=OPTIONS, uniform=UNIFORM)
def test_sample_equals_obvious_implementation(logs: list[float], options: SamplingOptions, uniform: float) -> None:
    sampled = sample(np.array([logs], np.float32), SamplingBatch.of([options]), np.array([uniform]))
    expected = obvious(logs, options, uniform)
    if sampled[0] != expected:  # allowed only if the uniform number is within rounding of a boundary
        near = {obvious(logs, options, min(max(uniform + step, 0.0), 1 - 1e-16)) for step in (-1e-12, 1e-12)}
        assert sampled[0] in near


@given(
    rows=st.lists(st.tuples(OPTIONS, UNIFORM, st.integers(0, 2**32 - 1)), min_size=1, max_size=9),
    vocabulary=st.integers(2, 70),
)
def test_sample_does_not_depend_on_other_rows(rows: list[tuple[SamplingOptions, float, int]], vocabulary: int) -> None:
    logs = np.stack([np.random.default_rng(seed).normal(0, 2, vocabulary) for _, _, seed in rows]).astype(np.float32)
    options, uniform = [row[0] for row in rows], np.array([row[1] for row in rows])
    together = sample(logs, SamplingBatch.of(options), uniform)
    for row in range(len(rows)):
        alone = sample(logs[row : row + 1], SamplingBatch.of(options[row : row + 1]), uniform[row : row + 1])
        assert alone[0] == together[row]


def test_greedy_takes_the_first_of_ties() -> None:
    logs = np.log(np.array([[0.2, 0.4, 0.4]], np.float32))
    assert sample(logs, SamplingBatch.of([SamplingOptions(temperature=0.0)]), np.empty(0)).tolist() == [1]


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-300, 5e-324])
def test_temperature_near_zero_is_greedy(temperature: float) -> None:
    logs = np.array([[-3.0, -0.1, -np.inf, -2.5]], np.float32)
    assert sample(logs, SamplingBatch.of([SamplingOptions(temperature=temperature)]), np.array([0.5])).tolist() == [1]


def test_impossible_token_is_never_sampled() -> None:
    logs = np.array([[-np.inf, -0.7, -np.inf, -0.7, -np.inf]] * 3, np.float32)
    sampled = sample(logs, SamplingBatch.of([SamplingOptions()] * 3), np.array([0.0, 0.5, np.nextafter(1.0, 0.0)]))
    assert sampled.tolist() == [1, 3, 3]


@given(seed=SEEDS, vocabulary=st.integers(1, 100))
def test_largest_uniform_samples_a_token_with_weight(seed: int, vocabulary: int) -> None:
    logs = np.random.default_rng(seed).normal(0, 5, (1, vocabulary)).astype(np.float32)
    logs = np.concatenate([logs, np.full((1, 3), -np.inf, np.float32)], axis=1)
    sampled = sample(logs, SamplingBatch.of([SamplingOptions()]), np.array([np.nextafter(1.0, 0.0)]))
    assert sampled[0] < vocabulary


def test_top_k_keeps_ties() -> None:
    logs = np.log(np.array([[0.25, 0.25, 0.25, 0.25]], np.float32))
    sampled = {
        int(sample(logs, SamplingBatch.of([SamplingOptions(top_k=1)]), np.array([u]))[0]) for u in (0.1, 0.3, 0.6, 0.9)
    }
    assert sampled == {0, 1, 2, 3}


@given(seed=st.integers(0, 2**64 - 1), block=st.integers(0, 50))
def test_uniforms_are_a_window_of_the_stream(seed: int, block: int) -> None:
    whole = np.random.Generator(np.random.Philox(key=seed)).random((block + 1) * UNIFORMS_BLOCK)
    for place in (0, UNIFORMS_BLOCK - 1):
        window = uniforms(seed, block * UNIFORMS_BLOCK + place)
        assert np.array_equal(window, whole[-UNIFORMS_BLOCK:])


def test_seeds_wrap_at_64_bits() -> None:
    assert not np.array_equal(uniforms(1, 0), uniforms(2, 0))
    assert np.array_equal(uniforms(-1, 0), uniforms(2**64 - 1, 0))


def test_samples_have_the_distribution() -> None:
    probabilities, count = np.array([0.5, 0.3, 0.15, 0.05]), 20_000
    uniform = np.concatenate([uniforms(5, place) for place in range(0, count, UNIFORMS_BLOCK)])[:count]
    logs = np.tile(np.log(probabilities).astype(np.float32), (count, 1))
    sampled = sample(logs, SamplingBatch.of([SamplingOptions()] * count), uniform)
    # Four standard deviations of the largest share are 0.014.
    assert np.abs(np.bincount(sampled, minlength=4) / count - probabilities).max() < 0.015
