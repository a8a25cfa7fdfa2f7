"""Forecasting: random windows of time series, with every length of history and every horizon at once.

T segments, B batch, S values of a segment, N values of the longest forecast, Q quantile levels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from models.codecs.series import SeriesCodec
from training import forecasts, metrics
from training.data.examples import ForecastWindow, Splits, TimeSeries, inputs_of
from training.data.time_series import as_array, deviation
from training.nn.networks import Forecaster, Network
from training.objectives import Batch, to_device, to_tensors
from training.recipe import Recipe

HORIZONS = (2, 4, 7.5, 15)  # the N values of the forecast divided by the horizons that count equally: 360, 180, 96, 48
BEND = 0.5  # deviations: the error at which the loss of the mean becomes linear
EVALUATION_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class WindowBatch(Batch):
    """Windows: feeds, the future (B, N) in units of each series, and how to scale to it."""

    future: Tensor  # NaN where nothing is known
    scale: Tensor  # (B, 1)
    last: Tensor  # (B, 1)


class ForecastObjective:
    """The Huber loss of the mean (Huber 1964) plus the pinball loss of the quantiles (Koenker and Bassett 1978).

    Errors over BEND count by their size, not its square: few hours of a series have large ones.
    Errors are measured in deviations of the series, and nearer values weigh more, because every horizon needs them.
    """

    metric = metrics.MSE

    def __init__(
        self, recipe: Recipe, codec: SeriesCodec, network: Forecaster, examples: Splits[TimeSeries | ForecastWindow]
    ) -> None:
        self.network: Network = network
        self._codec, self._training = codec, recipe.training
        self._values = [as_array(one.values) for one in examples.train]
        self._units = [deviation(one) for one in examples.train]
        self._dev: list[ForecastWindow] = list(examples.dev)
        horizon = network.horizon
        weights = np.zeros(horizon, np.float32)
        for end in [horizon, *(max(1, int(horizon / share)) for share in HORIZONS)]:
            weights[:end] += 1 / end
        self._weights = torch.from_numpy(weights / weights.sum())  # (N,)
        self._levels = torch.tensor(recipe.forecast.quantile_levels, dtype=torch.float32)  # (Q,)
        segment = codec.spec.segment
        # The first value that a window can forecast: after a segment of history, and before a segment of future.
        self._places = [len(values) - 2 * segment + 1 for values in self._values]

    def batches(self, epoch: int, rank: int = 0, world: int = 1) -> Iterator[WindowBatch | None]:
        for number in range(rank, world * self.count_batches(epoch, world), world):
            yield self._sample(np.random.default_rng([self._training.seed, epoch, number]))

    def count_batches(self, epoch: int, world: int = 1) -> int:
        del epoch
        windows = self._training.share * sum(max(places, 0) for places in self._places)
        return -(-max(1, self._training.fewest_steps, int(windows) // self._rows) // world)

    @property
    def _rows(self) -> int:
        return max(1, self._training.batch_tokens * self._codec.spec.segment // self._codec.spec.longest)

    def _sample(self, random: np.random.Generator) -> WindowBatch:
        """Return random windows of the training series with a random length of history, some of it missing."""
        segment, horizon = self._codec.spec.segment, self.network.horizon
        segments = self._codec.spec.longest // segment
        # Half of the batches are log-uniform: there, a doubled history is as likely as a halved one.
        share = random.uniform()
        longest = segment * round(segments**share if random.random() < 0.5 else 1 + share * (segments - 1))
        chances = np.maximum(self._places, 0).astype(np.float64)
        items, futures, units = [], [], []
        for index in random.choice(len(self._values), self._rows, p=chances / chances.sum()):
            values, unit = self._values[index], self._units[index]
            # In series that are long enough, all histories have the same length.
            first = max(segment, min(longest, len(values) - 2 * segment))
            start = int(random.integers(first, len(values) - segment + 1))
            history = values[max(0, start - longest) : start].copy()
            _drop_values(history, random)
            if np.isnan(history).all():
                history = np.zeros(segment)  # its future does not count
                unit = np.nan
            future = np.full(horizon, np.nan)
            future[: len(values) - start] = values[start : start + horizon]
            items.append(self._codec.encode(history))
            futures.append(future / unit)
            units.append(unit)
        return WindowBatch(
            feeds=to_tensors(self._codec.collate(items)),
            future=torch.from_numpy(np.array(futures, np.float32)),
            scale=_column([item.scale / unit for item, unit in zip(items, units, strict=True)]),
            last=_column([item.last / unit for item, unit in zip(items, units, strict=True)]),
        )

    def weight(self, batch: WindowBatch) -> float:
        return float((self._weights * ~batch.future.isnan()).sum())

    def loss(self, batch: WindowBatch) -> Tensor:
        batch = batch.to_device(self.network)
        scale, last = batch.scale.nan_to_num()[:, :, None], batch.last.nan_to_num()[:, :, None]
        output = self.network(**batch.feeds).float() * scale + last
        errors = batch.future.nan_to_num()[:, :, None] - output  # (B, N, 1 + Q)
        levels = self._levels.to(output.device)
        pinball = torch.maximum(levels * errors[:, :, 1:], (levels - 1) * errors[:, :, 1:]).mean(2)  # (B, N)
        weights = self._weights.to(output.device) * ~batch.future.isnan()
        mean = smooth_l1_loss(output[:, :, 0], batch.future.nan_to_num(), reduction="none", beta=BEND)  # (B, N)
        return ((mean + pinball) * weights).sum() / weights.sum()

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        scores = forecasts.score(self.predict(network), self._dev, self._levels.tolist())
        return {**scores, "loss": scores[metrics.MSE]}

    @torch.no_grad()
    def predict(self, network: nn.Module) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Return the mean (N,) and the sorted quantiles (N, Q) of each window, on the scale of its series."""
        items = [self._codec.encode(inputs_of(window)) for window in self._dev]
        found = []
        for start in range(0, len(items), EVALUATION_ROWS):
            batch = items[start : start + EVALUATION_ROWS]
            answers = network.answers(**to_device(to_tensors(self._codec.collate(batch)), network))
            rows = zip(answers["mean"].cpu().numpy(), answers["quantiles"].cpu().numpy(), strict=True)
            found += [forecasts.on_scale(item, *row) for item, row in zip(batch, rows, strict=True)]
        return found


def _column(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)[:, None]


def _drop_values(history: NDArray[np.float64], random: np.random.Generator) -> None:
    """Remove single values or one gap from a sixth of the histories, up to half of each."""
    kind = random.random()
    if kind < 1 / 12:
        history[random.random(len(history)) < random.uniform(0, 0.5)] = np.nan
    elif kind < 1 / 6:
        start, length = random.integers(len(history)), int(random.uniform(0, 0.5) * len(history))
        history[start : start + length] = np.nan
