"""Where a network is trained and in which numbers: bfloat16 where it helps, the same bits on a repeat where asked for.

Knows the processor and the size of a network. Knows no task.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

LARGE = 128  # units; on a Zen 4 core an LSTM gains 1.5 to 2 times from 64 on, a GRU loses below 100 and gains from 128


def place(choice: str) -> torch.device:
    """Where the steps are taken; raises ValueError for a GPU that is not there."""
    available = torch.cuda.is_available()
    if choice == "cuda" and not available:
        raise ValueError("training.device is 'cuda', but PyTorch sees no GPU here: set it to 'cpu' or 'auto'")
    return torch.device("cuda" if available and choice != "cpu" else "cpu")


def place_of(network: nn.Module) -> torch.device:
    """Where the weights of a network are."""
    return next(network.parameters()).device


def precision(choice: str, network: nn.Module) -> Callable[[], AbstractContextManager[Any]]:
    """What a forward pass runs in. "auto": bfloat16 where the processor multiplies it and the layers are large.

    Not on a GPU, where steps of networks of this size are bound by what it takes to launch them. Raises ValueError for
    "bf16" on a processor for which PyTorch has no LSTM in it.
    """
    device = place_of(network).type
    if choice == "bf16" and device == "cpu" and _has_lstm(network) and not takes_bfloat16():
        raise ValueError(
            "training.precision is 'bf16', but PyTorch has no LSTM in it for this processor (no AVX512): "
            "set it to 'auto' or 'fp32'"
        )
    auto = choice == "auto" and device == "cpu" and _multiplies_bfloat16() and _largest(network) >= LARGE
    if choice == "bf16" or auto:
        return lambda: torch.autocast(device, dtype=torch.bfloat16)
    return nullcontext


def takes_bfloat16() -> bool:
    """Whether oneDNN, which runs PyTorch's LSTM, has one in bfloat16 for this processor, be it slow."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _multiplies_bfloat16() -> bool:
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def _has_lstm(network: nn.Module) -> bool:
    return any(isinstance(module, nn.LSTM) or getattr(module, "kind", "") == "lstm" for module in network.modules())


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
