"""The average of weights: what is averaged, and from when on."""

import pytest
import torch
from torch import nn

from tests.training.points import training
from training.weight_averaging import Average, stalled


def network() -> nn.Module:
    made = nn.Linear(1, 1, bias=False)
    made.register_buffer("table", torch.zeros(2))
    return made


def averaged(values: list[float], losses: list[list[float]], **how: float) -> tuple[float, int]:
    """The average after steps at which the weight was each of `values`, with the losses known at each."""
    net = network()
    average = Average(training(**how), net)
    for value, known in zip(values, losses, strict=True):
        nn.init.constant_(net.weight, value)
        average.update(known)
    return average.network.weight.item(), average.count


def test_after_some_epochs_it_is_the_plain_mean_of_the_weights_from_then_on() -> None:
    epochs: list[list[float]] = [[], [], [1.0], [1.0], [1.0, 1.0], [1.0, 1.0]]
    assert averaged([100, 100, 100, 1, 2, 6], epochs, average_after=2) == (pytest.approx(4.0), 2)


def test_it_begins_when_the_loss_has_stalled_and_does_not_end_again() -> None:
    epochs = [[3.0], [3.0, 2.0], [3.0, 2.0, 2.5], [3.0, 2.0, 2.5, 1.0]]
    assert averaged([100, 100, 1, 3], epochs, average_stalled=1) == (pytest.approx(2.0), 2)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [([], False), ([3, 2, 2.5], False), ([3, 2, 2.5, 2.6], True), ([3, 2, 2.5, 1.9], False), ([2, 3, 3], True)],
)
def test_the_trigger_compares_the_last_loss_with_the_best_of_all_but_the_last_few(
    losses: list[float], expected: bool
) -> None:
    assert stalled(losses, 2) is expected


def test_buffers_are_shared_and_weights_are_not() -> None:
    net = network()
    average = Average(training(average=0.9), net)
    net.table.fill_(7)
    nn.init.constant_(net.weight, 5)
    assert average.network.table.tolist() == [7, 7]
    assert average.network.weight.item() != 5
