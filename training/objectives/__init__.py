"""Training objectives: what a network learns and how it is scored, and the padded batches of tensors that it reads.

There is one objective per kind of task.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.device_precision import device_of
from training.nn.networks import Network
from training.options import Training

FeedTensors = dict[str, Tensor]  # inputs of a network by the names of the codec's feeds


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


def to_tensors(feeds: dict[str, NDArray[Any]]) -> FeedTensors:
    """Return the feeds of a codec as tensors: floats as they are, integers as int64, PyTorch's index type."""
    tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
    return {name: tensor if tensor.is_floating_point() else tensor.long() for name, tensor in tensors.items()}


def to_device(feeds: FeedTensors, network: nn.Module) -> FeedTensors:
    """Return feeds on the device of a network."""
    device = device_of(network)
    return {name: tensor.to(device) for name, tensor in feeds.items()}


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The feeds of a network and, in subclasses, other tensors of the same batch."""

    feeds: FeedTensors

    def to_device(self, network: nn.Module) -> Self:
        """Return the batch on the device of a network."""
        others = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, feeds=to_device(self.feeds, network), **to_device(others, network))


def bucket_by_length(lengths: Sequence[int], budget: int, random: np.random.Generator | None) -> list[list[int]]:
    """Return indices in groups of at most `budget` padded tokens: the longest length times the size of the group.

    Every index of a non-empty sequence appears once. With `random`, lengths are jittered by up to 5 % before sorting,
    so that groups differ between epochs, and the groups are shuffled.
    """
    keys = np.asarray(lengths, np.float64)
    if random is not None:
        keys = keys * random.uniform(0.95, 1.05, len(keys)) + random.uniform(0, 1, len(keys))
    groups: list[list[int]] = []
    group: list[int] = []
    longest = 0
    for index in np.argsort(keys, kind="stable").tolist():
        if not lengths[index]:
            continue
        longest = max(longest, lengths[index])
        if group and longest * (len(group) + 1) > budget:
            groups.append(group)
            group, longest = [], lengths[index]
        group.append(index)
    if group:
        groups.append(group)
    if random is not None:
        groups = [groups[number] for number in random.permutation(len(groups))]
    return groups


def sample_lengths(lengths: list[int], share: float, random: np.random.Generator, always_from: int = 0) -> list[int]:
    """Return the lengths with 0 for examples that an epoch leaves out.

    `share` is the probability of each example. Examples of at least `always_from` steps (0: none) are always kept.
    """
    if share == 1:
        return lengths
    kept = random.random(len(lengths)) < share
    if always_from:
        kept |= np.asarray(lengths) >= always_from
    sampled = np.where(kept, lengths, 0).tolist()
    return sampled if any(sampled) else lengths  # a small share of few examples may keep none
