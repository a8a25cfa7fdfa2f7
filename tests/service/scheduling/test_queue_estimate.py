"""How much work is queued, and how long it will take."""

import pytest

from service.scheduling.cost_model import MAX_PACE, CostModel, QueueEstimate


def queue(**cost: float) -> QueueEstimate:
    free = {"call_s": 0.0, "step_s": 0.0, "cell_s": 0.0, "extra_s": 0.0}
    return QueueEstimate(CostModel(**{**free, **cost}))


def test_added_and_removed_sequences_are_counted() -> None:
    estimate = queue(cell_s=0.1, extra_s=1.0)
    estimate.add(1, 3, 2)
    estimate.add(1, 5, 0)
    assert (estimate.items, estimate.tokens, estimate.work_s) == (2, 8, pytest.approx(2.8))
    estimate.add(-1, -3, -2)
    assert (estimate.items, estimate.tokens, estimate.work_s) == (1, 5, pytest.approx(0.5))


def test_the_cost_of_calls_and_steps_is_shared_by_the_usual_number_of_rows() -> None:
    estimate = queue(call_s=1.0, step_s=0.1)
    estimate.add(256, 2560, 0)
    for rows in (2, 64):
        for _ in range(300):
            estimate.learn(0.0, rows, 1.0)
        assert estimate.work_s == pytest.approx(256 * (1.0 + 1.0) / rows, rel=0.01)


def test_a_shared_core_makes_work_take_longer() -> None:
    estimate = queue(cell_s=1.0)
    estimate.add(1, 1, 0)
    for number in range(300):
        estimate.learn(number * 0.010, 1, 0.002)
    assert estimate.wait_s == pytest.approx(5.0, rel=0.01)


def test_the_pace_under_load_is_forgotten_without_load() -> None:
    estimate = queue(cell_s=1.0)
    estimate.add(1, 1, 0)
    for number in range(300):
        estimate.learn(number * 1.0, 1, 0.002)
    assert estimate.wait_s == pytest.approx(MAX_PACE, rel=0.01)
    estimate.add(-1, -1, 0)
    for number in range(300):
        estimate.learn(1000.0 + number, 1, 0.002)
    estimate.add(1, 1, 0)
    assert estimate.wait_s == pytest.approx(1.0, rel=0.01)
