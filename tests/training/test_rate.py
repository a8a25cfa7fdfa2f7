"""The range test: the rate rises, it ends where the loss bursts, and what it suggests lies between."""

from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from tests.training.points import Points, training
from training import lr_finder as rate


def test_the_rate_rises_from_the_lowest_to_the_highest_by_one_factor() -> None:
    told: list[tuple[int, int]] = []
    curve = rate.scan(Points(), training(), 60, report=lambda step, steps, loss: told.append((step, steps)))
    assert (curve.rates[0], told[0]) == (pytest.approx(1e-5), (1, 60))
    assert np.allclose(np.diff(np.log(curve.rates)), np.log(1e5) / 59)


class Steep(Points):
    def loss(self, batch: Tensor) -> Tensor:
        return 1000 * super().loss(batch)


def test_it_ends_where_the_loss_bursts() -> None:
    curve = rate.scan(Steep(), training(optimiser="sgd", clip=0), 100, report=lambda *_: None)
    assert 10 * rate.LOWEST < curve.rates[-1] < rate.HIGHEST / 10
    assert all(np.isfinite(curve.losses))


def test_the_suggestion_is_a_tenth_of_the_rate_with_the_smallest_loss() -> None:
    rates = [10 ** (power / 10) for power in range(-50, 1)]
    losses = [2.0] * 30 + [1.5, 0.5] + [1.0] * 19
    curve = rate.Curve(rates=rates, losses=losses)
    assert curve.lowest == pytest.approx(10**-1.9)
    assert curve.suggestion == 0.001
    assert rates[30] <= curve.steepest <= rates[31]


def test_the_picture_is_written(tmp_path: Path) -> None:
    curve = rate.scan(Points(), training(), 60, report=lambda *_: None)
    rate.draw(curve, tmp_path / "rate.png", "points")
    assert (tmp_path / "rate.png").stat().st_size > 1000
