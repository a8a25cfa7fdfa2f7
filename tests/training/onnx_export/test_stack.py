"""Exported stacks: fp32 equals PyTorch, int8 is close, and a row's bits do not depend on its batch."""

from functools import cache
from typing import Any, get_args

import numpy as np
import onnx
import pytest
import torch

from tests.support.onnx_stacks import INPUTS, REACH, ExportedStack, Item, make_stack, open_session
from training.nn.recurrent import RecurrentLayer
from training.onnx_export.builder import OnnxGraphBuilder, Precision
from training.onnx_export.layers import LayerInput, Signal, add_final_states
from training.onnx_export.stack import add_stack, has_int8
from training.options import CellName

CELLS = get_args(CellName)
QUANTIZED = [cell for cell in CELLS if cell not in ("rnn-relu", "mlstm")]
EXPORTED = [(cell, "fp32") for cell in CELLS] + [(cell, "int8") for cell in QUANTIZED]
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
def exported_stack(cell: str, precision: Precision, shape: str) -> ExportedStack:
    options, state = SHAPES[shape]
    return ExportedStack(make_stack(cell, **options), precision, state=state)


def differs_by_batch(of: ExportedStack, count: int = 18) -> list[int]:
    """Return the inputs with other bits in some batch, or with more padding, than alone."""
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
    exported = exported_stack(cell, "fp32", shape)
    items = exported.items(9)
    for item, found in zip(items, exported.run(items), strict=True):
        for ours, theirs in zip(found, exported.torch(item), strict=True):
            assert np.abs(ours - theirs).max() <= 1e-5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", QUANTIZED)
def test_int8_is_close_to_pytorch(cell: str, shape: str) -> None:
    exported = exported_stack(cell, "int8", shape)
    items = exported.items(9)
    for item, found in zip(items, exported.run(items), strict=True):
        for ours, theirs in zip(found, exported.torch(item), strict=True):
            assert np.abs(ours - theirs).max() < 0.3
            assert np.abs(ours - theirs).mean() < 0.05


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("cell", "precision"), EXPORTED)
def test_row_has_the_same_bits_alone_and_in_any_batch(cell: str, precision: Precision, shape: str) -> None:
    assert not differs_by_batch(exported_stack(cell, precision, shape))


@pytest.mark.parametrize("hidden", [50, 128, 200])
@pytest.mark.parametrize(("cell", "precision"), EXPORTED)
def test_row_of_large_layers_has_the_same_bits_in_any_batch(cell: str, precision: Precision, hidden: int) -> None:
    stack = make_stack(cell, hidden=hidden, inputs=hidden + 2, bidirectional=True)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.mul_((8 / hidden) ** 0.5)  # or its gates would all be saturated
    assert not differs_by_batch(ExportedStack(stack, precision), count=16)


@pytest.mark.parametrize("shape", WITH_STATE)
@pytest.mark.parametrize(("cell", "precision"), EXPORTED)
def test_single_steps_with_a_carried_state_equal_the_whole(cell: str, precision: Precision, shape: str) -> None:
    exported = exported_stack(cell, precision, shape)
    item = exported.items(8)[1]
    assert len(item.steps) == 6
    whole, *end = exported.run([item])[0]
    steps, states = [], item.states
    for step in item.steps:
        y, *after = exported.run([Item(steps=step[None], states=states)])[0]
        steps.append(y)
        states = tuple(after)
    assert np.concatenate(steps).tobytes() == whole.tobytes()
    assert all(a.tobytes() == b.tobytes() for a, b in zip(states, end, strict=True))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_int8_graph_has_no_large_float_matrix(cell: str) -> None:
    graph = ExportedStack(make_stack(cell, hidden=16, layers=2, skip="highway"), "int8").graph.model.graph
    kinds = {t.name: t.data_type for t in graph.initializer if np.prod(t.dims) >= 16 * 16}
    assert len(kinds) >= 4
    assert set(kinds.values()) == {onnx.TensorProto.INT8}


@pytest.mark.parametrize("cell", ["rnn-relu", "mlstm"])
def test_unbounded_cell_has_no_int8_form(cell: str) -> None:
    stack = make_stack(cell)
    assert not has_int8(stack)
    with pytest.raises(ValueError, match=f"'{cell}'"):
        ExportedStack(stack, "int8")


def test_bidirectional_stack_has_no_state() -> None:
    with pytest.raises(ValueError, match="bidirectional = false"):
        ExportedStack(make_stack("gru", bidirectional=True), "fp32", state=True)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_final_states_are_available_without_initial_states(cell: str, precision: Precision) -> None:
    stack, graph = make_stack(cell, layers=2), OnnxGraphBuilder(precision)
    x, lengths = graph.input("x", "T", "B", INPUTS, dtype="float32"), graph.input("lengths", "B")
    signal = Signal(x=x, columns=np.arange(INPUTS), width=INPUTS, reach=REACH)
    _, after = add_stack(graph, stack, signal, lengths)
    assert [len(states) for states in after] == [len(stack.layers[0].forwards.parts)] * 2


def test_highway_output_stays_within_its_reach() -> None:
    reach, graph = np.float32(1.3), OnnxGraphBuilder("int8")
    x, y = np.random.default_rng(0).uniform(-reach, reach, 10_000).astype(np.float32), np.full(10_000, reach)
    mixed = x + np.float32(1) * (y - x)
    assert mixed.max() > reach  # by rounding
    fed, lengths = graph.input("x", "T", "B", INPUTS, dtype="float32"), graph.input("lengths", "B")
    signal = Signal(x=fed, columns=np.arange(INPUTS), width=INPUTS, reach=float(reach))
    exported, _ = add_stack(graph, make_stack("lstm", hidden=INPUTS, skip="highway"), signal, lengths)
    assert mixed.max() <= exported.reach < 1.001 * reach


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_final_states_equal_pytorch(cell: Any) -> None:
    torch.manual_seed(0)
    layer, graph = RecurrentLayer(cell, INPUTS, 5, bidirectional=True), OnnxGraphBuilder("int8")
    x, lengths = graph.input("x", "T", "B", INPUTS, dtype="float32"), graph.input("lengths", "B")
    signal = Signal(x=x, columns=np.arange(INPUTS), width=INPUTS, reach=REACH)
    graph.output(
        add_final_states(graph, layer, LayerInput(signal=signal, lengths=lengths, name="speller")), "y", "B", 10
    )
    session = open_session(graph.finish())
    numbers, ends = torch.randn(7, 3, INPUTS), torch.tensor([7, 1, 4])
    (found,) = session.run(None, {"x": numbers.numpy(), "lengths": ends.int().numpy()})
    with torch.no_grad():
        expected = layer.final(layer(numbers, ends)[0], ends).numpy()
    assert np.abs(found - expected).max() <= 1e-6
