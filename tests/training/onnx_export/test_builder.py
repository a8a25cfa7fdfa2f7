"""The graph builder: constants, declared tensors, Scan bodies and pruning."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from tests.support.onnx_stacks import open_session
from training.onnx_export.builder import OnnxGraphBuilder


def test_repeated_constant_is_shared_and_a_conflict_is_rejected() -> None:
    graph = OnnxGraphBuilder("fp32")
    assert graph.constant(np.ones(3), "one") is graph.constant(np.ones(3), "one")
    with pytest.raises(ValueError, match="constant 'one'"):
        graph.constant(np.zeros(3), "one")
    with pytest.raises(ValueError, match="constant 'one'"):
        graph.constant(np.ones(3, np.float32), "one")


def test_exported_graph_declares_inputs_and_outputs() -> None:
    graph = OnnxGraphBuilder("fp32")
    x, lengths = graph.input("x", "T", "B", 2, dtype="float32"), graph.input("lengths", "B")
    graph.output(graph.op.Mul(x, 2.0), "y", "T", "B", 2)
    graph.output(graph.op.Add(lengths, 1), "path", "B", dtype="int32")
    exported = graph.finish()
    assert [(t.name, t.dtype, t.shape) for t in exported.inputs] == [
        ("x", "float32", ("T", "B", 2)),
        ("lengths", "int32", ("B",)),
    ]
    assert [(t.name, t.dtype) for t in exported.outputs] == [("y", "float32"), ("path", "int32")]
    y, path = open_session(exported).run(
        None, {"x": np.ones((3, 1, 2), np.float32), "lengths": np.array([3], np.int32)}
    )
    assert (y == 2).all()
    assert path.dtype == np.int32
    assert path.tolist() == [4]


def test_unused_nodes_and_constants_are_removed() -> None:
    graph = OnnxGraphBuilder("fp32")
    x = graph.input("x", "B", dtype="float32")
    graph.input("unread", "B")
    graph.op.Mul(x, graph.constant(np.ones(1000, np.float32), "unused"))
    graph.output(graph.op.Neg(x), "y", "B")
    exported = graph.finish()
    assert [node.op_type for node in exported.model.graph.node if node.op_type != "Identity"] == ["Neg"]
    assert not exported.model.graph.initializer
    assert [value.name for value in exported.model.graph.input] == ["x", "unread"]


def test_scan_body_names_do_not_clash_with_outer_names() -> None:
    graph = OnnxGraphBuilder("fp32")
    x = graph.op.Add(graph.input("x", "T", "B", dtype="float32"), 1.0)

    def body(inner: OnnxGraphBuilder, total: Any, step: Any) -> list[Any]:
        total = inner.op.Add(total, inner.op.Mul(step, inner.constant(np.float32(3), "three")))
        return [total, inner.op.Identity(total)]

    inputs = [ir.val(name, dtype=ir.DataType.FLOAT, shape=ir.Shape(("B",))) for name in ("total", "step")]
    start = graph.constant(np.zeros(1, np.float32), "zeros")
    first = graph.scan_body(body, "first", inputs=inputs, outputs=2)
    _, y = graph.op.Scan(start, x, body=first, num_scan_inputs=1, _outputs=2)
    graph.output(y, "y", "T", "B")
    (found,) = open_session(graph.finish()).run(None, {"x": np.ones((3, 1), np.float32)})
    assert found[:, 0].tolist() == [6, 12, 18]
