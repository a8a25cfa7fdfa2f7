"""One step of the optimiser: from micro-batches to weights that have moved.

Knows an Objective's loss and weight, and what [training] says of the optimiser. Does not know epochs, scores or files.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from training import parallel
from training.device_precision import place, precision
from training.nn.omega_regularizer import Omega
from training.objectives.base import Objective
from training.training_config import Training
from training.weight_averaging import Average


def make_optimiser(training: Training, network: nn.Module) -> torch.optim.Optimizer:
    """Fused: one pass over the weights of a tagger takes 1.4 ms, PyTorch's own choice on a CPU 5 ms."""
    weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
    rate, decay = training.learning_rate, training.weight_decay
    if training.optimiser == "sgd":
        return torch.optim.SGD(weights, lr=rate, momentum=training.momentum, weight_decay=decay, fused=True)
    return torch.optim.AdamW(weights, lr=rate, weight_decay=decay, fused=True)


class Stepper:
    """Weights and what moves them: a step for each group of micro-batches, whichever process they are in."""

    def __init__(self, objective: Objective, training: Training) -> None:
        self._objective, self._training = objective, training
        self._network: nn.Module = objective.network.to(place(training.device))
        parallel.begin_alike(self._network)
        self._weights = [parameter for parameter in self._network.parameters() if parameter.requires_grad]
        self.optimiser = make_optimiser(training, self._network)
        averages = training.average or training.average_after or training.average_stalled
        self.average = Average(training, self._network) if averages else None
        # After the average: its copy of the network is not to be watched.
        self._omega = Omega(self._network) if training.omega else None
        self._precision = precision(training.precision, self._network)

    @property
    def judged(self) -> nn.Module:
        """The weights that are evaluated and kept."""
        return self.average.network if self.average is not None and self.average.count else self._network

    def step(
        self, batches: Sequence[Any], factor: float, dev_losses: Sequence[float] = ()
    ) -> tuple[float, float, float]:
        """One move, by the mean over all targets of the batches; returns their mean loss, their weight, the norm.

        `factor` is the share of the learning rate. The norm of the gradient is that before clipping. A loss that is
        no number moves nothing: it is for the caller to look.
        """
        self.optimiser.zero_grad(set_to_none=True)
        weights = [0 if batch is None else self._objective.weight(batch) for batch in batches]
        mean = 0.0
        for batch, weight in zip(batches, weights, strict=True):
            if not weight:
                continue
            share = weight / sum(weights)
            with self._precision():
                loss = self._objective.loss(batch)
            mean += loss.item() * share
            if self._omega is not None:
                loss = loss + self._training.omega * self._omega.of(loss)
            (loss * share).backward()
        mean, count = parallel.average(self._weights, mean, sum(weights))
        norm = nn.utils.get_total_norm([weight.grad for weight in self._weights if weight.grad is not None])
        if not math.isfinite(mean):
            return mean, count, float(norm)
        if self._training.clip:
            nn.utils.clip_grads_with_norm_(self._weights, self._training.clip, norm)
        for group in self.optimiser.param_groups:
            group["lr"] = self._training.learning_rate * factor
        self.optimiser.step()
        if self.average is not None:
            self.average.update(dev_losses)
        return mean, count, float(norm)
