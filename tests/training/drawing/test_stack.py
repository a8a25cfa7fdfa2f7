"""Stacks as graphs: fp32 equals PyTorch, int8 is near it, and a row's bits depend on nothing but the row."""

from functools import cache
from typing import Any, get_args

import numpy as np
import onnx
import pytest
import torch

from tests.training.drawing.graphs import INPUTS, REACH, Item, Twin, make_stack, open_session
from training.nn.options import CellName
from training.nn.recurrent import Recurrent
from training.onnx_export.graph_builder import Pen, Precision
from training.onnx_export.layers import Signal, final_states
from training.onnx_export.stack import draw_stack, has_int8

CELLS = get_args(CellName)
QUANTISED = [cell for cell in CELLS if cell not in ("rnn-relu", "mlstm")]
DRAWN = [(cell, "fp32") for cell in CELLS] + [(cell, "int8") for cell in QUANTISED]
# name: (options of the stack, whether states come from outside)
SHAPES: dict[str, tuple[dict[str, Any], bool]] = {
    "one": ({}, False),
    "one-both-ways": ({"bidirectional": True}, False),
    "one-with-state": ({}, True),
    "two": ({"layers": 2}, False),
    "two-both-ways": ({"layers": 2, "bidirectional": True}, False),
    "two-with-state": ({"layers": 2}, True),
    "residual-both-ways": ({"layers": 2, "bidirectional": True, "skip": "residual"}, False),
    "residual-from-the-input": ({"layers": 2, "hidden": INPUTS, "skip": "residual"}, True),
    "residual-from-a-wide-input": ({"bidirectional": True, "hidden": INPUTS // 2, "skip": "residual"}, False),
    "highway-both-ways": ({"layers": 2, "bidirectional": True, "skip": "highway"}, False),
    "highway-from-the-input": ({"layers": 2, "hidden": INPUTS, "skip": "highway"}, True),
    "dense-both-ways": ({"layers": 2, "bidirectional": True, "skip": "dense"}, False),
    "dense-with-state": ({"layers": 3, "skip": "dense"}, True),
}
WITH_STATE = [name for name, (_, state) in SHAPES.items() if state]


@cache
def twin(cell: str, precision: Precision, shape: str) -> Twin:
    options, state = SHAPES[shape]
    return Twin(make_stack(cell, **options), precision, state=state)


def differ_by_company(of: Twin, count: int = 18) -> list[int]:
    """The rows that have other bits in some batch, or with more padding, than alone."""
    items = of.items(count)
    alone = [of.run([item])[0] for item in items]
    random, differing = np.random.default_rng(1), set()
    for size, padded in ((2, 0), (3, 4), (16, 0), (count, 2)):
        chosen = random.permutation(count)[:size]
        for index, parts in zip(chosen, of.run([items[i] for i in chosen], padded=padded), strict=True):
            if any(a.tobytes() != b.tobytes() for a, b in zip(alone[index], parts, strict=True)):
                differing.add(int(index))
    return sorted(differing)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", CELLS)
def test_fp32_equals_pytorch_on_ragged_batches(cell: str, shape: str) -> None:
    drawn = twin(cell, "fp32", shape)
    items = drawn.items(9)
    for item, found in zip(items, drawn.run(items), strict=True):
        for ours, theirs in zip(found, drawn.torch(item), strict=True):
            assert np.abs(ours - theirs).max() <= 1e-5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", QUANTISED)
def test_int8_is_near_pytorch(cell: str, shape: str) -> None:
    drawn = twin(cell, "int8", shape)
    items = drawn.items(9)
    for item, found in zip(items, drawn.run(items), strict=True):
        for ours, theirs in zip(found, drawn.torch(item), strict=True):
            assert np.abs(ours - theirs).max() < 0.3
            assert np.abs(ours - theirs).mean() < 0.05


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("cell", "precision"), DRAWN)
def test_a_row_has_the_same_bits_alone_and_in_any_batch(cell: str, precision: Precision, shape: str) -> None:
    assert not differ_by_company(twin(cell, precision, shape))


@pytest.mark.parametrize("hidden", [50, 128, 200])
@pytest.mark.parametrize(("cell", "precision"), DRAWN)
def test_large_layers_keep_the_bits_of_a_row_too(cell: str, precision: Precision, hidden: int) -> None:
    stack = make_stack(cell, hidden=hidden, inputs=hidden + 2, bidirectional=True)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.mul_((8 / hidden) ** 0.5)  # or its gates would all be saturated
    assert not differ_by_company(Twin(stack, precision), count=16)


@pytest.mark.parametrize("shape", WITH_STATE)
@pytest.mark.parametrize(("cell", "precision"), DRAWN)
def test_steps_one_by_one_with_the_state_handed_on_are_the_whole(cell: str, precision: Precision, shape: str) -> None:
    drawn = twin(cell, precision, shape)
    item = drawn.items(8)[1]
    assert len(item.steps) == 6
    whole, *end = drawn.run([item])[0]
    steps, states = [], item.states
    for step in item.steps:
        y, *after = drawn.run([Item(steps=step[None], states=states)])[0]
        steps.append(y)
        states = tuple(after)
    assert np.concatenate(steps).tobytes() == whole.tobytes()
    assert all(a.tobytes() == b.tobytes() for a, b in zip(states, end, strict=True))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_int8_holds_no_large_matrix_in_float(cell: str) -> None:
    graph = Twin(make_stack(cell, hidden=16, layers=2, skip="highway"), "int8").drawing.model.graph
    kinds = {t.name: t.data_type for t in graph.initializer if np.prod(t.dims) >= 16 * 16}
    assert len(kinds) >= 4
    assert set(kinds.values()) == {onnx.TensorProto.INT8}


@pytest.mark.parametrize("cell", ["rnn-relu", "mlstm"])
def test_a_cell_without_bound_has_no_int8_form(cell: str) -> None:
    stack = make_stack(cell)
    assert not has_int8(stack)
    with pytest.raises(ValueError, match=f"no int8 form of cell '{cell}': draw it in fp32"):
        Twin(stack, "int8")


def test_a_bidirectional_stack_has_no_state() -> None:
    with pytest.raises(ValueError, match="bidirectional = false"):
        Twin(make_stack("gru", bidirectional=True), "fp32", state=True)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_states_can_be_asked_for_without_any_to_start_from(cell: str, precision: Precision) -> None:
    stack, pen = make_stack(cell, layers=2), Pen(precision)
    x, lengths = pen.input("x", "T", "B", INPUTS, dtype="float32"), pen.input("lengths", "B")
    signal = Signal(x=x, columns=np.arange(INPUTS), width=INPUTS, reach=REACH)
    assert draw_stack(pen, stack, signal, lengths)[1] is None
    _, after = draw_stack(pen, stack, signal, lengths, carry=True)
    assert after is not None
    assert [len(states) for states in after] == [len(stack.layers[0].forwards.parts)] * 2


def test_the_mixture_of_a_highway_stays_within_its_reach() -> None:
    reach, pen = np.float32(1.3), Pen("int8")
    x, y = np.random.default_rng(0).uniform(-reach, reach, 10_000).astype(np.float32), np.full(10_000, reach)
    mixed = x + np.float32(1) * (y - x)
    assert mixed.max() > reach  # by rounding
    fed, lengths = pen.input("x", "T", "B", INPUTS, dtype="float32"), pen.input("lengths", "B")
    signal = Signal(x=fed, columns=np.arange(INPUTS), width=INPUTS, reach=float(reach))
    drawn, _ = draw_stack(pen, make_stack("lstm", hidden=INPUTS, skip="highway"), signal, lengths)
    assert mixed.max() <= drawn.reach < 1.001 * reach


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_final_states_are_those_at_which_each_direction_ends(cell: Any) -> None:
    torch.manual_seed(0)
    layer, pen = Recurrent(cell, INPUTS, 5, bidirectional=True), Pen("int8")
    x, lengths = pen.input("x", "T", "B", INPUTS, dtype="float32"), pen.input("lengths", "B")
    signal = Signal(x=x, columns=np.arange(INPUTS), width=INPUTS, reach=REACH)
    pen.output(final_states(pen, layer, signal, lengths, "speller"), "y", "B", 10)
    session = open_session(pen.finish())
    numbers, ends = torch.randn(7, 3, INPUTS), torch.tensor([7, 1, 4])
    (found,) = session.run(None, {"x": numbers.numpy(), "lengths": ends.int().numpy()})
    with torch.no_grad():
        expected = layer.last(layer(numbers, ends)[0], ends).numpy()
    assert np.abs(found - expected).max() <= 1e-6
