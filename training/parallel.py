"""Several processes that train one network together, as torchrun starts them: who is who, and sums over all.

Data parallel: every process has the same weights and other batches; gradients are averaged, weighted by the targets
that each has seen, so a step is that of one process with all the batches. Without torchrun there is one process, and
everything here is free. Knows tensors. Does not know networks, tasks or files.
"""

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as processes

Value = TypeVar("Value")


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that torchrun has started with this one, if it has; leave them at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or processes.is_initialized():
        yield
        return
    # Its functions have the group of the moment of their import as a default. Optimizers import it late, and then
    # nothing ends the group's threads; now and then one of them ends the process with SIGABRT at its exit.
    importlib.import_module("torch.distributed.nn.functional")
    processes.init_process_group("gloo")  # the transport for CPUs
    try:
        yield
    finally:
        processes.destroy_process_group()


def rank() -> int:
    """The number of this process, from 0; process 0 writes and prints."""
    return processes.get_rank() if processes.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return processes.get_world_size() if processes.is_initialized() else 1


def from_first(compute: Callable[[], Value]) -> Value:
    """What process 0 computes, or the error that it raises, in every process; the others wait for it."""
    if world() == 1:
        return compute()
    found: list[Any] = [None, None]
    if rank() == 0:
        try:
            found[0] = compute()
        except Exception as error:  # raised below, in all processes: none is left waiting
            found[1] = error
    processes.broadcast_object_list(found, src=0)
    value, error = found
    if error is not None:
        raise error
    return value  # type: ignore[no-any-return]


def begin_alike(network: nn.Module) -> None:
    """Give every process the weights of the first."""
    if world() > 1:
        for tensor in network.state_dict().values():
            processes.broadcast(tensor, src=0)


def average(parameters: Sequence[Tensor], loss: float, weight: float) -> tuple[float, float]:
    """Average gradients and a loss over all processes, each with its weight; gradients are replaced in place.

    Returns the mean loss and the sum of the weights. A parameter without a gradient counts as one with zeros, since
    another process may have one.
    """
    if world() == 1:
        return loss, weight
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters]
    # One message a step: gloo's cost is mostly that of a message. The losses are in double precision by themselves.
    flat = torch.cat([gradient.flatten() for gradient in gradients]) * weight
    sums = torch.tensor([loss * weight, weight], dtype=torch.float64)
    processes.all_reduce(flat)
    processes.all_reduce(sums)
    total_loss, total = sums.tolist()
    parts = flat.div_(total).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    return total_loss / total, total
