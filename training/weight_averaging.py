"""The average of weights over the steps of training, which is judged and kept in place of the last weights.

Either a moving average (Polyak averaging with exponential decay) or, from some epoch on, the plain mean (Polyak and
Juditsky 1992; for language models Merity et al. 2018). Knows weights and losses, no optimiser and no task.
"""

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from training.training_config import Training


class Average:
    """A copy of the network whose parameters are the average; buffers are shared with the network, not averaged."""

    def __init__(self, training: Training, network: nn.Module) -> None:
        self._training = training
        buffers = {id(buffer): buffer for buffer in network.buffers()}
        self.network: nn.Module = copy.deepcopy(network, buffers)
        self._mine = [parameter.detach() for parameter in self.network.parameters()]
        self._theirs = [parameter.detach() for parameter in network.parameters()]
        self._blend = get_ema_multi_avg_fn(training.average) if training.average else get_swa_multi_avg_fn()
        self.count = 0  # steps averaged so far

    def update(self, dev_losses: Sequence[float]) -> None:
        """Take the network's weights in, after a step; `dev_losses` are those of the epochs before this one."""
        if not self.count and not self._begins(dev_losses):
            return
        if self.count:
            self._blend(self._mine, self._theirs, self.count)
        else:
            for mine, theirs in zip(self._mine, self._theirs, strict=True):
                mine.copy_(theirs)
        self.count += 1

    def _begins(self, dev_losses: Sequence[float]) -> bool:
        """Whether averaging begins in this epoch."""
        if self._training.average_after:
            return len(dev_losses) >= self._training.average_after
        if self._training.average_stalled:
            return stalled(dev_losses, self._training.average_stalled)
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.count = state["count"]


def stalled(losses: Sequence[float], epochs: int) -> bool:
    """Whether the last loss is above the best of all but the last `epochs`: NT-ASGD's trigger (Merity et al. 2018)."""
    return len(losses) > epochs and losses[-1] > min(losses[:-epochs])
