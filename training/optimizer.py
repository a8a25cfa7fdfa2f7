"""Optimizers, learning-rate schedules, weight averaging, and one training step."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from training import parallel
from training.device_precision import autocast_for, select_device
from training.nn.omega_regularizer import OmegaRegularizer
from training.objectives import Objective
from training.options import Training

FLOOR = 0.01  # cosine and linear end at this share of the learning rate
WARMUP_SHARE = 10  # the warm-up is at most a tenth of the run, which may have few steps


def make_optimizer(training: Training, network: nn.Module) -> torch.optim.Optimizer:
    """Return a fused optimizer: for a tagger, a step takes 1.4 ms instead of 5 ms on a CPU."""
    weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
    rate, decay = training.learning_rate, training.weight_decay
    if training.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=rate, momentum=training.momentum, weight_decay=decay, fused=True)
    return torch.optim.AdamW(weights, lr=rate, weight_decay=decay, fused=True)


class LearningRateSchedule:
    """The learning rate of each step of a run of `total` steps, from torch's schedulers.

    Except for one-cycle (Smith and Topin 2018), which has its own, there is a linear warm-up.
    """

    def __init__(self, training: Training, optimizer: torch.optim.Optimizer, total: int) -> None:
        self._optimizer, self._total, self._steps = optimizer, total, 0
        self._plateau = None
        if training.schedule == "plateau":
            self._plateau = lr_scheduler.ReduceLROnPlateau(
                optimizer, factor=training.plateau_factor, patience=training.plateau_patience - 1, threshold=0
            )
        rate, warmup = training.learning_rate, min(training.warmup_steps, total // WARMUP_SHARE)
        rest = max(1, total - warmup)
        if training.schedule == "one-cycle":
            # From 1/25 of the rate up for 30 % of the run, then down to 1/10,000 of it.
            self._per_step = lr_scheduler.OneCycleLR(
                optimizer, rate, total_steps=max(2, total), final_div_factor=400, cycle_momentum=False
            )
            return
        if training.schedule == "cosine":
            self._per_step = lr_scheduler.CosineAnnealingLR(optimizer, rest, eta_min=FLOOR * rate)
        elif training.schedule == "linear":
            self._per_step = lr_scheduler.LinearLR(optimizer, 1.0, FLOOR, total_iters=rest)
        else:
            self._per_step = lr_scheduler.ConstantLR(optimizer, 1.0, total_iters=0)
        if warmup:
            rise = lr_scheduler.LinearLR(optimizer, 1 / warmup, 1.0, total_iters=warmup - 1)
            self._per_step = lr_scheduler.SequentialLR(optimizer, [rise, self._per_step], milestones=[warmup])

    @property
    def rate(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])

    def step(self) -> None:
        """Set the rate of the next step. Epochs vary in length: after `total` steps the rate stays."""
        self._steps += 1
        if self._steps < self._total:
            self._per_step.step()

    def end_epoch(self, dev_loss: float) -> None:
        """Reduce the rate if the schedule is plateau and the development loss has not improved."""
        if self._plateau is not None:
            self._plateau.step(dev_loss)

    def state_dict(self) -> dict[str, Any]:
        plateau = self._plateau.state_dict() if self._plateau is not None else None
        return {"steps": self._steps, "per_step": self._per_step.state_dict(), "plateau": plateau}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps = state["steps"]
        self._per_step.load_state_dict(state["per_step"])
        if self._plateau is not None:
            self._plateau.load_state_dict(state["plateau"])


class WeightAverage:
    """A copy of a network with the average of its weights over training steps. Buffers are shared, not averaged.

    Either a moving average with exponential decay, or the plain mean from some epoch on (Polyak and Juditsky 1992; for
    language models Merity et al. 2018). swa_utils.AveragedModel would copy all buffers in every step.
    """

    def __init__(self, training: Training, network: nn.Module) -> None:
        self._training = training
        buffers = {id(buffer): buffer for buffer in network.buffers()}
        self.network: nn.Module = copy.deepcopy(network, buffers)
        self._averaged = [parameter.detach() for parameter in self.network.parameters()]
        self._current = [parameter.detach() for parameter in network.parameters()]
        self._blend = get_ema_multi_avg_fn(training.average) if training.average else get_swa_multi_avg_fn()
        self.count = 0  # averaged steps

    def update(self, dev_losses: Sequence[float]) -> None:
        """Include the current weights, after a step. `dev_losses` are those of the epochs before this one."""
        if self.count:
            self._blend(self._averaged, self._current, self.count)
        else:
            if len(dev_losses) < self._training.average_after:
                return
            if self._training.average_stalled and not has_stalled(dev_losses, self._training.average_stalled):
                return
            for averaged, current in zip(self._averaged, self._current, strict=True):
                averaged.copy_(current)
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.count = state["count"]


def has_stalled(losses: Sequence[float], epochs: int) -> bool:
    """Return whether the last loss exceeds the best of all but the last `epochs` (Merity et al. 2018, NT-ASGD)."""
    return len(losses) > epochs and losses[-1] > min(losses[:-epochs])


class TrainingStep:
    """A network's weights and their optimizer: one update for each group of micro-batches, in any process."""

    def __init__(self, objective: Objective, training: Training) -> None:
        self._objective, self._training = objective, training
        self._network: nn.Module = objective.network.to(select_device(training.device))
        parallel.broadcast_weights(self._network)
        self._weights = [parameter for parameter in self._network.parameters() if parameter.requires_grad]
        self.optimizer = make_optimizer(training, self._network)
        averages = training.average or training.average_after or training.average_stalled
        self.average = WeightAverage(training, self._network) if averages else None
        # After the average, so that its copy of the network has no hooks.
        self._omega = OmegaRegularizer(self._network) if training.omega else None
        self._autocast = autocast_for(training.precision, self._network)

    @property
    def evaluated_network(self) -> nn.Module:
        """The network to evaluate and to save: the average of the weights, if there is one."""
        return self.average.network if self.average is not None and self.average.count else self._network

    def __call__(self, batches: Sequence[Any], dev_losses: Sequence[float] = ()) -> tuple[float, float, float]:
        """Update the weights by the mean gradient over all targets of the micro-batches.

        Returns the mean loss, the weight of the targets, and the norm of the gradient before clipping. A loss that is
        not finite changes no weights; the caller must check it.
        """
        self.optimizer.zero_grad(set_to_none=True)
        weights = [0 if batch is None else self._objective.weight(batch) for batch in batches]
        mean = 0.0
        for batch, weight in zip(batches, weights, strict=True):
            if not weight:
                continue
            share = weight / sum(weights)
            with self._autocast():
                loss = self._objective.loss(batch)
            mean += loss.item() * share
            if self._omega is not None:
                loss = loss + self._training.omega * self._omega.penalty(loss)
            (loss * share).backward()
        mean, total = parallel.average_gradients(self._weights, mean, sum(weights))
        norm = nn.utils.get_total_norm([weight.grad for weight in self._weights if weight.grad is not None])
        if not math.isfinite(mean):
            return mean, total, float(norm)
        if self._training.clip:
            nn.utils.clip_grads_with_norm_(self._weights, self._training.clip, norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(dev_losses)
        return mean, total, float(norm)
