"""Training objectives: what a network learns and how it is scored. There is one objective per kind of task."""

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor, nn

from training.nn.networks import Network


class Objective(Protocol):
    """What the trainer knows about a task.

    An epoch is a sequence of micro-batches. With several processes (`world`), each process (`rank`) gets every
    world-th batch, and None where the epoch has no more.
    """

    network: Network
    metric: str

    def batches(self, epoch: int, rank: int = 0, world: int = 1) -> Iterator[Any]: ...
    def count_batches(self, epoch: int, world: int = 1) -> int: ...
    def loss(self, batch: Any) -> Tensor:
        """Return the mean loss over the targets that `weight` counts, a scalar."""
        ...

    def weight(self, batch: Any) -> float: ...
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Return the scores on the development data, with "loss" among them."""
        ...
