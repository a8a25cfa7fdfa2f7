"""Examples to padded batches of tensors: buckets of like length for sequences, parallel streams for texts.

Knows lengths and codecs. Knows no network and no loss.  T steps, B batch.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TensorValidator = dict[str, Tensor]


def tensors(feeds: dict[str, NDArray[Any]]) -> TensorValidator:
    """The feeds of a codec as tensors: numbers as they are, rows of tables as int64, the index type of PyTorch."""
    whole = {name: torch.from_numpy(array) for name, array in feeds.items()}
    return {name: tensor if tensor.is_floating_point() else tensor.long() for name, tensor in whole.items()}


def moved(feeds: TensorValidator, device: torch.device) -> TensorValidator:
    """The same on another device."""
    return {name: tensor.to(device) for name, tensor in feeds.items()}


def buckets(lengths: Sequence[int], budget: int, random: np.random.Generator | None) -> list[list[int]]:
    """Indices grouped so that the longest times the count of a group stays within `budget` padded tokens.

    With `random`, lengths are jittered a little before they are sorted, so that groups differ from epoch to
    epoch, and the groups come in random order. Every index appears exactly once; empty sequences are left out.
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
        groups = [groups[place] for place in random.permutation(len(groups))]
    return groups


def streams(rows: NDArray[np.int32], count: int, steps: int, offset: int = 0) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """A text as `count` contiguous streams, cut into pieces of `steps`: (inputs (T, B), targets (T, B), first).

    Piece k+1 goes on where piece k stopped, so a state can be carried over; `first` is True for the first
    piece. `offset` shifts all boundaries. The remainder that does not fill a row of streams is left out.
    """
    length = (len(rows) - 1 - offset) // count
    if length < 1:
        raise ValueError(f"a text of {len(rows)} characters cannot be cut into {count} streams: use fewer streams")
    used = torch.from_numpy(rows[offset : offset + length * count + 1]).long()
    inputs = used[:-1].view(count, length).T
    targets = used[1:].view(count, length).T
    for start in range(0, length, steps):
        yield inputs[start : start + steps], targets[start : start + steps], start == 0
