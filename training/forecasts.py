"""Scores of forecasts, and the baselines that a forecaster must beat.

N values of a forecast, L values of a history, W windows, Q quantile levels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.codecs.series import EncodedSeries
from training import metrics
from training.data.examples import ForecastWindow, TimeSeries
from training.data.time_series import as_array, deviation, rolling_windows, season_of

Floats = NDArray[np.float64]

LAST, LINEAR = "last value", "linear regression on the history"
INTERVAL = (0.1, 0.9)  # the bounds of the interval whose coverage is measured
LINEAR_ROWS = 4000  # windows that the linear baseline is fitted on
WINDOWS_SCORED = 3000  # of each series in a table, at most
RIDGE = 1e-2  # of the linear baseline, times the count of windows


def seasonal(season: int) -> str:
    return f"the value one season of {season} before"


def on_scale(item: EncodedSeries, mean: Any, quantiles: Any) -> tuple[Floats, Floats]:
    """Return the mean (N,) and the quantiles (N, Q) of a normalized row on the scale of the series, sorted."""
    return mean * item.scale + item.last, np.sort(quantiles.astype(np.float64), axis=1) * item.scale + item.last


def score(
    rows: Sequence[tuple[Floats, Floats]], windows: Sequence[ForecastWindow], levels: Sequence[float]
) -> dict[str, float]:
    """Return the scores of forecasts, mean (N,) and quantiles (N, Q), of windows."""
    errors = Errors()
    low, high = (nearest(levels, bound) for bound in INTERVAL)
    for (mean, quantiles), window in zip(rows, windows, strict=True):
        count = len(window.future)
        interval = quantiles[:count, low], quantiles[:count, high]
        errors.add(as_array(window.future), mean[:count], window.unit, interval)
    return errors.scores()


def nearest(levels: Sequence[float], level: float) -> int:
    """Return the place of the trained level that is nearest to `level`."""
    return int(np.argmin(np.abs(np.array(levels) - level)))


class Errors:
    """Sums of the errors of forecasts, in units of each series."""

    def __init__(self) -> None:
        self._squared = self._absolute = 0.0
        self._covered = self._count = 0

    def add(self, future: Floats, mean: Floats, unit: float, interval: tuple[Floats, Floats] | None = None) -> None:
        """Add one forecast, arrays (N,). Missing values of the future do not count."""
        known = ~np.isnan(future)
        difference = (future[known] - mean[known]) / unit
        self._squared += float((difference**2).sum())
        self._absolute += float(np.abs(difference).sum())
        self._count += int(known.sum())
        if interval is not None:
            low, high = interval
            self._covered += int(((low[known] <= future[known]) & (future[known] <= high[known])).sum())

    def scores(self, *, interval: bool = True) -> dict[str, float]:
        """Return the mean squared and absolute error, and the coverage of the interval in percent."""
        count = max(self._count, 1)
        found = {metrics.MSE: self._squared / count, metrics.MAE: self._absolute / count}
        return found | {metrics.COVERAGE: 100 * self._covered / count} if interval else found


def baselines(
    train: Sequence[TimeSeries], windows: Sequence[ForecastWindow], horizon: int
) -> dict[str, dict[str, float]]:
    """Return the scores of each baseline on windows, by the baseline's name."""
    predictors = _predictors(train, horizon)
    found = {name: Errors() for name in predictors}
    for window in windows:
        future, history = as_array(window.future), fill(as_array(window.history))
        for name, predict in predictors.items():
            found[name].add(future, predict(history, len(future)), window.unit)
    return {name: errors.scores(interval=False) for name, errors in found.items()}


def _predictors(train: Sequence[TimeSeries], horizon: int) -> dict[str, Callable[[Floats, int], Floats]]:
    season = season_of(train[0].frequency)
    found: dict[str, Callable[[Floats, int], Floats]] = {LAST: repeat_last}
    if season > 1:
        found[seasonal(season)] = lambda history, count: repeat_season(history, season, count)
    linear = LinearForecasts(train, horizon)
    found[LINEAR] = linear.predict
    return found


def repeat_last(history: Floats, count: int) -> Floats:
    """Return the last value of histories (…, L), repeated to (…, count)."""
    return np.repeat(history[..., -1:], count, axis=-1)


def repeat_season(history: Floats, season: int, count: int) -> Floats:
    """Return the last season of histories (…, L), repeated to (…, count)."""
    season = min(season, history.shape[-1])
    return history[..., history.shape[-1] - season + np.arange(count) % season]


