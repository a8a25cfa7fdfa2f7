"""The learning rate over a run, as a share of `learning_rate`. A function of the step and of the losses so far.

Nothing is remembered between steps, so an interrupted run needs nothing to go on. Knows no optimiser.
"""

import math
from collections.abc import Sequence

from training.training_config import Training

FLOOR = 0.01  # where cosine and linear end: the last steps still settle the weights a little
RISE = 0.3  # one-cycle: the share of the run in which the rate rises
START, END = 1 / 25, 1 / 10_000  # one-cycle: the first rate, and the last


def factor(training: Training, step: int, total: int, dev_losses: Sequence[float] = ()) -> float:
    """The share of the learning rate at `step` (from 0) of `total`; `dev_losses` are those of the epochs before.

    The warm-up is a tenth of the run at most: with little data a run may have fewer steps than a usual warm-up.
    one-cycle (Smith and Topin 2018) is a warm-up of its own kind: a cosine up, a longer one down to almost nothing.
    """
    if training.schedule == "one-cycle":
        return _one_cycle(step / max(1, total - 1))
    warmup = min(training.warmup_steps, total // 10)
    if step < warmup:
        return (step + 1) / warmup
    share = min(1.0, (step - warmup) / max(1, total - warmup))
    if training.schedule == "cosine":
        return _cosine(1.0, FLOOR, share)
    if training.schedule == "linear":
        return 1.0 + (FLOOR - 1.0) * share
    if training.schedule == "plateau":
        return training.plateau_factor ** cuts(dev_losses, training.plateau_patience)
    return 1.0


def cuts(losses: Sequence[float], patience: int) -> int:
    """How often `patience` epochs in a row brought no loss below the best; the count starts anew after each cut."""
    best, waited, found = math.inf, 0, 0
    for loss in losses:
        waited = 0 if loss < best else waited + 1
        best = min(best, loss)
        if waited == patience:
            found, waited = found + 1, 0
    return found


def _one_cycle(share: float) -> float:
    if share < RISE:
        return _cosine(START, 1.0, share / RISE)
    return _cosine(1.0, END, min(1.0, (share - RISE) / (1 - RISE)))


def _cosine(start: float, end: float, share: float) -> float:
    """From start to end, flat at both."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))
