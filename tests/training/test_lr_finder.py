"""The learning-rate range test."""

from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from tests.support.point_objectives import Points, training
from training import lr_finder


def test_rate_rises_by_a_constant_factor() -> None:
    reports: list[tuple[int, int]] = []
    curve = lr_finder.run_range_test(
        Points(), training(), 60, report=lambda step, steps, loss: reports.append((step, steps))
    )
    assert (curve.rates[0], reports[0]) == (pytest.approx(1e-5), (1, 60))
    assert np.allclose(np.diff(np.log(curve.rates)), np.log(1e5) / 59)


class Steep(Points):
    def loss(self, batch: Tensor) -> Tensor:
        return 1000 * super().loss(batch)


def test_range_test_ends_when_the_loss_diverges() -> None:
    curve = lr_finder.run_range_test(Steep(), training(optimizer="sgd", clip=0), 100, report=lambda *_: None)
    assert 10 * lr_finder.LOWEST < curve.rates[-1] < lr_finder.HIGHEST / 10
    assert all(np.isfinite(curve.losses))


def test_suggestion_is_a_tenth_of_the_rate_with_the_lowest_loss() -> None:
    rates = [10 ** (power / 10) for power in range(-50, 1)]
    losses = [2.0] * 30 + [1.5, 0.5] + [1.0] * 19
    curve = lr_finder.RangeTestResult(rates=rates, losses=losses)
    assert curve.lowest == pytest.approx(10**-1.9)
    assert curve.suggestion == 0.001
    assert rates[30] <= curve.steepest <= rates[31]


def test_plot_is_written(tmp_path: Path) -> None:
    curve = lr_finder.run_range_test(Points(), training(), 60, report=lambda *_: None)
    lr_finder.plot_range_test(curve, tmp_path / "rate.png", "points")
    assert (tmp_path / "rate.png").stat().st_size > 1000
