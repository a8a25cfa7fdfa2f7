"""The learning-rate range test (Smith 2017): raise the rate at every step, see where the loss falls and bursts.

Knows an Objective and a stepper. Moves the weights of the network; whoever calls throws it away.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from training.objectives.base import Objective
from training.optimizer_step import Stepper
from training.plots import picture
from training.training_config import Training

LOWEST, HIGHEST = 1e-5, 1.0
BURST = 4.0  # times the smallest loss: from here on there is nothing to learn
MEMORY = 0.95  # of the smoothed loss: single batches differ more than rates do
SETTLING = 10  # steps until the smoothed loss means something


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A loss for each rate, smoothed, in the order of rising rates."""

    rates: list[float]
    losses: list[float]

    @property
    def steepest(self) -> float:
        """The rate at which the loss falls fastest, per factor of the rate."""
        slopes = np.gradient(self.losses[SETTLING:], np.log(self.rates[SETTLING:]))
        return self.rates[SETTLING + int(np.argmin(slopes))]

    @property
    def lowest(self) -> float:
        """The rate at which the loss is smallest: about the largest that still trains."""
        return self.rates[SETTLING + int(np.argmin(self.losses[SETTLING:]))]

    @property
    def suggestion(self) -> float:
        """A tenth of the largest rate that trains, to one digit: weights must stand it for a whole run."""
        return float(f"{self.lowest / 10:.0e}")


def scan(
    objective: Objective, training: Training, steps: int = 200, *, report: Callable[[int, int, float], None]
) -> Curve:
    """Train for at most `steps` steps, the rate rising from 1e-5 to 1; `report` gets step, steps and loss.

    Stops where the loss is four times the smallest so far, or no number.
    """
    stepper = Stepper(objective, training)
    objective.network.train()
    rates, losses = [], []
    smooth = 0.0
    for step, group in zip(range(steps), _groups(objective, training.accumulate), strict=False):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (steps - 1))
        loss, _, _ = stepper.step(group, rate / training.learning_rate)
        smooth = MEMORY * smooth + (1 - MEMORY) * loss
        corrected = smooth / (1 - MEMORY ** (step + 1))  # as in Adam: the memory begins with 0
        if not math.isfinite(loss) or (step > SETTLING and corrected > BURST * min(losses)):
            break
        rates.append(rate)
        losses.append(corrected)
        report(step + 1, steps, corrected)
    return Curve(rates=rates, losses=losses)


def _groups(objective: Objective, size: int) -> Iterator[list[Any]]:
    """The micro-batches of each step, epoch after epoch without end."""
    group: list[Any] = []
    for epoch in count():
        for batch in objective.batches(epoch):
            group.append(batch)
            if len(group) == size:
                yield group
                group = []


def draw(curve: Curve, path: Path, title: str) -> None:
    """Loss over rate, with the steepest place and the suggestion marked; written to `path` (PNG)."""
    with picture(path) as (_, [axes]):
        axes.plot(curve.rates, curve.losses, color="tab:blue")
        axes.axvline(curve.suggestion, color="tab:orange", label=f"suggestion {curve.suggestion:g}")
        axes.axvline(curve.steepest, color="tab:gray", linestyle=":", label=f"steepest {curve.steepest:.1g}")
        axes.axvline(curve.lowest, color="tab:gray", linestyle="--", label=f"lowest loss {curve.lowest:.1g}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss (nats), smoothed", title=title)
        axes.legend(frameon=False)
