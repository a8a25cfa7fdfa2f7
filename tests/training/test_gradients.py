"""Gradients through time and the regulariser Ω, against formulas written out, and the verb that shows them.

T steps, B batch, F inputs, H hidden.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.training.test_own_data import table
from training.__main__ import main
from training.nn.cells import Cell
from training.nn.options import CellName
from training.studies import gradient_flow as flows
from training.studies.gradients import deltas, flow, omega, scale_to_radius, with_omega

T, B, F, H = 6, 3, 2, 4


def cell_of(kind: CellName) -> Cell:
    torch.manual_seed(3)
    return Cell(kind, F, H).double()


def inputs(steps: int = T) -> Tensor:
    return torch.randn(steps, B, F, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def elman(weight: Tensor, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """a_t and h_t (B, H) of h = tanh(W h + x), each keeping its gradient."""
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


@pytest.mark.parametrize("radius", [0.5, 1.3])
def test_without_input_a_gradient_shrinks_or_grows_by_the_radius_a_step(radius: float) -> None:
    cell = cell_of("rnn")  # orthogonal
    scale_to_radius(cell.weight_hh_l0, radius)
    expected = [radius**back for back in range(T - 1, -1, -1)]
    assert flow(cell, torch.zeros(T, B, F, dtype=torch.float64)) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru", "mlstm"])
def test_the_gradient_at_a_step_is_what_that_state_does_to_the_rest(kind: CellName) -> None:
    cell, x, step = cell_of(kind), inputs(), 2
    _, state = cell(x[: step + 1])
    start = tuple(part.detach().requires_grad_() for part in state)
    _, after = cell(x[step + 1 :], start)
    direction = torch.randn(B, H, generator=torch.Generator().manual_seed(0)).double()
    loss = (direction / direction.norm(dim=1, keepdim=True) * after[0]).sum()
    whole = torch.cat(torch.autograd.grad(loss, start), dim=1)  # (B, H) or (B, 2·H)
    norms = flow(cell, x)
    assert norms[step] == pytest.approx(float(whole.norm(dim=1).median()))
    assert norms[-1] == pytest.approx(1)


def test_a_matrix_is_scaled_to_its_largest_eigenvalue(weight: Tensor) -> None:
    scale_to_radius(weight, 0.7)
    assert float(torch.linalg.eigvals(weight.detach()).abs().max()) == pytest.approx(0.7)


def test_deltas_are_what_autograd_gives(weight: Tensor, driven: Tensor) -> None:
    a, h = elman(weight, driven)
    y = torch.stack(h)
    direct = torch.zeros_like(y)
    direct[1], direct[-1] = 0.5, 1.0  # a loss that reads two of the steps
    (y * direct).sum().backward()
    slope = 1 - y.detach() ** 2
    torch.testing.assert_close(deltas(slope, direct, weight.detach()), torch.stack([each.grad for each in a]))


def test_omega_is_the_formula_of_the_paper(weight: Tensor, driven: Tensor) -> None:
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


def test_omega_of_a_relu_takes_its_slope(weight: Tensor) -> None:
    y = torch.rand(2, B, H, dtype=torch.float64)
    y[0, :, 0] = 0  # a unit that is off passes nothing back
    direct = torch.zeros_like(y)
    direct[1] = 1
    delta = torch.ones(H, dtype=torch.float64)
    carried = (delta @ weight.detach())[1:]
    expected = (carried.norm() / delta.norm() - 1) ** 2
    assert value(omega("rnn-relu", y, direct, weight)) == pytest.approx(value(expected))


def test_omega_depends_on_the_weight_by_its_immediate_derivative_alone(weight: Tensor, driven: Tensor) -> None:
    _, h = elman(weight, driven)
    y = torch.stack(h)
    direct = torch.zeros_like(y)
    direct[-1] = 1
    (found,) = torch.autograd.grad(omega("rnn", y, direct, weight), weight, retain_graph=True)

    def with_constants(changed: Tensor) -> Tensor:
        """Ω with states and gradients of the old weight."""
        slope = 1 - y.detach() ** 2
        delta = deltas(slope, direct, weight.detach())[1:]
        return (((delta @ changed * slope[:-1]).norm(dim=2) / delta.norm(dim=2) - 1) ** 2).mean()

    (expected,) = torch.autograd.grad(with_constants(weight), weight)
    torch.testing.assert_close(found, expected)
    assert torch.autograd.grad(omega("rnn", y, direct, weight), y, allow_unused=True) == (None,)


def test_omega_is_zero_where_the_norm_is_kept() -> None:
    y, direct = torch.zeros(T, B, H, dtype=torch.float64), torch.ones(T, B, H, dtype=torch.float64)
    whole = torch.eye(H, dtype=torch.float64)
    assert value(omega("rnn", y, direct, whole)) == pytest.approx(0)
    assert value(omega("rnn", y, direct, whole / 2)) == pytest.approx(0.25)


def test_steps_that_no_gradient_reaches_do_not_count(weight: Tensor, driven: Tensor) -> None:
    y = torch.tanh(driven)
    direct = torch.zeros_like(y)
    direct[3] = 1  # a row that ends at step 3: padding follows
    longer = omega("rnn", y, direct, weight)
    assert value(longer) == pytest.approx(value(omega("rnn", y[:4], direct[:4], weight)))
    assert torch.isfinite(torch.autograd.grad(longer, weight)[0]).all()


def test_omega_is_refused_for_gates(weight: Tensor) -> None:
    with pytest.raises(ValueError, match="defined for the cells rnn, rnn-relu, not lstm: leave it out"):
        omega("lstm", torch.zeros(T, B, H), torch.zeros(T, B, H), weight)


def test_with_omega_changes_the_gradient_of_the_recurrent_matrix_alone() -> None:
    cell, x = cell_of("rnn"), inputs()
    found = {}
    for strength in (0.0, 2.0):
        y, _ = cell(x)
        loss = with_omega((y[-1] ** 2).sum(), "rnn", y, cell.weight_hh_l0, strength)
        found[strength] = dict(zip(("ih", "hh"), torch.autograd.grad(loss, cell.parameters())[:2], strict=True))
    torch.testing.assert_close(found[0.0]["ih"], found[2.0]["ih"])
    assert not torch.allclose(found[0.0]["hh"], found[2.0]["hh"])


def test_the_curves_show_the_textbook() -> None:
    elman = {curve.label: curve.norms[0] for curve in flows.elman("rnn", 40).curves}
    assert elman["radius 0.8, nothing to read"] < 1e-3 < 1e3 < elman["radius 1.2, nothing to read"]
    assert elman["radius 1.2"] < elman["radius 1.2, nothing to read"] / 1e3, "tanh saturates"
    gates = {curve.label: curve.factor for curve in flows.gated(["lstm", "gru"], 40).curves}
    for kind, gate in (("lstm", "forget"), ("gru", "update")):
        factors = [gates[f"{kind}, {gate} bias {bias:g}"] for bias in flows.KEEPING]
        assert factors == sorted(factors)
        assert factors[-1] > 0.95


def test_the_verb_draws_untrained_and_trained_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "made" / "gradients.png"
    given = ["--cells", "rnn,gru", "--steps", "12", "--train", "2", "--clip", "0.5", "--omega", "3", "--out", str(out)]
    assert main(["gradients", *given]) == 0
    said = capsys.readouterr().out
    assert "rnn, clip 0.5, Ω 3, after" in said
    assert "gru, update bias 4" in said
    assert out.read_bytes().startswith(b"\x89PNG")


def test_the_verb_takes_a_recipe_and_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.csv").write_text(table("csv"))
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\ntask = "classify"\ndescription = "d"\n[data]\npath = "mine.csv"\n[codec]\nkind = "words"\n'
        "[architecture]\nhidden = 4\nembedding = 4\nlayers = 2\n[training]\nepochs = 1\n"
    )
    assert main(["gradients", "mine.toml"]) == 0
    assert "mine, untrained: layer 1 backward" in capsys.readouterr().out
    assert main(["fit", "mine.toml"]) == 0
    assert main(["gradients", "runs/mine"]) == 0
    assert "runs/mine, trained: layer 0 " in capsys.readouterr().out
    assert (tmp_path / "runs/gradients.png").exists()


def test_too_few_steps_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gradients", "--steps", "5"]) == 2
    assert "--steps 5: at least 10" in capsys.readouterr().err
