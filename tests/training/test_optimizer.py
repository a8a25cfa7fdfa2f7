"""A training step: the mean over micro-batches, clipping, optimizers, learning-rate schedules and weight averages."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.support.point_objectives import Line, Points, training
from training.optimizer import LearningRateSchedule, TrainingStep, WeightAverage, has_stalled, make_optimizer


def weights_after(objective: Any, batches: list[Any], **fields: Any) -> torch.Tensor:
    """All weights after one step."""
    TrainingStep(objective, training(**fields))(batches)
    return torch.cat([p.detach().flatten() for p in objective.network.parameters()])


def gradient_norm(objective: Any) -> float:
    return float(torch.cat([p.grad.flatten() for p in objective.network.parameters()]).norm())


def test_accumulated_uneven_batches_equal_one_batch() -> None:
    parts = [torch.arange(0, 5), torch.arange(5, 7), None, torch.arange(7, 28)]
    one = weights_after(Points(), [torch.arange(28)], optimizer="sgd", clip=0)
    several = weights_after(Points(), parts, optimizer="sgd", clip=0)
    assert torch.allclose(one, several, atol=1e-7)
    assert not torch.allclose(weights_after(Points(), parts[:1], optimizer="sgd", clip=0), several, atol=1e-4)


def test_loss_of_a_step_is_the_mean_over_its_targets() -> None:
    objective = Points()
    whole = objective.loss(torch.arange(28)).item()
    loss, weight, _ = TrainingStep(objective, training())([torch.arange(0, 5), torch.arange(5, 28)])
    assert loss == pytest.approx(whole)
    assert weight == 28


def test_gradients_are_clipped_and_the_norm_before_clipping_is_returned() -> None:
    objective = Line([], scale=1e4)
    _, _, before = TrainingStep(objective, training(clip=0.25))([torch.ones(4, 1)])
    assert gradient_norm(objective) == pytest.approx(0.25, rel=1e-3)
    assert before > 1000


def test_clip_0_does_not_clip() -> None:
    objective = Line([], scale=1e4)
    _, _, before = TrainingStep(objective, training(clip=0))([torch.ones(4, 1)])
    assert gradient_norm(objective) == pytest.approx(before)


def test_sgd_moves_by_the_learning_rate_times_gradient_and_weight_decay() -> None:
    objective = Line([])
    step = TrainingStep(objective, training(optimizer="sgd", learning_rate=0.1, clip=0, weight_decay=0.5))
    before = objective.network.weight.item()
    step([torch.ones(4, 1)])
    slope = objective.network.weight.grad.item() + 0.5 * before
    assert objective.network.weight.item() == pytest.approx(before - 0.1 * slope)


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_optimizer_is_fused_and_skips_frozen_weights(name: Any, kind: type) -> None:
    network = Points().network
    network[0].requires_grad_(False)
    optimizer = make_optimizer(training(optimizer=name), network)
    assert isinstance(optimizer, kind)
    assert len(optimizer.param_groups[0]["params"]) == 2
    assert optimizer.defaults["fused"]


def rates(total: int, steps: int | None = None, *, dev_losses: tuple[float, ...] = (), **fields: Any) -> list[float]:
    """The learning rate of each step, as a share of the recipe's, after epochs with these development losses."""
    how = training(learning_rate=0.5, **fields)
    optimizer = make_optimizer(how, nn.Linear(1, 1))
    schedule = LearningRateSchedule(how, optimizer, total)
    found = []
    for _ in range(steps or total):
        found.append(schedule.rate / 0.5)
        optimizer.step()
        schedule.step()
    for loss in dev_losses:
        schedule.end_epoch(loss)
    return [*found, schedule.rate / 0.5]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "plateau"])
def test_warmup_takes_at_most_a_tenth_of_the_run(schedule: str) -> None:
    found = rates(50, schedule=schedule, warmup_steps=100)
    assert found[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0], abs=2e-3)


