"""Forecasts: the scale of the series, quantiles that never cross, and the bits of an answer in any batch."""

from pathlib import Path

import numpy as np
import pytest

import models
from models.bundle import Bundle
from models.codecs import InputError
from models.tasks import Forecasting
from models.tasks.forecast import ForecastRow
from tests.support import bundles

LENGTHS = (4, 5, 11, 19, 20, 21, 300)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundles.opened(bundles.forecaster(tmp_path_factory.mktemp("zoo")))


@pytest.fixture
def task(bundle: Bundle) -> Forecasting:
    assert isinstance(bundle.task, Forecasting)
    return bundle.task


def row(*quantiles: float) -> ForecastRow:
    return ForecastRow(np.zeros(8, np.float32), np.tile(np.array(quantiles, np.float32), (8, 1)))


def test_an_answer_is_on_the_scale_of_the_series(task: Forecasting) -> None:
    item = task.encode([10.0, 20.0, 10.0, 20.0])
    forecast = task.answer(item, row(-1.0, 0.0, 2.0), prediction_length=2)
    assert forecast.mean == [20.0, 20.0]
    assert forecast.quantiles == {"0.1": [15.0, 15.0], "0.5": [20.0, 20.0], "0.9": [30.0, 30.0]}


def test_a_level_between_two_trained_ones_is_interpolated(task: Forecasting) -> None:
    item = task.encode([10.0, 20.0, 10.0, 20.0])
    forecast = task.answer(item, row(-1.0, 0.0, 2.0), quantile_levels=(0.3, 0.7))
    assert forecast.quantiles == {"0.3": [17.5], "0.7": [25.0]}


def test_quantiles_never_cross(task: Forecasting) -> None:
    random = np.random.default_rng(1)
    item, levels = task.encode([10.0, 20.0, 10.0, 21.0]), (0.1, 0.2, 0.5, 0.77, 0.9)
    for _ in range(1250):  # 10,000 values
        found = ForecastRow(np.zeros(8, np.float32), random.normal(size=(8, 3)).astype(np.float32))
        forecast = task.answer(item, found, prediction_length=8, quantile_levels=levels)
        assert (np.diff(list(forecast.quantiles.values()), axis=0) >= 0).all()


def test_a_constant_series_stays_constant(task: Forecasting) -> None:
    assert task.answer(task.encode([7.0] * 4), row(-1.0, 0.0, 2.0)).quantiles["0.9"] == [7.0]


def test_an_answer_has_the_same_bits_alone_and_among_63_others(bundle: Bundle, task: Forecasting) -> None:
    random = np.random.default_rng(2)
    series = []
    for number in range(64):
        values = random.normal(size=LENGTHS[number % len(LENGTHS)]).cumsum()
        values[random.random(len(values)) < (0.0, 0.01, 0.5)[number % 3]] = np.nan
        values[-1] = number
        series.append(task.encode(values))
    together = task.decode(series, bundle.model.run(task.collate(series)))
    for item, found in zip(series, together, strict=True):
        (alone,) = task.decode([item], bundle.model.run(task.collate([item])))
        assert alone.mean.tobytes() == found.mean.tobytes()
        assert alone.quantiles.tobytes() == found.quantiles.tobytes()


@pytest.mark.parametrize(("length", "limit"), [(0, 8), (9, 8)])
def test_a_horizon_that_is_not_there_is_refused(task: Forecasting, length: int, limit: int) -> None:
    with pytest.raises(InputError) as caught:
        task.answer(task.encode([1.0, 2.0, 3.0, 4.0]), row(0, 0, 0), prediction_length=length)
    assert (caught.value.value, caught.value.limit) == (length, limit)


def test_a_level_outside_the_trained_ones_is_refused(task: Forecasting) -> None:
    with pytest.raises(InputError) as caught:
        task.answer(task.encode([1.0, 2.0, 3.0, 4.0]), row(0, 0, 0), quantile_levels=(0.5, 0.95))
    assert caught.value.value == 0.95


def test_a_forecaster_answers_in_process(tmp_path: Path) -> None:
    forecaster = models.load(bundles.forecaster(tmp_path))
    one = forecaster(bundles.SERIES, prediction_length=3)
    several = forecaster([np.array([1.0, 2.0, 3.0, 4.0]), bundles.SERIES], prediction_length=3)
    assert several[1] == one
    assert len(one.mean) == 3
