"""Cells: their formulas, PyTorch parity, gradients, autocast, dropout and initialization.

T steps, B batch, I inputs, H hidden.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.textbook_cells import TEXTBOOK
from training.device_precision import supports_bfloat16_lstm
from training.nn.cells import GATES, Cell, CellInitialization
from training.options import CellName

T, B, I, H = 7, 3, 4, 5  # noqa: E741
KINDS: tuple[CellName, ...] = tuple(GATES)
LOOPS: tuple[CellName, ...] = ("lstm-peephole", "lstm-coupled", "mlstm", "gru-textbook")
TWINS: dict[CellName, Callable[[], nn.RNNBase]] = {
    "rnn": lambda: nn.RNN(I, H),
    "rnn-relu": lambda: nn.RNN(I, H, nonlinearity="relu"),
    "lstm": lambda: nn.LSTM(I, H),
    "gru": lambda: nn.GRU(I, H),
}


def make_cell(kind: CellName, dtype: torch.dtype = torch.float64) -> Cell:
    """Return a cell with random parameters, including peepholes and biases."""
    torch.manual_seed(0)
    cell = Cell(kind, I, H).to(dtype)
    for parameter in cell.parameters():
        nn.init.normal_(parameter, std=0.7)
    return cell


def make_batch(cell: Cell, steps: int = T) -> tuple[Tensor, tuple[Tensor, ...]]:
    dtype = cell.weight_ih_l0.dtype
    generator = torch.Generator().manual_seed(1)
    state = tuple(torch.randn(B, H, generator=generator, dtype=dtype) for _ in cell.parts)
    return torch.randn(steps, B, I, generator=generator, dtype=dtype), state


@pytest.mark.parametrize("kind", KINDS)
def test_cell_equals_its_textbook_formula(kind: CellName) -> None:
    cell = make_cell(kind)
    x, state = make_batch(cell)
    weights = {name: value.detach().numpy() for name, value in cell.named_parameters()}
    with torch.no_grad():
        y, after = cell(x, state)
    for column in range(B):
        parts = tuple(part[column].numpy() for part in state)
        for t in range(T):
            parts = TEXTBOOK[kind](weights, x[t, column].numpy(), *parts)
            np.testing.assert_allclose(y[t, column], parts[0], atol=1e-6, rtol=0)
        for part, expected in zip(after, parts, strict=True):
            np.testing.assert_allclose(part[column], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", TWINS)
def test_cell_equals_the_pytorch_module_bit_for_bit(kind: CellName) -> None:
    cell, twin = make_cell(kind, torch.float32), TWINS[kind]()
    twin.load_state_dict(cell.state_dict())
    x, state = make_batch(cell)
    rows = tuple(part[None] for part in state)
    y, after = cell(x, state)
    expected, last = twin(x, rows if len(rows) > 1 else rows[0])
    assert torch.equal(y, expected)
    for part, other in zip(after, last if isinstance(last, tuple) else (last,), strict=True):
        assert torch.equal(part, other[0])
    y.square().sum().backward()
    expected.square().sum().backward()
    for name, parameter in twin.named_parameters():
        assert torch.equal(cell.get_parameter(name).grad, parameter.grad)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_have_the_names_and_shapes_of_pytorch(kind: CellName) -> None:
    cell = Cell(kind, I, H)
    rows = len(cell.gates) * H
    shapes = {name: tuple(parameter.shape) for name, parameter in cell.named_parameters()}
    own = {"lstm-peephole": {"peephole": (3, H)}, "mlstm": {"weight_mx": (H, I), "weight_mh": (H, H)}}
    usual = {"weight_ih_l0": (rows, I), "weight_hh_l0": (rows, H), "bias_ih_l0": (rows,), "bias_hh_l0": (rows,)}
    assert shapes == usual | own.get(kind, {})


@pytest.mark.parametrize("kind", LOOPS)
def test_loop_gradients_equal_finite_differences(kind: CellName) -> None:
    cell = make_cell(kind)
    x, state = make_batch(cell, steps=3)
    names, parameters = zip(*cell.named_parameters(), strict=True)

    def run(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        state, weights = rest[: len(cell.parts)], dict(zip(names, rest[len(cell.parts) :], strict=True))
        y, after = functional_call(cell, weights, (x, state))
        return y, *after

    assert torch.autograd.gradcheck(run, (x.requires_grad_(), *(part.requires_grad_() for part in state), *parameters))


@pytest.mark.parametrize("kind", KINDS)
def test_missing_state_means_zeros(kind: CellName) -> None:
    cell = make_cell(kind)
    x, state = make_batch(cell)
    zeros = tuple(torch.zeros_like(part) for part in state)
    assert torch.equal(cell(x)[0], cell(x, zeros)[0])
    assert not torch.equal(cell(x)[0], cell(x, state)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_two_chunks_with_a_carried_state_equal_one_pass(kind: CellName) -> None:
    cell = make_cell(kind)
    x, state = make_batch(cell)
    y, after = cell(x, state)
    first, between = cell(x[:4], state)
    second, last = cell(x[4:], between)
    torch.testing.assert_close(torch.cat([first, second]), y, atol=1e-12, rtol=0)
    torch.testing.assert_close(last, after, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_error_is_that_of_bfloat16(kind: CellName) -> None:
    if kind == "lstm" and not supports_bfloat16_lstm():
        pytest.skip("PyTorch has no LSTM in bfloat16 for this processor")
    cell = make_cell(kind, torch.float32)
    x, state = make_batch(cell)
    found = []
    for enabled in (False, True):
        cell.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            y, after = cell(x, state)
            again, _ = cell(x, after)
        again.float().square().sum().backward()
        found.append((y.float(), [parameter.grad for parameter in cell.parameters()]))
    (plain, slopes), (low, low_slopes) = found
    assert not torch.equal(plain, low)
    torch.testing.assert_close(plain, low, atol=0.15, rtol=0.05)
    for slope, low_slope in zip(slopes, low_slopes, strict=True):
        assert low_slope.dtype == torch.float32
        assert (slope - low_slope).norm() <= 0.1 * slope.norm()


class Products(TorchDispatchMode):
    """Records the dtypes of the operands of every matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.precisions: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.precisions |= {value.dtype for value in args if isinstance(value, Tensor)}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", LOOPS)
