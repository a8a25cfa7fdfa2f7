"""Schedules: where each begins, how it warms up, where it ends; plateaus are counted from the losses alone."""

from typing import Any

import pytest

from tests.training.points import training
from training.lr_schedules import cuts, factor


@pytest.mark.parametrize(
    ("schedule", "middle", "last"),
    [("cosine", 0.505, 0.01), ("linear", 0.505, 0.01), ("constant", 1.0, 1.0), ("plateau", 1.0, 1.0)],
)
def test_the_rate_warms_up_for_a_tenth_at_most_and_then_follows_its_schedule(
    schedule: Any, middle: float, last: float
) -> None:
    how = training(schedule=schedule, warmup_steps=100)
    assert [factor(how, step, 50) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factor(how, 5, 55) == pytest.approx(1.0)
    assert factor(how, 30, 55) == pytest.approx(middle)
    assert factor(how, 55, 55) == pytest.approx(last)


def test_a_short_warm_up_is_as_long_as_was_asked() -> None:
    how = training(schedule="constant", warmup_steps=2)
    assert [factor(how, step, 1000) for step in range(4)] == [0.5, 1.0, 1.0, 1.0]


def test_one_cycle_rises_for_three_tenths_and_falls_to_almost_nothing() -> None:
    rates = [factor(training(schedule="one-cycle"), step, 101) for step in range(101)]
    assert rates[0] == pytest.approx(0.04)
    assert rates[30] == max(rates) == pytest.approx(1.0)
    assert rates[100] == pytest.approx(1e-4)
    assert rates[:31] == sorted(rates[:31])
    assert rates[30:] == sorted(rates[30:], reverse=True)


@pytest.mark.parametrize(
    ("losses", "patience", "expected"),
    [
        ([], 2, 0),
        ([3, 2, 1], 1, 0),
        ([1, 2], 2, 0),
        ([1, 2, 2], 2, 1),
        ([1, 1, 1], 2, 1),  # no lower is not lower
        ([1, 2, 2, 2], 2, 1),  # the count starts anew after a cut
        ([1, 2, 2, 2, 2], 2, 2),
        ([1, 2, 0.5, 2], 2, 0),
    ],
)
def test_a_plateau_is_that_many_epochs_without_a_lower_loss(losses: list[float], patience: int, expected: int) -> None:
    assert cuts(losses, patience) == expected
    how = training(schedule="plateau", plateau_patience=patience, plateau_factor=0.1)
    assert factor(how, 500, 1000, losses) == pytest.approx(0.1**expected)
