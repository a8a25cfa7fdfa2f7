"""The learning-rate range test (Smith 2017): train while the rate rises, and see where the loss falls and diverges."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path

import numpy as np

from training.objectives import Objective
from training.optimizer import TrainingStep
from training.options import Training
from training.plots import picture

LOWEST, HIGHEST = 1e-5, 1.0
DIVERGED = 4.0  # times the smallest loss
SMOOTHING = 0.95  # of the loss: single batches differ more than rates do
SETTLING_STEPS = 10  # until the smoothed loss is meaningful


@dataclass(frozen=True, kw_only=True)
class RangeTestResult:
    """Smoothed losses for rising learning rates."""

    rates: list[float]
    losses: list[float]

    @property
    def steepest(self) -> float:
        """The rate at which the loss falls fastest over the logarithm of the rate."""
        slopes = np.gradient(self.losses[SETTLING_STEPS:], np.log(self.rates[SETTLING_STEPS:]))
        return self.rates[SETTLING_STEPS + int(np.argmin(slopes))]

    @property
    def lowest(self) -> float:
        """The rate with the smallest loss, about the largest rate that still trains."""
        return self.rates[SETTLING_STEPS + int(np.argmin(self.losses[SETTLING_STEPS:]))]

    @property
    def suggestion(self) -> float:
        """A tenth of `lowest`, rounded to one digit: a whole run is less tolerant than this test."""
        return float(f"{self.lowest / 10:.0e}")


def run_range_test(
    objective: Objective, training: Training, steps: int = 200, *, report: Callable[[int, int, float], None]
) -> RangeTestResult:
    """Train for at most `steps` steps while the rate rises from LOWEST to HIGHEST.

    Ends early when the loss diverges. `report` gets step, steps and smoothed loss. Changes the network's weights.
    """
    train = TrainingStep(objective, training)
    objective.network.train()
    rates: list[float] = []
    losses: list[float] = []
    smooth = 0.0
    batches = chain.from_iterable(objective.batches(epoch) for epoch in count())
    for step in range(steps):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (steps - 1))
        for group in train.optimizer.param_groups:
            group["lr"] = rate
        loss, _, _ = train(list(islice(batches, training.accumulate)))
        smooth = SMOOTHING * smooth + (1 - SMOOTHING) * loss
        corrected = smooth / (1 - SMOOTHING ** (step + 1))  # for the start from 0, as in Adam
        if not math.isfinite(loss) or (step > SETTLING_STEPS and corrected > DIVERGED * min(losses)):
            break
        rates.append(rate)
        losses.append(corrected)
        report(step + 1, steps, corrected)
    return RangeTestResult(rates=rates, losses=losses)


def plot_range_test(result: RangeTestResult, path: Path, title: str) -> None:
    """Write a PNG of the loss over the rate, with the suggested, the steepest and the lowest rate marked."""
    with picture(path) as (_, [axes]):
        axes.plot(result.rates, result.losses, color="tab:blue")
        axes.axvline(result.suggestion, color="tab:orange", label=f"suggestion {result.suggestion:g}")
        axes.axvline(result.steepest, color="tab:gray", linestyle=":", label=f"steepest {result.steepest:.1g}")
        axes.axvline(result.lowest, color="tab:gray", linestyle="--", label=f"lowest loss {result.lowest:.1g}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss (nats), smoothed", title=title)
        axes.legend(frameon=False)