def test_loop_under_autocast_multiplies_in_bfloat16_and_keeps_float32_states(
    kind: CellName,
) -> None:
    cell = make_cell(kind, torch.float32)
    with Products() as products:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y, after = cell(*make_batch(cell))
        y.square().sum().backward()
    assert products.precisions == {torch.bfloat16}
    assert {part.dtype for part in after} == {torch.float32}


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind != "rnn-relu"]
)  # whose slopes may be zero by themselves
def test_weight_dropout_drops_entries_of_recurrent_matrices_in_training_only(kind: CellName) -> None:
    torch.manual_seed(0)
    cell = Cell(kind, I, 32, initial=CellInitialization(form="uniform"), weight_dropout=0.3)
    x, state = torch.randn(T, B, I), tuple(torch.randn(B, 32) for _ in cell.parts)
    dropped = []
    for training in (True, False):
        cell.train(training).zero_grad()
        cell(x, state)[0].square().sum().backward()
        read = [p.grad for name, p in cell.named_parameters() if name in ("weight_hh_l0", "weight_mh")]
        dropped.append([float((slope == 0).float().mean()) for slope in read])
    assert dropped[0] == pytest.approx([0.3] * len(read), abs=0.1)
    assert dropped[1] == [0.0] * len(read)
    assert cell.weight_ih_l0.grad.count_nonzero() == cell.weight_ih_l0.numel()


def test_weight_dropout_samples_every_pass_and_rescales() -> None:
    torch.manual_seed(0)
    cell = Cell("rnn-relu", 1, 64, weight_dropout=0.5)
    nn.init.ones_(cell.weight_hh_l0)
    x, one = torch.zeros(1, 1, 1), torch.eye(64)[:1]  # y is one column of the matrix
    first, second = cell(x, (one,))[0], cell(x, (one,))[0]
    assert set(first.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(first, second)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["orthogonal", "identity"])
def test_recurrent_blocks_are_initialized_in_the_requested_form(kind: CellName, form: str) -> None:
    cell = Cell(kind, I, H, initial=CellInitialization(form=form))  # type: ignore[arg-type]
    blocks = [*cell.weight_hh_l0.split(H), *([cell.weight_mh] if kind == "mlstm" else [])]
    for block in blocks:
        torch.testing.assert_close(block @ block.T, torch.eye(H), atol=1e-5, rtol=0)
        assert torch.equal(block, torch.eye(H)) == (form == "identity")
    assert not cell.bias_hh_l0.any()
    assert kind != "lstm-peephole" or not cell.peephole.any()


@pytest.mark.parametrize("kind", KINDS)
def test_input_matrices_are_glorot_initialized_and_small_next_to_an_identity(kind: CellName) -> None:
    for form in ("orthogonal", "identity"):
        cell = Cell(kind, 300, 50, initial=CellInitialization(form=form))  # type: ignore[arg-type]
        glorot = (2 / (300 + len(cell.gates) * 50)) ** 0.5
        small = form == "identity" and kind.startswith("rnn")
        assert float(cell.weight_ih_l0.detach().std()) == pytest.approx(0.001 if small else glorot, rel=0.05)


def test_uniform_initialization_equals_pytorch() -> None:
    torch.manual_seed(0)
    twin = nn.LSTM(I, H)
    torch.manual_seed(0)
    cell = Cell("lstm", I, H, initial=CellInitialization(form="uniform", forget_bias=0.0))
    for name, parameter in twin.named_parameters():
        assert torch.equal(cell.get_parameter(name), parameter)


@pytest.mark.parametrize("kind", KINDS)
def test_forget_bias_is_added_to_the_forget_gate(kind: CellName) -> None:
    cell = Cell(kind, I, H, initial=CellInitialization(forget_bias=2.5))
    starts = {gate: set(bias.tolist()) for gate, bias in zip(cell.gates, cell.bias_ih_l0.split(H), strict=True)}
    expected = {gate: {0.0} for gate in cell.gates}
    if kind == "lstm-coupled":
        expected["i"] = {-2.5}  # f = 1 - i
    elif "c" in cell.parts:
        expected["f"] = {2.5}
    assert starts == expected
