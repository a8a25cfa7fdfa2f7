"""Ω as an option of the loop: on every Elman layer, in training alone, and not a word in the loss that is told."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training.points import training
from training.nn.cells import Cell
from training.nn.omega_regularizer import Omega
from training.optimizer_step import Stepper
from training.recipe import RecipeError
from training.studies.gradients import omega


class Two(nn.Module):
    """Two layers; the loss reads the last step of the second."""

    def __init__(self, kind: Any = "rnn") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.below, self.above = Cell(kind, 3, 4), Cell(kind, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.y = self.below(x)[0]
        self.z = self.above(self.y)[0]
        return self.z[-1].square().mean()


class Task:
    """As much of an objective as a step needs."""

    def __init__(self, kind: Any = "rnn") -> None:
        self.network = Two(kind)
        self.x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(1))  # (T, B, I)

    def batches(self) -> Iterator[Tensor]:
        yield self.x

    def weight(self, batch: Tensor) -> int:
        return batch.shape[1]

    def loss(self, batch: Tensor) -> Tensor:
        return self.network(batch)


def test_it_is_the_sum_over_all_layers() -> None:
    task = Task()
    watched = Omega(task.network)
    loss = task.loss(task.x)
    y, z = task.network.y, task.network.z
    direct = torch.autograd.grad(loss, [y, z], retain_graph=True)
    weights = task.network.below.weight_hh_l0, task.network.above.weight_hh_l0
    parts = [omega("rnn", out, grad, w) for out, grad, w in zip((y, z), direct, weights, strict=True)]
    assert watched.of(loss).item() == pytest.approx((parts[0] + parts[1]).item())
    assert parts[0] > 0 < parts[1]


def gradients(strength: float) -> tuple[list[Tensor], float]:
    task: Any = Task()
    loss, _, _ = Stepper(task, training(omega=strength, clip=0)).step([task.x], 1.0)
    return [p.grad.clone() for p in task.network.parameters()], loss


def test_it_pulls_the_recurrent_matrices_alone_and_leaves_the_loss_that_is_told() -> None:
    (without, plain), (pulled, told) = gradients(0.0), gradients(2.0)
    names = [name for name, _ in Two().named_parameters()]
    changed = [name for name, a, b in zip(names, without, pulled, strict=True) if not torch.allclose(a, b)]
    assert changed == ["below.weight_hh_l0", "above.weight_hh_l0"]
    assert told == plain


def test_what_is_only_evaluated_is_not_kept() -> None:
    task = Task()
    watched = Omega(task.network)
    with torch.no_grad():
        task.loss(task.x)
    task.network.eval()
    task.loss(task.x)
    assert watched._seen == []


def test_the_average_of_weights_is_not_watched() -> None:
    task: Any = Task()
    stepper = Stepper(task, training(omega=1.0, average=0.5))
    assert stepper.average is not None
    assert not [module for module in stepper.average.network.modules() if module._forward_hooks]


def test_it_works_in_bfloat16() -> None:
    task: Any = Task()
    Stepper(task, training(omega=1.0, precision="bf16")).step([task.x], 1.0)
    assert all(bool(p.grad.isfinite().all()) for p in task.network.parameters())


def test_a_network_without_elman_cells_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"training\.omega is for the cells rnn and rnn-relu, .* leave it out"):
        Omega(Two("gru"))
