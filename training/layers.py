"""Recurrent layers as ONNX operators, in two precisions, and the pen that draws them.

fp32 uses ONNX's LSTM and GRU with `sequence_lens`. int8 uses DynamicQuantizeLSTM, made independent of the batch:
the operator takes its activation scales from whatever is in the batch, so two constant input features (+r, -r) and
two hidden units held at +1 and -1 ("ballast", all with zero outgoing weights) pin every range. The scales are then
constants, and an answer has the same bits alone and in any company.

Knows layers and operators. Does not know which network they make up.
T steps, B batch, I inputs, H hidden, D directions, G gates, K outputs.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript import GraphBuilder

from models.manifest import StateTensor, Tensor
from training.networks import Recurrent

Precision = Literal["fp32", "int8"]
Floats = NDArray[np.float32]

OPSET, IR_VERSION = 21, 10
BALLAST = 2  # hidden units and input features that pin the ranges
SATURATION = 30.0  # a gate with this pre-activation is exactly 0 or 1 in float32, and tanh(30) is exactly 1
# int8 weights use 7 bits: on processors without VNNI the product of two bytes is added up in 16 bits, where
# 255 · 64 · 2 still fits and 255 · 127 · 2 does not.
WEIGHT_LEVELS = 64


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A finished graph and the tensors that it declares."""

    model: onnx.ModelProto
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    state: tuple[StateTensor, ...] = ()


class Pen:
    """A graph being built: onnxscript's builder, with the layers that the networks share."""

    def __init__(self, precision: Precision) -> None:
        self.precision = precision
        self._graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET, "com.microsoft": 1}, name="seqserve")
        self._builder = GraphBuilder(self._graph)
        self.op: Any = self._builder.op
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.state: list[StateTensor] = []

    def constant(self, array: Any, name: str) -> Any:
        return self._builder.initializer(ir.tensor(np.asarray(array, order="C")), name)

    def input(self, name: str, *shape: int | str) -> Any:
        self.inputs.append(Tensor(name=name, dtype="int32", shape=shape))
        return self._builder.input(name, ir.DataType.INT32, list(shape))

    def output(self, value: Any, name: str, *shape: int | str) -> None:
        self.outputs.append(Tensor(name=name, dtype="float32", shape=shape))
        self._output(value, name, shape)

    def state_input(self, name: str, width: int) -> Any:
        self.state.append(StateTensor(input=name, output=f"{name}_next", width=width))
        return self._builder.input(name, ir.DataType.FLOAT, ["B", width])

    def state_output(self, value: Any, name: str, width: int) -> None:
        self._output(value, f"{name}_next", ("B", width))

    def _output(self, value: Any, name: str, shape: tuple[int | str, ...]) -> None:
        value = self.op.Identity(value)
        value.name, value.shape, value.dtype = name, ir.Shape(shape), ir.DataType.FLOAT
        self._graph.outputs.append(value)

    def finish(self) -> Drawing:
        model = ir.to_proto(ir.Model(self._graph, ir_version=IR_VERSION, producer_name="seqserve"))
        onnx.checker.check_model(model)
        return Drawing(model=model, inputs=tuple(self.inputs), outputs=tuple(self.outputs), state=tuple(self.state))

    def lookup(self, table: Floats, rows: Any, name: str) -> Any:
        """Rows of a constant table (R, I): in int8 stored as bytes on one scale, which halves the graph twice."""
        if self.precision == "fp32":
            return self.op.Gather(self.constant(table, name), rows, axis=0)
        scale = np.float32(np.abs(table).max() / 127 or 1.0)  # a table of zeros alone has no scale
        levels = np.rint(table / scale).astype(np.int8)
        picked = self.op.Gather(self.constant(levels, name), rows, axis=0)
        return self.op.DequantizeLinear(picked, self.constant(scale, f"{name}.scale"))

    def dense(self, x: Any, weight: Floats, bias: Floats, name: str) -> Any:
        """x (…, I) · weight (K, I)ᵀ + bias (K,)."""
        product = self.op.MatMul(x, self.constant(weight.T, f"{name}.weight"))
        return self.op.Add(product, self.constant(bias, f"{name}.bias"))

    def batch_size(self, lengths: Any) -> Any:
        return self.op.Shape(lengths)  # (1,)


