"""Forecasting: the mean and quantiles of the values that follow a series.

T segments, B batch, N values of the longest forecast, Q quantile levels.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.codecs.base import InputError
from models.codecs.series import EncodedSeries, SeriesCodec
from models.manifest import ForecastSpec
from models.tasks.types import Forecast

DEFAULT_LEVELS = (0.1, 0.5, 0.9)
DIGITS = 5  # of an answer, relative to the deviation of the series


class ForecastRow(NamedTuple):
    """The output of the graph for one series, normalized: mean (N,) and quantiles (N, Q)."""

    mean: NDArray[np.float32]
    quantiles: NDArray[np.float32]


class Forecasting:
    """A forecaster: one run of the graph gives the longest forecast, and an answer is its beginning."""

    empty_row = None  # a series is never empty

    def __init__(self, codec: SeriesCodec, spec: ForecastSpec) -> None:
        self.codec, self.spec = codec, spec

    def encode(self, raw: Any, *, limit: int | None = None) -> EncodedSeries:
        """Encode one series with the codec, which may raise InputError."""
        return self.codec.encode(raw, limit=limit)

    def collate(self, items: Sequence[EncodedSeries]) -> dict[str, NDArray[Any]]:
        return self.codec.collate(items)

    def decode(self, items: Sequence[Any], outputs: Mapping[str, NDArray[Any]]) -> list[ForecastRow]:
        """Return a row for each item from outputs "mean" (B, N) and "quantiles" (B, N, Q)."""
        del items
        return list(map(ForecastRow, outputs["mean"], outputs["quantiles"]))

    def check_horizon(self, prediction_length: int) -> InputError | None:
        """Return an error unless the bundle forecasts so many values."""
        limit = self.spec.horizon
        if 1 <= prediction_length <= limit:
            return None
        message = f"{prediction_length} is out of range; send 1 to {limit}"
        return InputError(message, value=prediction_length, limit=limit)

    def check_levels(self, levels: Sequence[float]) -> InputError | None:
        """Return an error for a quantile level below the lowest or above the highest that was trained."""
        lowest, highest = self.spec.quantile_levels[0], self.spec.quantile_levels[-1]
        wrong = [level for level in levels if not lowest <= level <= highest]
        if not wrong:
            return None
        return InputError(f"the level {wrong[0]:g} is out of range; send {lowest:g} to {highest:g}", value=wrong[0])

    def answer(
        self,
        item: EncodedSeries,
        row: ForecastRow,
        *,
        prediction_length: int = 1,
        quantile_levels: Sequence[float] = DEFAULT_LEVELS,
    ) -> Forecast:
        """Return the first `prediction_length` values of the forecast, on the scale of the series.

        A level between two trained ones is interpolated linearly, and quantiles are sorted, so that they never cross
        (Chernozhukov et al. 2010). Raises InputError for a horizon or a level that the bundle does not have.
        """
        if error := self.check_horizon(prediction_length) or self.check_levels(quantile_levels):
            raise error
        rows = np.sort(row.quantiles[:prediction_length].astype(np.float64), axis=1)  # (N, Q)
        trained = np.array(self.spec.quantile_levels)
        after = np.clip(np.searchsorted(trained, quantile_levels), 1, len(trained) - 1)
        share = (np.array(quantile_levels) - trained[after - 1]) / (trained[after] - trained[after - 1])
        found = rows[:, after - 1] * (1 - share) + rows[:, after] * share  # (N, levels)
        decimals = DIGITS - math.floor(math.log10(item.scale)) if item.scale else DIGITS
        mean = row.mean[:prediction_length].astype(np.float64)

        def on_scale(values: NDArray[np.float64]) -> list[float]:
            answer: list[float] = (values * item.scale + item.last).round(decimals).tolist()
            return answer

        return Forecast(
            on_scale(mean), {f"{level:g}": on_scale(found[:, n]) for n, level in enumerate(quantile_levels)}
        )
