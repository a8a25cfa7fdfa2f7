"""Scores of forecasts and their baselines."""

import numpy as np
import pytest

from training import forecasts
from training.data.examples import ForecastWindow, TimeSeries

HOURS = np.arange(400)
DAILY = tuple(np.sin(2 * np.pi * HOURS / 24).round(6).tolist())


def series(values: tuple[float | None, ...] = DAILY, first: int = 0) -> TimeSeries:
    return TimeSeries(name="a", values=values, start="2026-01-01T00:00:00", frequency="h", first=first)


def test_errors_are_in_units_of_the_series_and_leave_out_missing_values() -> None:
    errors = forecasts.Errors()
    future, mean = np.array([2.0, np.nan, 4.0]), np.array([0.0, 0.0, 0.0])
    errors.add(future, mean, 2.0, (mean, mean + 3))
    assert errors.scores() == {"mse": 2.5, "mae": 1.5, "coverage_80": 50.0}


def test_a_gap_is_filled_from_the_left_and_at_the_start_from_the_right() -> None:
    assert forecasts.fill(np.array([np.nan, 1.0, np.nan, 3.0])).tolist() == [1.0, 1.0, 1.0, 3.0]


def test_the_last_season_is_repeated() -> None:
    assert forecasts.repeat_season(np.array([9.0, 1.0, 2.0]), 2, 5).tolist() == [1.0, 2.0, 1.0, 2.0, 1.0]


def test_a_daily_wave_is_easy_for_a_season_and_hard_for_the_last_value() -> None:
    window = ForecastWindow(series="a", history=DAILY[:96], future=DAILY[96:144], unit=1.0)
    scores = forecasts.baselines([series(DAILY[:300])], [window], horizon=48)
    assert scores[forecasts.seasonal(24)]["mse"] == pytest.approx(0, abs=1e-9)
    assert scores[forecasts.LINEAR]["mse"] == pytest.approx(0, abs=1e-2)
    assert scores[forecasts.LAST]["mse"] > 0.3


def test_a_table_has_a_row_for_each_history_and_horizon() -> None:
    def predict(histories):  # type: ignore[no-untyped-def]
        for history in histories:
            mean = forecasts.repeat_season(history, 24, 48)
            yield mean, mean - 0.1, mean + 0.1

    rows = forecasts.table(predict, [series(DAILY[:300])], [series(first=300)], histories=(24, 48), horizons=(24, 48))
    assert [(row["history"], row["horizon"]) for row in rows] == [(24, 24), (24, 48), (48, 24), (48, 48)]
    assert all(row["scores"]["model"]["mse"] < 1e-9 for row in rows)
    assert all(row["scores"]["model"]["coverage_80"] == 100 for row in rows)