@dataclass(frozen=True, kw_only=True)
class Signal:
    """A sequence on its way through the layers: x (T, B, I), and which of its features are real.

    `columns[i]` is the place in x of feature i of the network; the other places hold ballast.
    """

    x: Any
    columns: NDArray[np.int64]
    width: int


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One layer in ONNX's layout and order of gates: w (D, G·H, I), r (D, G·H, H), b (D, 2·G·H)."""

    operator: str
    gates: int
    w: Floats
    r: Floats
    b: Floats

    @classmethod
    def of(cls, layer: Recurrent) -> "Weights":
        # PyTorch: LSTM i f g o, GRU r z n.  ONNX: LSTM i o f c, GRU z r h.
        operator, order = {"lstm": ("LSTM", (0, 3, 1, 2)), "gru": ("GRU", (1, 0, 2))}[layer.cell]

        def reorder(parameter: Any) -> Floats:
            parts = np.split(parameter.detach().numpy(), len(order))
            return np.concatenate([parts[gate] for gate in order])

        directions = [part for part in (layer.forwards, layer.backwards) if part is not None]
        return cls(
            operator=operator,
            gates=len(order),
            w=np.stack([reorder(d.weight_ih_l0) for d in directions]),
            r=np.stack([reorder(d.weight_hh_l0) for d in directions]),
            b=np.stack([np.concatenate([reorder(d.bias_ih_l0), reorder(d.bias_hh_l0)]) for d in directions]),
        )

    def spread(self, signal: Signal) -> Floats:
        """w for an input with ballast in it: (D, G·H, signal.width), zero where the ballast is."""
        wide = np.zeros((*self.w.shape[:2], signal.width), np.float32)
        wide[:, :, signal.columns] = self.w
        return wide


def recurrent(
    pen: Pen,
    layer: Recurrent,
    signal: Signal,
    lengths: Any,
    name: str,
    memory: list[Any] | None = None,
    *,
    final: bool = False,
) -> tuple[Signal, list[Any]]:
    """One layer over a signal: the outputs (T, B, D·H), and its final states, each (D, B, H), if `final` asks for them.

    `memory`: the initial states (B, H), for a layer of one direction; without it the layer starts from zero.
    """
    weights = Weights.of(layer)
    in_bytes = pen.precision == "int8" and weights.operator == "LSTM"
    run = quantised if in_bytes else exact
    y, states = run(pen, layer, weights, signal, lengths, name, memory)
    op, hidden = pen.op, layer.hidden + (BALLAST if in_bytes else 0)
    y = op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), [0, 0, layer.directions * hidden])  # (T, D, B, H) -> (T, B, D·H)
    columns = np.concatenate([d * hidden + np.arange(layer.hidden) for d in range(layer.directions)])
    if in_bytes:  # an operator more for each: where they are wanted alone
        states = [op.Slice(state, [0], [layer.hidden], [2]) for state in states] if final else []
    return Signal(x=y, columns=columns, width=layer.directions * hidden), states


def exact(
    pen: Pen, layer: Recurrent, weights: Weights, signal: Signal, lengths: Any, name: str, memory: list[Any] | None
) -> tuple[Any, list[Any]]:
    op = pen.op
    initial = [op.Unsqueeze(part, [0]) for part in memory] if memory else []
    attributes: dict[str, Any] = {"hidden_size": layer.hidden, "direction": _direction(layer)}
    if weights.operator == "GRU":
        attributes["linear_before_reset"] = 1  # PyTorch's form
    y, *final = getattr(op, weights.operator)(
        signal.x,
        pen.constant(weights.spread(signal), f"{name}.w"),
        pen.constant(weights.r, f"{name}.r"),
        pen.constant(weights.b, f"{name}.b"),
        lengths,
        *initial,
        **attributes,
        _outputs=3 if weights.operator == "LSTM" else 2,
    )
    return y, final


