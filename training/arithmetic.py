"""The numbers a network is trained in: bfloat16 where it helps, and the same bits on a repeat where that is asked for.

Knows the processor and the size of a network. Knows no task.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

LARGE = 128  # units; on a Zen 4 core an LSTM gains 1.5 to 2 times from 64 on, a GRU loses below 100 and gains from 128


def precision(choice: str, network: nn.Module) -> Callable[[], AbstractContextManager[Any]]:
    """What a forward pass runs in. "auto": bfloat16 where the processor multiplies it and the layers are large."""
    if choice == "bf16" or (choice == "auto" and _multiplies_bfloat16() and _largest(network) >= LARGE):
        return lambda: torch.autocast("cpu", dtype=torch.bfloat16)
    return nullcontext


def _multiplies_bfloat16() -> bool:
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def _largest(network: nn.Module) -> int:
    """The most units of a recurrent layer: columns of its recurrent matrix."""
    return max((p.shape[-1] for name, p in network.named_parameters() if "weight_hh" in name), default=0)


@contextmanager
def repeatable(wanted: bool) -> Iterator[None]:
    """One thread and deterministic operations while it lasts: sums are always taken in the same order."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    if wanted:
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
