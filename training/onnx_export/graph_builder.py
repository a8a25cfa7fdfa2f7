"""The pen that draws an ONNX graph: onnxscript's builder, and the tensors that the graph declares.

Knows inputs, outputs, constants and the bodies of loops. Does not know layers or networks.
T steps, B batch, I features, K outputs, R rows of a table.
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript import GraphBuilder

from models.manifest import StateTensor, Tensor

Precision = Literal["fp32", "int8"]
DType = Literal["float32", "int32"]
Floats = NDArray[np.float32]

OPSET, IR_VERSION = 21, 10
CONTRIB = {"_domain": "com.microsoft", "_version": 1}  # for an operator of ONNX Runtime's own
BALLAST = 2  # constant columns, +reach and -reach, by which an int8 signal shows the range that it can have
_TYPES = {"float32": ir.DataType.FLOAT, "int32": ir.DataType.INT32}


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A finished graph and the tensors that it declares."""

    model: onnx.ModelProto
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    state: tuple[StateTensor, ...] = ()


class Pen:
    """A graph being built. `op` makes a node of any operator; constants in its arguments are plain Python numbers."""

    def __init__(self, precision: Precision) -> None:
        self.precision = precision
        self._graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET, "com.microsoft": 1}, name="seqserve")
        self._root = GraphBuilder(self._graph)
        self._constants: dict[str, tuple[NDArray[Any], Any]] = {}
        self.op: Any = self._root.op
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.state: list[StateTensor] = []

    @property
    def ballast(self) -> int:
        """How many columns of ballast a signal carries at this precision."""
        return BALLAST if self.precision == "int8" else 0

    def constant(self, array: Any, name: str) -> Any:
        """An initializer; the same name again is the same constant.

        Raises ValueError when the name already stands for another array.
        """
        array = np.asarray(array, order="C")
        if name not in self._constants:
            self._constants[name] = array, self._root.initializer(ir.tensor(array), name)
        known, value = self._constants[name]
        if known.dtype != array.dtype or not np.array_equal(known, array):
            raise ValueError(f"constant {name!r} is already {known.dtype}{known.shape}: give this one another name")
        return value

    def input(self, name: str, *shape: int | str, dtype: DType = "int32") -> Any:
        self.inputs.append(Tensor(name=name, dtype=dtype, shape=shape))
        return self._root.input(name, _TYPES[dtype], list(shape))

    def output(self, value: Any, name: str, *shape: int | str, dtype: DType = "float32") -> None:
        self.outputs.append(Tensor(name=name, dtype=dtype, shape=shape))
        self._output(value, name, shape, dtype)

    def state_input(self, name: str, width: int) -> Any:
        self.state.append(StateTensor(input=name, output=f"{name}_next", width=width))
        return self._root.input(name, ir.DataType.FLOAT, ["B", width])

    def state_output(self, value: Any, name: str, width: int) -> None:
        self._output(value, f"{name}_next", ("B", width), "float32")

    def _output(self, value: Any, name: str, shape: tuple[int | str, ...], dtype: DType) -> None:
        value = self.op.Identity(value)
        value.name, value.shape, value.dtype = name, ir.Shape(shape), _TYPES[dtype]
        self._graph.outputs.append(value)

    def body(
        self, draw: Callable[..., Sequence[Any]], name: str, *, outputs: int, inputs: Sequence[ir.Value] = ()
    ) -> ir.Graph:
        """The body of a Scan: `draw(pen, *inputs)` draws it and returns its outputs.

        `inputs` are typed values that belong to no graph yet. Values from outside can be used within, but an output
        must be made within. `name` goes before the names within: an inner name that the outer graph has is forbidden.

        Constants lie in the outermost graph. No body in a body: ONNX Runtime packs a matrix ahead only if it lies at
        most one graph further out. Unpacked, a product is slow, and in float it adds up in another order for one row
        than for many.
        """

        def trace(op: Any, *values: Any) -> list[Any]:
            op.builder.push_module(name)
            pen = copy(self)
            pen.op = op
            return list(draw(pen, *values))

        made: ir.Graph = self._root.subgraph(trace, inputs, [ir.Value() for _ in range(outputs)], name=name)
        return made

    def finish(self) -> Drawing:
        """The drawing, without what no output needs."""
        model = ir.Model(self._graph, ir_version=IR_VERSION, producer_name="seqserve")
        RemoveUnusedNodesPass()(model)
        proto = ir.to_proto(model)
        onnx.checker.check_model(proto)
        return Drawing(model=proto, inputs=tuple(self.inputs), outputs=tuple(self.outputs), state=tuple(self.state))

    def lookup(self, table: Floats, rows: Any, name: str) -> Any:
        """Rows of a constant table (R, I): in int8 stored as bytes on one scale, which makes the graph smaller."""
        if self.precision == "fp32":
            return self.op.Gather(self.constant(table, name), rows, axis=0)
        scale = np.float32(np.abs(table).max() / 127 or 1.0)  # a table of zeros alone has no scale
        levels = np.rint(table / scale).astype(np.int8)
        picked = self.op.Gather(self.constant(levels, name), rows, axis=0)
        return self.op.DequantizeLinear(picked, self.constant(scale, f"{name}.scale"))

    def dense(self, x: Any, weight: Floats, bias: Floats, name: str) -> Any:
        """x (…, I) · weight (K, I)ᵀ + bias (K,), in float at every precision."""
        product = self.op.MatMul(x, self.constant(weight.T, f"{name}.weight"))
        return self.op.Add(product, self.constant(bias, f"{name}.bias"))

    def batch_size(self, lengths: Any) -> Any:
        return self.op.Shape(lengths)  # (1,)
