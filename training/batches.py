"""Padded batches of tensors: buckets of similar length for sequences, parallel streams for texts.

T steps, B batch.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FeedTensors = dict[str, Tensor]  # inputs of a network by the names of the codec's feeds


def to_tensors(feeds: dict[str, NDArray[Any]]) -> FeedTensors:
    """Return the feeds of a codec as tensors: floats as they are, integers as int64, PyTorch's index type."""
    tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
    return {name: tensor if tensor.is_floating_point() else tensor.long() for name, tensor in tensors.items()}


def to_device(feeds: FeedTensors, device: torch.device) -> FeedTensors:
    return {name: tensor.to(device) for name, tensor in feeds.items()}


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


def split_into_streams(
    rows: NDArray[np.int32], count: int, steps: int, offset: int = 0
) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """Cut a text into `count` contiguous streams and yield (inputs (T, B), targets (T, B), first) of T <= `steps`.

    Each piece continues the previous one, so that a state carries over; `first` marks the first piece. `offset` shifts
    all boundaries. Characters that do not fill a row of streams are left out.
    """
    length = (len(rows) - 1 - offset) // count
    if length < 1:
        raise ValueError(f"a text of {len(rows)} characters cannot be cut into {count} streams: use fewer streams")
    used = torch.from_numpy(rows[offset : offset + length * count + 1]).long()
    inputs = used[:-1].view(count, length).T  # (length, B)
    targets = used[1:].view(count, length).T  # (length, B)
    for start in range(0, length, steps):
        yield inputs[start : start + steps], targets[start : start + steps], start == 0
