"""The pen: constants, outputs, bodies, and what is left out."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from tests.training.drawing.graphs import open_session
from training.onnx_export.graph_builder import Pen


def test_a_constant_asked_for_twice_is_there_once() -> None:
    pen = Pen("fp32")
    assert pen.constant(np.ones(3), "one") is pen.constant(np.ones(3), "one")
    with pytest.raises(ValueError, match="constant 'one' is already float64"):
        pen.constant(np.zeros(3), "one")
    with pytest.raises(ValueError, match="give this one another name"):
        pen.constant(np.ones(3, np.float32), "one")


def test_a_drawing_declares_its_tensors_with_their_types() -> None:
    pen = Pen("fp32")
    x, lengths = pen.input("x", "T", "B", 2, dtype="float32"), pen.input("lengths", "B")
    pen.output(pen.op.Mul(x, 2.0), "y", "T", "B", 2)
    pen.output(pen.op.Add(lengths, 1), "path", "B", dtype="int32")
    drawing = pen.finish()
    assert [(t.name, t.dtype, t.shape) for t in drawing.inputs] == [
        ("x", "float32", ("T", "B", 2)),
        ("lengths", "int32", ("B",)),
    ]
    assert [(t.name, t.dtype) for t in drawing.outputs] == [("y", "float32"), ("path", "int32")]
    y, path = open_session(drawing).run(None, {"x": np.ones((3, 1, 2), np.float32), "lengths": np.array([3], np.int32)})
    assert (y == 2).all()
    assert path.dtype == np.int32
    assert path.tolist() == [4]


def test_what_no_output_needs_is_left_out() -> None:
    pen = Pen("fp32")
    x = pen.input("x", "B", dtype="float32")
    pen.input("unread", "B")
    pen.op.Mul(x, pen.constant(np.ones(1000, np.float32), "unused"))
    pen.output(pen.op.Neg(x), "y", "B")
    drawing = pen.finish()
    assert [node.op_type for node in drawing.model.graph.node if node.op_type != "Identity"] == ["Neg"]
    assert not drawing.model.graph.initializer
    assert [value.name for value in drawing.model.graph.input] == ["x", "unread"]


def test_names_in_a_body_are_apart_from_those_around_it() -> None:
    pen = Pen("fp32")
    x = pen.op.Add(pen.input("x", "T", "B", dtype="float32"), 1.0)

    def body(inner: Pen, total: Any, step: Any) -> list[Any]:
        total = inner.op.Add(total, inner.op.Mul(step, inner.constant(np.float32(3), "three")))
        return [total, inner.op.Identity(total)]

    inputs = [ir.val(name, dtype=ir.DataType.FLOAT, shape=ir.Shape(("B",))) for name in ("total", "step")]
    start = pen.constant(np.zeros(1, np.float32), "zeros")
    first = pen.body(body, "first", inputs=inputs, outputs=2)
    _, y = pen.op.Scan(start, x, body=first, num_scan_inputs=1, _outputs=2)
    pen.output(y, "y", "T", "B")
    (found,) = open_session(pen.finish()).run(None, {"x": np.ones((3, 1), np.float32)})
    assert found[:, 0].tolist() == [6, 12, 18]
