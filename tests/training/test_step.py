"""A step: the mean over its micro-batches, clipped, with the optimiser that was asked for."""

from typing import Any

import pytest
import torch

from tests.training.points import Line, Points, training
from training.optimizer_step import Stepper, make_optimiser


def moved(objective: Any, batches: list[Any], **how: Any) -> torch.Tensor:
    """All weights after one step over `batches`."""
    Stepper(objective, training(**how)).step(batches, 1.0)
    return torch.cat([p.detach().flatten() for p in objective.network.parameters()])


def norm(objective: Any) -> float:
    return float(torch.cat([p.grad.flatten() for p in objective.network.parameters()]).norm())


def test_accumulated_uneven_batches_are_the_larger_batch() -> None:
    parts = [torch.arange(0, 5), torch.arange(5, 7), None, torch.arange(7, 28)]
    one = moved(Points(), [torch.arange(28)], optimiser="sgd", clip=0)
    several = moved(Points(), parts, optimiser="sgd", clip=0)
    assert torch.allclose(one, several, atol=1e-7)
    assert not torch.allclose(moved(Points(), parts[:1], optimiser="sgd", clip=0), several, atol=1e-4)


def test_the_loss_of_a_step_is_the_mean_over_all_its_targets() -> None:
    objective = Points()
    parts = [torch.arange(0, 5), torch.arange(5, 28)]
    whole = objective.loss(torch.arange(28)).item()
    loss, count, _ = Stepper(objective, training()).step(parts, 1.0)
    assert loss == pytest.approx(whole)
    assert count == 28


def test_gradients_are_clipped_to_their_norm_and_the_norm_before_is_told() -> None:
    objective = Line([], scale=1e4)
    _, _, before = Stepper(objective, training(clip=0.25)).step([torch.ones(4, 1)], 1.0)
    assert norm(objective) == pytest.approx(0.25, rel=1e-3)
    assert before > 1000


def test_clip_0_leaves_gradients_as_they_are() -> None:
    objective = Line([], scale=1e4)
    _, _, before = Stepper(objective, training(clip=0)).step([torch.ones(4, 1)], 1.0)
    assert norm(objective) == pytest.approx(before)


def test_sgd_moves_by_the_gradient_times_the_rate_times_its_factor() -> None:
    objective = Line([])
    stepper = Stepper(objective, training(optimiser="sgd", learning_rate=0.1, clip=0, weight_decay=0.5))
    before = objective.network.weight.item()
    stepper.step([torch.ones(4, 1)], 0.5)
    slope = objective.network.weight.grad.item() + 0.5 * before
    assert objective.network.weight.item() == pytest.approx(before - 0.5 * 0.1 * slope)


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_weights_that_need_no_gradient_are_left_out(name: Any, kind: type) -> None:
    network = Points().network
    network[0].requires_grad_(False)
    made = make_optimiser(training(optimiser=name), network)
    assert isinstance(made, kind)
    assert len(made.param_groups[0]["params"]) == 2
    assert made.defaults["fused"]
