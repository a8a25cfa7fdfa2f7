"""The cost model finds the constants of a machine, and stays usable where there are none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.scheduling.cost_model import CostModel


def test_it_finds_the_constants_of_a_machine() -> None:
    random, model = np.random.default_rng(0), CostModel()
    for _ in range(400):
        rows, steps = int(random.integers(1, 33)), int(random.integers(1, 60))
        model.learn(rows, steps, 2e-4 + 3e-5 * steps + 5e-6 * rows * steps)
    assert [model.call_s, model.step_s, model.cell_s] == pytest.approx([2e-4, 3e-5, 5e-6], rel=0.02)


def test_noise_does_not_hide_the_constants() -> None:
    random, model = np.random.default_rng(1), CostModel()
    for _ in range(2000):
        rows, steps = int(random.integers(1, 33)), int(random.integers(1, 60))
        model.learn(rows, steps, (2e-4 + 3e-5 * steps + 5e-6 * rows * steps) * random.uniform(0.8, 1.2))
    assert model.seconds(16, 30) == pytest.approx(2e-4 + 9e-4 + 24e-4, rel=0.1)


def test_it_follows_a_machine_that_becomes_slower() -> None:
    random, model = np.random.default_rng(2), CostModel()
    for factor in (1.0, 3.0):
        for _ in range(400):
            rows, steps = int(random.integers(1, 33)), int(random.integers(1, 60))
            model.learn(rows, steps, factor * (1e-4 + 2e-5 * steps + 4e-6 * rows * steps))
    assert model.seconds(16, 20) == pytest.approx(3 * (1e-4 + 4e-4 + 12.8e-4), rel=0.05)


@pytest.mark.parametrize("factor", [0.1, 100])
def test_a_few_batches_correct_a_wrong_first_guess(factor: float) -> None:
    model = CostModel()
    for _ in range(8):
        model.learn(4, 10, factor * 2.2e-4)
    assert model.seconds(4, 10) == pytest.approx(factor * 2.2e-4, rel=0.01)


def test_a_slow_first_batch_is_soon_forgotten() -> None:
    model = CostModel()
    model.learn(4, 10, 0.5)
    for _ in range(15):
        model.learn(4, 10, 2e-4)
    assert model.seconds(4, 10) == pytest.approx(2e-4, rel=0.1)


def test_one_interrupted_batch_changes_little() -> None:
    model = CostModel()
    for _ in range(40):
        model.learn(8, 20, 1e-3)
    model.learn(8, 20, 10.0)
    for _ in range(7):
        model.learn(8, 20, 1e-3)
    assert model.seconds(8, 20) < 2e-3


@given(
    batches=st.lists(st.tuples(st.integers(1, 64), st.integers(1, 4096), st.floats(0, 100)), min_size=8, max_size=60)
)
def test_every_estimate_is_positive_whatever_was_measured(batches: list[tuple[int, int, float]]) -> None:
    model = CostModel()
    for batch in batches:
        model.learn(*batch)
    assert min(model.call_s, model.step_s, model.cell_s) > 0
    assert model.seconds(2, 10) > model.seconds(1, 10) > model.seconds(1, 9) > 0


def test_spelled_words_have_a_cost_of_their_own() -> None:
    model = CostModel()
    for number in range(400):
        rows, steps, extra = 1 + number % 16, 1 + number % 37, number % 23
        model.learn(rows, steps, 1e-4 + steps * (1e-5 + 3e-6 * rows) + 5e-5 * extra, extra)
    assert model.extra_s == pytest.approx(5e-5, rel=0.1)


def test_a_feature_that_was_not_seen_for_long_does_not_break_the_fit() -> None:
    model = CostModel()
    for _ in range(40_000):
        model.learn(1, 1, 1e-4)
    assert model.seconds(1, 1) == pytest.approx(1e-4, rel=0.1)
