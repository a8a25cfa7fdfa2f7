"""The regularizer Ω: its formula, and its effect on a training step."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.point_objectives import training
from training.nn.cells import Cell
from training.nn.omega_regularizer import OmegaRegularizer, add_omega, omega, preactivation_gradients
from training.optimizer import TrainingStep
from training.recipe import RecipeError

T, B, F, H = 6, 3, 2, 4  # steps, batch, inputs, hidden


def elman(weight: Tensor, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return a_t and h_t (B, H) of h = tanh(W h + x). Each a_t retains its gradient."""
    a, h = [], [torch.zeros(x.shape[1], len(weight), dtype=x.dtype)]
    for step in x:
        a.append(step + h[-1] @ weight.T)
        h.append(torch.tanh(a[-1]))
        a[-1].retain_grad()
    return a, h[1:]


def value(scalar: Tensor) -> float:
    return float(scalar.detach())


@pytest.fixture
def weight() -> Tensor:
    return torch.randn(H, H, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()


@pytest.fixture
def driven() -> Tensor:
    return torch.randn(T, B, H, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def test_preactivation_gradients_equal_autograd(weight: Tensor, driven: Tensor) -> None:
    a, h = elman(weight, driven)
    y = torch.stack(h)
    direct = torch.zeros_like(y)
    direct[1], direct[-1] = 0.5, 1.0  # a loss that reads two of the steps
    (y * direct).sum().backward()
    slope = 1 - y.detach() ** 2
    torch.testing.assert_close(
        preactivation_gradients(slope, direct, weight.detach()), torch.stack([each.grad for each in a])
    )


def test_omega_equals_the_formula_of_the_paper(weight: Tensor, driven: Tensor) -> None:
    a, h = elman(weight, driven)
    h[-1].sum().backward()
    terms = []
    for row in range(B):
        for k in range(T - 1):
            jacobian = weight.detach() @ torch.diag(1 - h[k][row].detach() ** 2)  # da_{k+1} / da_k
            delta = a[k + 1].grad[row]
            terms.append(((delta @ jacobian).norm() / delta.norm() - 1) ** 2)
    direct = torch.zeros(T, B, H, dtype=torch.float64)
    direct[-1] = 1
    found = omega("rnn", torch.stack(h), direct, weight)
    assert value(found) == pytest.approx(float(torch.stack(terms).mean()))


def test_omega_of_relu_uses_its_derivative(weight: Tensor) -> None:
    y = torch.rand(2, B, H, dtype=torch.float64)
    y[0, :, 0] = 0  # a unit that is off passes nothing back
    direct = torch.zeros_like(y)
    direct[1] = 1
    delta = torch.ones(H, dtype=torch.float64)
    carried = (delta @ weight.detach())[1:]
    expected = (carried.norm() / delta.norm() - 1) ** 2
    assert value(omega("rnn-relu", y, direct, weight)) == pytest.approx(value(expected))


def test_omega_has_only_the_immediate_derivative_by_the_weight(weight: Tensor, driven: Tensor) -> None:
    _, h = elman(weight, driven)
    y = torch.stack(h)
    direct = torch.zeros_like(y)
    direct[-1] = 1
    (found,) = torch.autograd.grad(omega("rnn", y, direct, weight), weight, retain_graph=True)

    def with_constants(changed: Tensor) -> Tensor:
        """Ω with states and gradients of the old weight."""
        slope = 1 - y.detach() ** 2
        delta = preactivation_gradients(slope, direct, weight.detach())[1:]
        return (((delta @ changed * slope[:-1]).norm(dim=2) / delta.norm(dim=2) - 1) ** 2).mean()

    (expected,) = torch.autograd.grad(with_constants(weight), weight)
    torch.testing.assert_close(found, expected)
    assert torch.autograd.grad(omega("rnn", y, direct, weight), y, allow_unused=True) == (None,)


def test_omega_is_zero_if_the_gradient_keeps_its_norm() -> None:
    y, direct = torch.zeros(T, B, H, dtype=torch.float64), torch.ones(T, B, H, dtype=torch.float64)
    whole = torch.eye(H, dtype=torch.float64)
    assert value(omega("rnn", y, direct, whole)) == pytest.approx(0)
    assert value(omega("rnn", y, direct, whole / 2)) == pytest.approx(0.25)


def test_steps_without_gradient_do_not_count(weight: Tensor, driven: Tensor) -> None:
    y = torch.tanh(driven)
    direct = torch.zeros_like(y)
    direct[3] = 1  # a row that ends at step 3: padding follows
    longer = omega("rnn", y, direct, weight)
    assert value(longer) == pytest.approx(value(omega("rnn", y[:4], direct[:4], weight)))
    assert torch.isfinite(torch.autograd.grad(longer, weight)[0]).all()


def test_add_omega_changes_only_the_gradient_of_the_recurrent_matrix() -> None:
    torch.manual_seed(3)
    cell, x = Cell("rnn", F, H).double(), torch.randn(T, B, F, dtype=torch.float64)
    found = {}
    for strength in (0.0, 2.0):
        y, _ = cell(x)
        loss = add_omega((y[-1] ** 2).sum(), "rnn", y, cell.weight_hh_l0, strength)
        found[strength] = dict(zip(("ih", "hh"), torch.autograd.grad(loss, cell.parameters())[:2], strict=True))
    torch.testing.assert_close(found[0.0]["ih"], found[2.0]["ih"])
    assert not torch.allclose(found[0.0]["hh"], found[2.0]["hh"])


def test_omega_of_gated_cell_is_rejected(weight: Tensor) -> None:
    with pytest.raises(ValueError, match="lstm"):
        omega("lstm", torch.zeros(T, B, H), torch.zeros(T, B, H), weight)


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
    """The part of an objective that a training step uses."""

    def __init__(self, kind: Any = "rnn") -> None:
        self.network = Two(kind)
        self.x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(1))  # (T, B, I)

    def batches(self) -> Iterator[Tensor]:
        yield self.x

    def weight(self, batch: Tensor) -> int:
        return batch.shape[1]

    def loss(self, batch: Tensor) -> Tensor:
        return self.network(batch)


def test_penalty_is_the_sum_over_layers() -> None:
    task = Task()
    regularizer = OmegaRegularizer(task.network)
    loss = task.loss(task.x)
    y, z = task.network.y, task.network.z
    direct = torch.autograd.grad(loss, [y, z], retain_graph=True)
    weights = task.network.below.weight_hh_l0, task.network.above.weight_hh_l0
    parts = [omega("rnn", out, grad, w) for out, grad, w in zip((y, z), direct, weights, strict=True)]
    assert regularizer.penalty(loss).item() == pytest.approx((parts[0] + parts[1]).item())
    assert parts[0] > 0 < parts[1]


def gradients(strength: float) -> tuple[list[Tensor], float]:
    task: Any = Task()
    loss, _, _ = TrainingStep(task, training(omega=strength, clip=0))([task.x])
    return [p.grad.clone() for p in task.network.parameters()], loss


def test_omega_changes_only_gradients_of_recurrent_matrices_and_not_the_reported_loss() -> None:
    (without, plain), (regularized, reported) = gradients(0.0), gradients(2.0)
    names = [name for name, _ in Two().named_parameters()]
    changed = [name for name, a, b in zip(names, without, regularized, strict=True) if not torch.allclose(a, b)]
    assert changed == ["below.weight_hh_l0", "above.weight_hh_l0"]
    assert reported == plain


def test_evaluation_passes_are_not_penalized() -> None:
    task, other = Task(), Task()
    regularizer, alone = OmegaRegularizer(task.network), OmegaRegularizer(other.network)
    with torch.no_grad():
        task.loss(2 * task.x)
    task.network.eval()
    task.loss(3 * task.x)
    task.network.train()
    assert regularizer.penalty(task.loss(task.x)) == alone.penalty(other.loss(other.x))


def test_gradients_are_finite_in_bfloat16() -> None:
    task: Any = Task()
    TrainingStep(task, training(omega=1.0, precision="bf16"))([task.x])
    assert all(bool(p.grad.isfinite().all()) for p in task.network.parameters())


def test_network_without_elman_cells_is_rejected() -> None:
    with pytest.raises(RecipeError, match=r"training\.omega"):
        OmegaRegularizer(Two("gru"))
