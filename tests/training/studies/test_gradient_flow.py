"""How far gradients reach: norms through time, panels, and the command.

T steps, B batch, F inputs, H hidden.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from training.__main__ import main
from training.nn.cells import Cell
from training.options import CellName
from training.studies.gradient_flow import KEEP_BIASES, elman_panel, gated_panel, gradient_norms, scale_to_radius

T, B, F, H = 6, 3, 2, 4
WORDS = (("good", "yes"), ("bad", "no"), ("fine", "yes"), ("poor", "no"))


def cell_of(kind: CellName) -> Cell:
    torch.manual_seed(3)
    return Cell(kind, F, H).double()


def inputs(steps: int = T) -> Tensor:
    return torch.randn(steps, B, F, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("radius", [0.5, 1.3])
def test_gradient_without_input_changes_by_the_spectral_radius_per_step(radius: float) -> None:
    cell = cell_of("rnn")  # orthogonal
    scale_to_radius(cell.weight_hh_l0, radius)
    expected = [radius**back for back in range(T - 1, -1, -1)]
    assert gradient_norms(cell, torch.zeros(T, B, F, dtype=torch.float64)) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru", "mlstm"])
def test_norm_at_a_step_equals_the_gradient_by_that_state(kind: CellName) -> None:
    cell, x, step = cell_of(kind), inputs(), 2
    _, state = cell(x[: step + 1])
    start = tuple(part.detach().requires_grad_() for part in state)
    _, after = cell(x[step + 1 :], start)
    direction = torch.randn(B, H, generator=torch.Generator().manual_seed(0)).double()
    loss = (direction / direction.norm(dim=1, keepdim=True) * after[0]).sum()
    whole = torch.cat(torch.autograd.grad(loss, start), dim=1)  # (B, H) or (B, 2·H)
    norms = gradient_norms(cell, x)
    assert norms[step] == pytest.approx(float(whole.norm(dim=1).median()))
    assert norms[-1] == pytest.approx(1)


def test_matrix_is_scaled_to_its_largest_eigenvalue() -> None:
    weight = torch.nn.Parameter(torch.randn(H, H, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    scale_to_radius(weight, 0.7)
    assert float(torch.linalg.eigvals(weight.detach()).abs().max()) == pytest.approx(0.7)


def test_panels_show_vanishing_exploding_and_gated_gradients() -> None:
    elman = {curve.label: curve.norms[0] for curve in elman_panel("rnn", 40).curves}
    assert elman["radius 0.8, no input"] < 1e-3 < 1e3 < elman["radius 1.2, no input"]
    assert elman["radius 1.2"] < elman["radius 1.2, no input"] / 1e3, "tanh saturates"
    gates = {curve.label: curve.factor for curve in gated_panel(["lstm", "gru"], 40).curves}
    for kind, gate in (("lstm", "forget"), ("gru", "update")):
        factors = [gates[f"{kind}, {gate} bias {bias:g}"] for bias in KEEP_BIASES]
        assert factors == sorted(factors)
        assert factors[-1] > 0.95


def test_command_plots_untrained_and_trained_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "made" / "gradients.png"
    given = ["--cells", "rnn,gru", "--steps", "12", "--train", "2", "--clip", "0.5", "--omega", "3", "--out", str(out)]
    assert main(["gradients", *given]) == 0
    printed = capsys.readouterr().out
    assert "rnn, clip 0.5, Ω 3, after" in printed
    assert "gru, update bias 4" in printed
    assert out.read_bytes().startswith(b"\x89PNG")


def test_command_accepts_a_recipe_and_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.csv").write_text(
        "text,label\n" + "".join(f"a {word} film,{label}\n" for word, label in WORDS * 10)
    )
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


def test_command_rejects_too_few_steps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gradients", "--steps", "5"]) == 2
    assert "--steps 5" in capsys.readouterr().err
