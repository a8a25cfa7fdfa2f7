"""The device, the threads, and the floating-point precision of training, and bit-for-bit reproducible runs."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from training.recipe import RecipeError

# Units of a layer from which bfloat16 pays. On a Zen 4 core, an LSTM is 1.5 to 2 times as fast from 64 units on; a GRU
# is slower below 100 units and faster from 128 on.
BFLOAT16_UNITS = 128
# Units of a layer from which a second thread pays. On two busy cores it costs no CPU time for 512 units, 16 % for 200,
# and 100 % for 128.
THREADED_UNITS = 192


def select_device(choice: str) -> torch.device:
    """Return the device for "auto", "cpu" or "cuda". Raises RecipeError for a GPU that PyTorch does not see."""
    available = torch.cuda.is_available()
    if choice == "cuda" and not available:
        raise RecipeError("training.device is 'cuda', but PyTorch sees no GPU: set it to 'cpu' or 'auto'")
    return torch.device("cuda" if available and choice != "cpu" else "cpu")


def device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def autocast_for(choice: str, network: nn.Module) -> Callable[[], AbstractContextManager[Any]]:
    """Return the context manager for forward passes in "fp32", "bf16" or "auto".

    auto: bfloat16 on a CPU that multiplies it, if the layers are large. Not on a GPU, where the time of networks of
    this size goes to launching kernels. Raises RecipeError for "bf16" if PyTorch's LSTM does not support it here.
    """
    device = device_of(network).type
    has_lstm = any(isinstance(part, nn.LSTM) or getattr(part, "kind", "") == "lstm" for part in network.modules())
    units = _largest_layer(network)
    if choice == "bf16" and device == "cpu" and has_lstm and not supports_bfloat16_lstm():
        raise RecipeError(
            "training.precision is 'bf16', but PyTorch's LSTM does not support it on this processor (no AVX512): "
            "set it to 'auto' or 'fp32'"
        )
    auto = choice == "auto" and device == "cpu" and multiplies_bfloat16() and units >= BFLOAT16_UNITS
    if choice == "bf16" or auto:
        return lambda: torch.autocast(device, dtype=torch.bfloat16)
    return nullcontext


def _largest_layer(network: nn.Module) -> int:
    """Return the units of the largest recurrent layer: the columns of its recurrent matrix."""
    return max((weight.shape[-1] for name, weight in network.named_parameters() if "weight_hh" in name), default=0)


def supports_bfloat16_lstm() -> bool:
    """Return whether oneDNN, which runs PyTorch's LSTM, supports bfloat16 on this processor, fast or slow."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def multiplies_bfloat16() -> bool:
    """Return whether this processor has instructions for products in bfloat16."""
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


@contextmanager
def threads_for(choice: int, network: nn.Module) -> Iterator[None]:
    """Use `choice` threads; for 0, one if the layers are small, because threads would mostly wait for each other."""
    before = torch.get_num_threads()
    small = not choice and "OMP_NUM_THREADS" not in os.environ and _largest_layer(network) < THREADED_UNITS
    torch.set_num_threads(choice or (1 if small else before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def deterministic_operations(enabled: bool) -> Iterator[None]:
    """Use one thread and deterministic operations, so that sums are always taken in the same order."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    if enabled:
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
