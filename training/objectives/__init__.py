"""Training objectives: what a network learns and how it is scored. There is one objective per kind of task."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from training.batches import bucket_by_length, sample_lengths
from training.nn.networks import Network
from training.options import Training


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


class LengthBuckets:
    """The batches of an objective: groups of examples of similar length, others in every epoch.

    `lengths` are those of the training examples. A batch has the padded tokens of `training`, or fewer for its
    `fewest_steps`, but at least `fewest_tokens`. Subclasses collate a group with `_batch`.
    """

    def __init__(self, training: Training, lengths: list[int], fewest_tokens: int) -> None:
        self._training, self._lengths, self._batch_tokens = training, lengths, training.batch_tokens
        if training.fewest_steps:
            self._batch_tokens = min(self._batch_tokens, max(fewest_tokens, sum(lengths) // training.fewest_steps))

    def batches(self, epoch: int, rank: int = 0, world: int = 1) -> Iterator[Any]:
        groups = self._groups(epoch)
        for number in range(rank, world * self.count_batches(epoch, world), world):
            yield self._batch(epoch, groups[number]) if number < len(groups) else None

    def count_batches(self, epoch: int, world: int = 1) -> int:
        return -(-len(self._groups(epoch)) // world)

    def _batch(self, epoch: int, group: Any) -> Any:
        raise NotImplementedError

    def _groups(self, epoch: int) -> Sequence[Any]:
        random = np.random.default_rng([self._training.seed, epoch])
        return self._buckets(self._lengths, random)

    def _buckets(self, lengths: list[int], random: np.random.Generator) -> list[list[int]]:
        """Return groups of the examples that an epoch draws."""
        lengths = sample_lengths(lengths, self._training.share, random, always_from=self._training.share_below)
        return bucket_by_length(lengths, self._batch_tokens, random)
