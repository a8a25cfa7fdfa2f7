"""Layers as Scans, and the projections computed before the loop."""

from typing import Any

import numpy as np
import pytest

from tests.support.onnx_stacks import INPUTS, REACH, ExportedStack, make_stack
from training.onnx_export import scan, stack
from training.onnx_export.builder import Precision

TABLE = np.random.default_rng(0).uniform(-REACH, REACH, (11, INPUTS)).astype(np.float32)
CELLS = ["rnn", "rnn-relu", "gru", "gru-textbook", "mlstm"]


def int8_of(cell: str) -> list[Precision]:
    return ["fp32"] if cell in ("rnn-relu", "mlstm") else ["fp32", "int8"]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("cell", "precision"), [(cell, precision) for cell in CELLS for precision in int8_of(cell)])
def test_looked_up_signal_equals_pytorch(cell: str, precision: Precision, bidirectional: bool) -> None:
    exported = ExportedStack(make_stack(cell, layers=2, bidirectional=bidirectional), precision, table=TABLE)
    items = exported.items(9)
    for item, (found,) in zip(items, exported.run(items), strict=True):
        (expected,) = exported.torch(item)
        assert np.abs(found - expected).max() < (1e-5 if precision == "fp32" else 0.3)


@pytest.mark.parametrize("table", [None, TABLE])
@pytest.mark.parametrize("cell", ["gru", "gru-textbook"])
def test_gru_scan_in_float_equals_pytorch(cell: str, table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the Scan in float instead of the operator, because int8 would hide a small error."""
    monkeypatch.setattr(stack, "OPERATORS", {})
    exported = ExportedStack(make_stack(cell, layers=2), "fp32", state=True, table=table)
    items = exported.items(9)
    for item, found in zip(items, exported.run(items), strict=True):
        for ours, theirs in zip(found, exported.torch(item), strict=True):
            assert np.abs(ours - theirs).max() <= 1e-5


def test_projections_of_a_small_table_are_looked_up() -> None:
    made = make_stack("gru", hidden=8)
    names = {
        tensor.name: tuple(tensor.dims)
        for tensor in ExportedStack(made, "int8", table=TABLE).graph.model.graph.initializer
    }
    assert names["layer0.forward.x0"] == (11, 16)
    assert names["layer0.forward.x1"] == (11, 8)
    assert "table" not in names


def test_projections_of_a_large_table_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_stack("gru", hidden=8)
    monkeypatch.setattr(scan, "LARGEST_TABLE", 11 * 24 - 1)
    names = {tensor.name for tensor in ExportedStack(made, "int8", table=TABLE).graph.model.graph.initializer}
    assert "layer0.forward.x0" not in names
    assert {"table", "layer0.forward.x0.weight"} <= names


@pytest.mark.parametrize("cell", ["rnn", "gru"])
def test_looked_up_projections_reduce_the_int8_error(cell: str) -> None:
    """A looked-up projection rounds neither the input nor the matrix."""
    made = make_stack(cell, hidden=16)
    looked_up, fed = ExportedStack(made, "int8", table=TABLE), ExportedStack(made, "int8")
    items = looked_up.items(30)
    distance = [0.0, 0.0]
    for item in items:
        (expected,) = looked_up.torch(item)
        (a,) = looked_up.run([item])[0]
        (b,) = fed.run([type(item)(steps=TABLE[item.steps])])[0]
        distance[0] += float(np.abs(a - expected).sum())
        distance[1] += float(np.abs(b - expected).sum())
    assert distance[0] < distance[1]