def quantised(
    pen: Pen, layer: Recurrent, weights: Weights, signal: Signal, lengths: Any, name: str, memory: list[Any] | None
) -> tuple[Any, list[Any]]:
    """DynamicQuantizeLSTM with ballast in its hidden states, final ones included; the signal must carry it already."""
    op, hidden, wide = pen.op, layer.hidden, layer.hidden + BALLAST
    ballast_h, ballast_c = np.array([1, -1], np.float32), np.array([SATURATION, -SATURATION], np.float32)
    w, r, b = _with_ballast(weights, signal, hidden)
    w_levels, w_scale = _levels(w)
    r_levels, r_scale = _levels(r)
    shape = _initial_shape(pen, layer, lengths, BALLAST if memory else wide, name)
    initial = [
        _initial(pen, part, ballast, layer, shape, f"{name}.{state}")
        for state, part, ballast in zip("hc", memory or [None, None], (ballast_h, ballast_c), strict=True)
    ]
    zero = pen.constant(np.zeros(w_scale.shape, np.int8), f"{name}.zero")
    y, *final = op.DynamicQuantizeLSTM(
        signal.x,
        pen.constant(w_levels, f"{name}.w"),
        pen.constant(r_levels, f"{name}.r"),
        pen.constant(b, f"{name}.b"),
        lengths,
        *initial,
        None,
        pen.constant(w_scale, f"{name}.w.scale"),
        zero,
        pen.constant(r_scale, f"{name}.r.scale"),
        zero,
        hidden_size=wide,
        direction=_direction(layer),
        _outputs=3,
        _domain="com.microsoft",
        _version=1,
    )
    return y, final


def _initial_shape(pen: Pen, layer: Recurrent, lengths: Any, width: int, name: str) -> Any:
    """The shape (D, B, width), to be filled with the rows that do not come from outside."""
    directions = pen.constant(np.array([layer.directions]), f"{name}.directions")
    return pen.op.Concat(directions, pen.batch_size(lengths), pen.constant(np.array([width]), f"{name}.width"), axis=0)


def _initial(pen: Pen, part: Any, ballast: Floats, layer: Recurrent, shape: Any, name: str) -> Any:
    """An initial state (D, B, H + 2): zeros or the given rows (B, H), and the ballast behind them."""
    op = pen.op
    rows = np.zeros((1, 1, BALLAST if part is not None else layer.hidden + BALLAST), np.float32)
    rows[..., -BALLAST:] = ballast
    filled = op.Expand(pen.constant(rows, f"{name}.initial"), shape)
    return filled if part is None else op.Concat(op.Unsqueeze(part, [0]), filled, axis=2)


def _with_ballast(weights: Weights, signal: Signal, hidden: int) -> tuple[Floats, Floats, Floats]:
    """Weights for two more hidden units that nothing drives and that drive nothing: they keep their state."""
    directions, wide = len(weights.w), hidden + BALLAST

    def widen(matrix: Floats, columns: int) -> Floats:
        """(D, G·H, columns) to (D, G·(H + 2), columns), the new rows zero."""
        gates = matrix.reshape(directions, weights.gates, hidden, -1)
        result = np.zeros((directions, weights.gates, wide, columns), np.float32)
        result[:, :, :hidden, : gates.shape[-1]] = gates
        return result.reshape(directions, weights.gates * wide, columns)

    b = np.zeros((directions, 2, weights.gates, wide), np.float32)
    b[..., :hidden] = weights.b.reshape(directions, 2, weights.gates, hidden)
    # Gates i o f c: nothing comes in, all goes out, nothing is forgotten.
    b[:, 0, :3, hidden:] = np.array([-SATURATION, SATURATION, SATURATION])[:, None]
    w = widen(weights.spread(signal), signal.width)
    return w, widen(weights.r, wide), b.reshape(directions, -1)


def _levels(matrix: Floats) -> tuple[NDArray[np.int8], Floats]:
    """(D, G·H, I) to bytes (D, I, G·H), as DynamicQuantizeLSTM wants them, and one scale a row (D, G·H)."""
    highest = np.abs(matrix).max(axis=2)
    scale = np.where(highest > 0, highest / WEIGHT_LEVELS, 1.0).astype(np.float32)
    levels = np.rint(matrix / scale[:, :, None]).astype(np.int8)
    return np.ascontiguousarray(levels.transpose(0, 2, 1)), scale


def _direction(layer: Recurrent) -> str:
    return "bidirectional" if layer.directions == 2 else "forward"