def fill(values: Floats) -> Floats:
    """Return values (N,) with each NaN replaced by the number before it, or else by the first one after it."""
    known = ~np.isnan(values)
    places = np.maximum.accumulate(np.where(known, np.arange(len(values)), -1))
    return np.where(places < 0, values[known][0], values[places])


class LinearForecasts:
    """A linear map from a history to all N values, like NLinear and DLinear (Zeng et al. 2023), by ridge regression.

    Histories are taken relative to their last value. There is one map for each length of history, fitted on first use.
    """

    def __init__(self, train: Sequence[TimeSeries], horizon: int) -> None:
        self._train, self._horizon = train, horizon
        self._maps: dict[int, Floats] = {}

    def predict(self, history: Floats, count: int) -> Floats:
        """Return the values (…, count) after histories (…, L) without gaps."""
        length, last = history.shape[-1], history[..., -1:]
        if length not in self._maps:
            self._maps[length] = self._fit(length)
        return last + ((history - last) @ self._maps[length])[..., :count]

    def _fit(self, length: int) -> Floats:
        """Return the map (L, N). It is zero, so that the last value is forecast, if no window is long enough."""
        total = sum(max(0, len(one.values) - length - self._horizon) for one in self._train)
        stride = max(1, total // LINEAR_ROWS)
        units = {one.name: deviation(one) for one in self._train}
        inputs, targets = [], []
        for name, history, future in rolling_windows(self._train, length, self._horizon, stride):
            if not np.isnan(history).all():
                history = fill(history)
                inputs.append((history - history[-1]) / units[name])
                targets.append((np.where(np.isnan(future), history[-1], future) - history[-1]) / units[name])
        if not inputs:
            return np.zeros((length, self._horizon))
        x, y = np.array(inputs), np.array(targets)  # (W, L), (W, N)
        return np.linalg.solve(x.T @ x + RIDGE * len(x) * np.eye(length), x.T @ y)


def table(
    predict: Callable[[Sequence[Floats]], Iterator[tuple[Floats, Floats, Floats]]],
    train: Sequence[TimeSeries],
    scored: Sequence[TimeSeries],
    *,
    histories: Sequence[int],
    horizons: Sequence[int],
) -> list[dict[str, Any]]:
    """Return a row for each history and horizon with the scores of a forecaster and of the baselines.

    `predict` yields the mean and the bounds of the interval, arrays (N,), of each history. Of windows with the whole
    horizon in the series, from `first` on, at most WINDOWS_SCORED of a series count.
    """
    units = {one.name: deviation(one) for one in train}
    longest = max(horizons)
    predictors = _predictors(train, longest)
    rows = []
    for length in histories:
        found = {horizon: {name: Errors() for name in ("model", *predictors)} for horizon in horizons}
        for one in scored:
            values, first = as_array(one.values), max(one.first, length)
            stride = max(1, (len(values) - first) // WINDOWS_SCORED)
            starts = np.arange(first, len(values) - min(horizons) + 1, stride)
            cut = values[starts[:, None] + np.arange(-length, 0)]  # (W, L)
            padded = np.concatenate([values, np.full(longest, np.nan)])
            futures = padded[starts[:, None] + np.arange(longest)]  # (W, N)
            mean, low, high = (np.array(part) for part in zip(*predict(list(cut)), strict=True))
            filled = np.array([fill(history) for history in cut])
            others = {name: each(filled, longest) for name, each in predictors.items()}
            for horizon, errors in found.items():
                whole = starts + horizon <= len(values)
                future, unit = futures[whole, :horizon], units.get(one.name, 1.0)
                interval = low[whole, :horizon], high[whole, :horizon]
                errors["model"].add(future, mean[whole, :horizon], unit, interval)
                for name, forecast in others.items():
                    errors[name].add(future, forecast[whole, :horizon], unit)
        for horizon, errors in found.items():
            scores = {name: each.scores(interval=name == "model") for name, each in errors.items()}
            rows.append({"history": length, "horizon": horizon, "scores": scores})
    return rows


def render_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows of `table` in Markdown: squared and absolute errors, and the coverage of the interval."""
    names = list(rows[0]["scores"])
    lines = [
        f"| history | horizon | {' | '.join(names)} | in the 80% interval |",
        f"|---|---|{'---|' * len(names)}---|",
    ]
    for row in rows:
        errors = [f"{scores[metrics.MSE]:.3f} / {scores[metrics.MAE]:.3f}" for scores in row["scores"].values()]
        coverage = f"{row['scores']['model'][metrics.COVERAGE]:.1f}%"
        lines.append(f"| {row['history']} | {row['horizon']} | {' | '.join(errors)} | {coverage} |")
    return "\n".join(lines)
