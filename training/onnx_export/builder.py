"""A builder for ONNX graphs on top of onnxscript, which also records the tensors for the bundle's manifest.

T steps, B batch, I features, K outputs, R table rows.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript import GraphBuilder

from models.manifest import MemoryTensor, StateTensor, Tensor

Precision = Literal["fp32", "int8"]
DType = Literal["float32", "int32"]
Floats = NDArray[np.float32]

OPSET, IR_VERSION = 21, 10
CONTRIB = {"_domain": "com.microsoft", "_version": 1}  # for operators of ONNX Runtime
_TYPES = {"float32": ir.DataType.FLOAT, "int32": ir.DataType.INT32}


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """What bytes were rounded from: the exact values, and the initializer with the scales.

    The scales, in this shape, multiply the bytes.
    """

    exact: Floats
    scale: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ExportedGraph:
    """A finished ONNX model and the tensors that a manifest declares."""

    model: onnx.ModelProto
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    state: tuple[StateTensor, ...] = ()
    memory: tuple[MemoryTensor, ...] = ()
    reader: "ExportedGraph | None" = None  # reads a source for a model that writes step by step
    rounded: Mapping[str, Rounded] = field(default_factory=dict)  # by the initializer with the bytes


class OnnxGraphBuilder:
    """An ONNX graph under construction. `op.Name(...)` adds a node; its arguments may be Python numbers."""

    def __init__(self, precision: Precision) -> None:
        self.precision = precision
        self._graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET, "com.microsoft": 1}, name="seqserve")
        self._root = GraphBuilder(self._graph)
        self._constants: dict[str, tuple[NDArray[Any], Any]] = {}
        self.op: Any = self._root.op
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._state: list[StateTensor] = []
        self._memory: list[MemoryTensor] = []
        self._rounded: dict[str, Rounded] = {}

    def constant(self, array: Any, name: str, rounded: Rounded | None = None) -> Any:
        """Return an initializer. A repeated name returns the same initializer.

        Raises ValueError if the name is taken by another array.
        """
        array = np.asarray(array, order="C")
        if rounded is not None:
            self._rounded[name] = rounded
        if name not in self._constants:
            self._constants[name] = array, self._root.initializer(ir.tensor(array), name)
        known, value = self._constants[name]
        if known.dtype != array.dtype or not np.array_equal(known, array):
            raise ValueError(f"constant {name!r} already is a {known.dtype}{known.shape}: use another name")
        return value

    def input(self, name: str, *shape: int | str, dtype: DType = "int32") -> Any:
        self._inputs.append(Tensor(name=name, dtype=dtype, shape=shape))
        return self._root.input(name, _TYPES[dtype], list(shape))

    def output(self, value: Any, name: str, *shape: int | str, dtype: DType = "float32") -> None:
        self._outputs.append(Tensor(name=name, dtype=dtype, shape=shape))
        self._add_output(value, name, shape, dtype)

    def state_input(self, name: str, width: int) -> Any:
        self._state.append(StateTensor(input=name, output=f"{name}_next", width=width))
        return self._root.input(name, ir.DataType.FLOAT, ["B", width])

    def memory_input(self, name: str, width: int) -> Any:
        """Return an input (S, M, width) that is an output of the reader."""
        self._memory.append(MemoryTensor(name=name, width=width))
        return self._root.input(name, ir.DataType.FLOAT, ["S", "M", width])

    def state_output(self, value: Any, name: str, width: int) -> None:
        self._add_output(value, f"{name}_next", ("B", width), "float32")

    def _add_output(self, value: Any, name: str, shape: tuple[int | str, ...], dtype: DType) -> None:
        value = self.op.Identity(value)
        value.name, value.shape, value.dtype = name, ir.Shape(shape), _TYPES[dtype]
        self._graph.outputs.append(value)

    def scan_body(
        self, build: Callable[..., Sequence[Any]], name: str, *, outputs: int, inputs: Sequence[ir.Value] = ()
    ) -> ir.Graph:
        """Return the body of a Scan. `build(graph, *inputs)` adds its nodes and returns its outputs.

        `inputs` are typed values without a graph. The body may read values of the outer graph, but its outputs must be
        its own. `name` prefixes the names inside, which must differ from those outside.

        Constants go to the outermost graph, and bodies must not nest: ONNX Runtime prepacks a matrix only if it is at
        most one graph further out. Without prepacking, a product is slow, and in float it sums in another order for one
        row than for many.
        """

        def trace(op: Any, *values: Any) -> list[Any]:
            op.builder.push_module(name)
            inner = copy(self)
            inner.op = op
            return list(build(inner, *values))

        body: ir.Graph = self._root.subgraph(trace, inputs, [ir.Value() for _ in range(outputs)], name=name)
        return body

    def finish(self) -> ExportedGraph:
        """Remove unused nodes, check the model and return it."""
        model = ir.Model(self._graph, ir_version=IR_VERSION, producer_name="seqserve")
        RemoveUnusedNodesPass()(model)
        proto = ir.to_proto(model)
        onnx.checker.check_model(proto)
        return ExportedGraph(
            model=proto,
            inputs=tuple(self._inputs),
            outputs=tuple(self._outputs),
            state=tuple(self._state),
            memory=tuple(self._memory),
            rounded=self._rounded,
        )

    def lookup(self, table: Floats, rows: Any, name: str) -> Any:
        """Gather rows of a constant table (R, I). In int8 the table is bytes with one scale, a quarter of the size."""
        if self.precision == "fp32":
            return self.op.Gather(self.constant(table, name), rows, axis=0)
        scale = np.float32(np.abs(table).max() / 127 or 1.0)  # any scale serves a table of zeros
        quantized = np.rint(table / scale).astype(np.int8)
        rounded = Rounded(exact=table, scale=f"{name}.scale", shape=())
        picked = self.op.Gather(self.constant(quantized, name, rounded), rows, axis=0)
        return self.op.DequantizeLinear(picked, self.constant(scale, rounded.scale))

    def dense(self, x: Any, weight: Floats, bias: Floats, name: str) -> Any:
        """Return x (…, I) · weight (K, I)ᵀ + bias (K,), in float at every precision."""
        product = self.op.MatMul(x, self.constant(weight.T, f"{name}.weight"))
        return self.op.Add(product, self.constant(bias, f"{name}.bias"))

    def batch_size(self, lengths: Any) -> Any:
        """Return B as a tensor (1,)."""
        return self.op.Shape(lengths)

    def final_step(self, x: Any, lengths: Any) -> Any:
        """Return each row of x (T, B, …) at its last step (B, …). lengths (B,) >= 1."""
        op = self.op
        last = op.Cast(op.Sub(lengths, 1), to=ir.DataType.INT64)
        rows = op.Range(0, op.Squeeze(self.batch_size(lengths), [0]), 1)
        return op.GatherND(x, op.Concat(op.Unsqueeze(last, [1]), op.Unsqueeze(rows, [1]), axis=1))

    def reverse(self, x: Any, lengths: Any) -> Any:
        """Return x (T, B, …) with each column reversed within its length."""
        ends = self.op.Cast(lengths, to=ir.DataType.INT64)
        return self.op.ReverseSequence(x, ends, time_axis=0, batch_axis=1)
