"""Layers as steps in a Scan: what is computed before the loop."""

from typing import Any

import numpy as np
import pytest

from tests.training.drawing.graphs import INPUTS, REACH, Twin, make_stack
from training.onnx_export import int8_steps as steps
from training.onnx_export import stack
from training.onnx_export.graph_builder import Precision

TABLE = np.random.default_rng(0).uniform(-REACH, REACH, (11, INPUTS)).astype(np.float32)
CELLS = ["rnn", "rnn-relu", "gru", "gru-textbook", "mlstm"]


def int8_of(cell: str) -> list[Precision]:
    return ["fp32"] if cell in ("rnn-relu", "mlstm") else ["fp32", "int8"]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("cell", "precision"), [(cell, precision) for cell in CELLS for precision in int8_of(cell)])
def test_a_looked_up_signal_gives_what_its_numbers_give(cell: str, precision: Precision, bidirectional: bool) -> None:
    drawn = Twin(make_stack(cell, layers=2, bidirectional=bidirectional), precision, table=TABLE)
    items = drawn.items(9)
    for item, (found,) in zip(items, drawn.run(items), strict=True):
        (expected,) = drawn.torch(item)
        assert np.abs(found - expected).max() < (1e-5 if precision == "fp32" else 0.3)


@pytest.mark.parametrize("table", [None, TABLE])
@pytest.mark.parametrize("cell", ["gru", "gru-textbook"])
def test_the_steps_of_a_gru_are_its_equations(cell: str, table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float, where its operator would be drawn: in bytes a small error in a step could hide."""
    monkeypatch.setattr(stack, "OPERATORS", {})
    drawn = Twin(make_stack(cell, layers=2), "fp32", state=True, table=table)
    items = drawn.items(9)
    for item, found in zip(items, drawn.run(items), strict=True):
        for ours, theirs in zip(found, drawn.torch(item), strict=True):
            assert np.abs(ours - theirs).max() <= 1e-5


def test_the_gates_of_a_small_table_are_looked_up() -> None:
    made = make_stack("gru", hidden=8)
    names = {
        tensor.name: tuple(tensor.dims) for tensor in Twin(made, "int8", table=TABLE).drawing.model.graph.initializer
    }
    assert names["layer0.forward.x0"] == (11, 16)
    assert names["layer0.forward.x1"] == (11, 8)
    assert "table" not in names


def test_the_gates_of_a_large_table_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_stack("gru", hidden=8)
    monkeypatch.setattr(steps, "FOLDED", 11 * 24 - 1)
    names = {tensor.name for tensor in Twin(made, "int8", table=TABLE).drawing.model.graph.initializer}
    assert "layer0.forward.x0" not in names
    assert {"table", "layer0.forward.x0.weight"} <= names


@pytest.mark.parametrize("cell", ["rnn", "gru"])
def test_a_table_narrows_the_distance_of_int8(cell: str) -> None:
    """What is looked up is not rounded: neither the input nor the matrix that reads it."""
    made = make_stack(cell, hidden=16)
    looked_up, fed = Twin(made, "int8", table=TABLE), Twin(made, "int8")
    items = looked_up.items(30)
    distance = [0.0, 0.0]
    for item in items:
        (expected,) = looked_up.torch(item)
        (a,) = looked_up.run([item])[0]
        (b,) = fed.run([type(item)(steps=TABLE[item.steps])])[0]
        distance[0] += float(np.abs(a - expected).sum())
        distance[1] += float(np.abs(b - expected).sum())
    assert distance[0] < distance[1]
