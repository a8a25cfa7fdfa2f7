"""Data-parallel training with torchrun: every process has the same weights and different batches.

Gradients are averaged, weighted by the targets of each process. So a step equals that of one process with all batches.
Without torchrun there is one process, and the functions here return immediately.
"""

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

Value = TypeVar("Value")


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started, if any, and leave them at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    # This module captures the process group at import, as a default argument. If optimizers import it later, the
    # group's threads outlive the group and sometimes abort the process at exit.
    importlib.import_module("torch.distributed.nn.functional")
    distributed.init_process_group("gloo")  # the backend for CPUs
    try:
        yield
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """Return the number of this process. Process 0 writes, evaluates and prints."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def from_first(compute: Callable[[], Value]) -> Value:
    """Compute a value in process 0 and return it in every process. An exception is raised in every process, too."""
    if world_size() == 1:
        return compute()
    result: list[Any] = [None, None]
    if rank() == 0:
        try:
            result[0] = compute()
        except Exception as error:  # raised in all processes below, so that none waits forever
            result[1] = error
    distributed.broadcast_object_list(result, src=0)
    value, error = result
    if error is not None:
        raise error
    return value


def broadcast_weights(network: nn.Module) -> None:
    """Give every process the weights of process 0."""
    if world_size() > 1:
        for tensor in network.state_dict().values():
            distributed.broadcast(tensor, src=0)


def average_gradients(parameters: Sequence[Tensor], loss: float, weight: float) -> tuple[float, float]:
    """Average gradients, in place, and a loss over all processes; return the mean loss and the sum of the weights.

    A missing gradient counts as zeros, because another process may have one.
    """
    if world_size() == 1:
        return loss, weight
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters]
    # One message per step: gloo's cost is mostly per message. Losses travel separately in double precision.
    flat = torch.cat([gradient.flatten() for gradient in gradients]) * weight
    sums = torch.tensor([loss * weight, weight], dtype=torch.float64)
    distributed.all_reduce(flat)
    distributed.all_reduce(sums)
    total_loss, total = sums.tolist()
    parts = flat.div_(total).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    return total_loss / total, total