def test_short_warmup_takes_its_number_of_steps() -> None:
    assert rates(1000, 4, schedule="constant", warmup_steps=2)[:4] == pytest.approx([0.5, 1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("schedule", "middle", "last"), [("cosine", 0.505, 0.01), ("linear", 0.505, 0.01), ("constant", 1.0, 1.0)]
)
@pytest.mark.parametrize("warmup", [0, 5])
def test_schedule_falls_from_the_warmup_to_its_last_rate(
    schedule: str, middle: float, last: float, warmup: int
) -> None:
    found = rates(101 + warmup, schedule=schedule, warmup_steps=warmup)
    assert found[warmup + 50] == pytest.approx(middle, abs=0.02)
    assert found[-1] == pytest.approx(last, abs=0.02)


def test_rate_stays_when_epochs_have_more_steps_than_planned() -> None:
    for schedule in ("cosine", "linear", "one-cycle"):
        found = rates(20, 30, schedule=schedule)
        assert set(found[20:]) == {found[20]}


def test_one_cycle_rises_for_three_tenths_and_falls_to_almost_zero() -> None:
    found = rates(101, schedule="one-cycle")[:-1]
    peak = found.index(max(found))
    assert found[0] == pytest.approx(0.04)
    assert peak in (29, 30)
    assert found[peak] == pytest.approx(1.0, abs=1e-3)
    assert found[100] == pytest.approx(1e-4)
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)


@pytest.mark.parametrize(
    ("losses", "patience", "reductions"),
    [
        ((), 2, 0),
        ((3, 2, 1), 1, 0),
        ((1, 2), 2, 0),
        ((1, 2, 2), 2, 1),
        ((1, 1, 1), 2, 1),  # an equal loss is not lower
        ((1, 2, 2, 2), 2, 1),  # counting restarts after a reduction
        ((1, 2, 2, 2, 2), 2, 2),
        ((1, 2, 0.5, 2), 2, 0),
    ],
)
def test_plateau_reduces_the_rate_after_epochs_without_a_lower_loss(
    losses: tuple[float, ...], patience: int, reductions: int
) -> None:
    found = rates(
        1000, 50, dev_losses=losses, schedule="plateau", plateau_patience=patience, plateau_factor=0.1, warmup_steps=3
    )
    assert found[-1] == pytest.approx(0.1**reductions)


def network() -> nn.Module:
    made = nn.Linear(1, 1, bias=False)
    made.register_buffer("table", torch.zeros(2))
    return made


def average_of(values: list[float], losses: list[list[float]], **fields: float) -> tuple[float, int]:
    """The average after steps with these values of the weight and the known losses at each step."""
    net = network()
    average = WeightAverage(training(**fields), net)
    for value, known in zip(values, losses, strict=True):
        nn.init.constant_(net.weight, value)
        average.update(known)
    return average.network.weight.item(), average.count


def test_average_after_is_the_plain_mean_of_later_epochs() -> None:
    epochs: list[list[float]] = [[], [], [1.0], [1.0], [1.0, 1.0], [1.0, 1.0]]
    assert average_of([100, 100, 100, 1, 2, 6], epochs, average_after=2) == (pytest.approx(4.0), 2)


def test_average_stalled_starts_once_and_continues() -> None:
    epochs = [[3.0], [3.0, 2.0], [3.0, 2.0, 2.5], [3.0, 2.0, 2.5, 1.0]]
    assert average_of([100, 100, 1, 3], epochs, average_stalled=1) == (pytest.approx(2.0), 2)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [([], False), ([3, 2, 2.5], False), ([3, 2, 2.5, 2.6], True), ([3, 2, 2.5, 1.9], False), ([2, 3, 3], True)],
)
def test_stalled_compares_the_last_loss_with_the_best_of_earlier_epochs(losses: list[float], expected: bool) -> None:
    assert has_stalled(losses, 2) is expected


def test_average_shares_buffers_but_not_weights() -> None:
    net = network()
    average = WeightAverage(training(average=0.9), net)
    net.table.fill_(7)
    nn.init.constant_(net.weight, 5)
    assert average.network.table.tolist() == [7, 7]
    assert average.network.weight.item() != 5
