"""Recurrent layers as ONNX operators in float: LSTM with peepholes or coupled gates, and both forms of GRU.

T steps, B batch, I inputs, H hidden, D directions, G gates, R table rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.nn.cells import Cell
from training.nn.recurrent import RecurrentLayer
from training.onnx_export.builder import Floats, OnnxGraphBuilder


@dataclass(frozen=True, kw_only=True)
class Signal:
    """A sequence between two layers: x (T, B, width) and where its features are.

    `columns[i]` is the column of x with feature i. The other columns are range pins (int8.py): a column of +reach, then
    one of -reach, or several such pairs with ±reach as the farthest. `reach` bounds the magnitude of every feature
    for any input. A looked-up signal may give its `table` (R, len(columns)) and `rows` (T, B) int32.
    """

    x: Any
    columns: NDArray[np.int64]
    width: int
    reach: float
    table: Floats | None = None
    rows: Any = None

    @property
    def has_pins(self) -> bool:
        return self.width > len(self.columns)

    def spread(self, weight: Floats) -> Floats:
        """Return weight (…, len(columns)) as (…, width), with zeros for the range pins."""
        wide = np.zeros((*weight.shape[:-1], self.width), np.float32)
        wide[..., self.columns] = weight
        return wide

    def features(self, graph: OnnxGraphBuilder, name: str) -> Any:
        """Return the features alone (T, B, len(columns))."""
        if not self.has_pins:
            return self.x
        return graph.op.Gather(self.x, graph.constant(self.columns, name), axis=2)


@dataclass(frozen=True, kw_only=True)
class LayerInput:
    """What a layer reads, and the prefix of its names. `initial` has its initial states (B, H); None means zeros."""

    signal: Signal
    lengths: Any  # (B,) int32
    name: str
    initial: Sequence[Any] | None = None


@dataclass(frozen=True, kw_only=True)
class OnnxOperator:
    """The ONNX operator of a cell: its name, its order of our gates, and its attributes."""

    name: str
    order: tuple[int | None, ...]  # None: a gate that the cell derives from another
    attributes: dict[str, int] = field(default_factory=dict)


# Our order: LSTM i f g o, coupled i g o, GRU r z n.  ONNX: LSTM i o f c, GRU z r h.
OPERATORS = {
    "lstm": OnnxOperator(name="LSTM", order=(0, 3, 1, 2)),
    "lstm-peephole": OnnxOperator(name="LSTM", order=(0, 3, 1, 2)),
    "lstm-coupled": OnnxOperator(name="LSTM", order=(0, 2, None, 1), attributes={"input_forget": 1}),
    "gru": OnnxOperator(name="GRU", order=(1, 0, 2), attributes={"linear_before_reset": 1}),
    "gru-textbook": OnnxOperator(name="GRU", order=(1, 0, 2), attributes={"linear_before_reset": 0}),
}
PEEPHOLES = [0, 2, 1]  # our order: i f o.  ONNX: i o f


@dataclass(frozen=True, kw_only=True)
class OnnxLayerWeights:
    """The weights of a layer in ONNX's layout: w (D, G·H, I), r (D, G·H, H), b (D, 2·G·H), p (D, 3·H)."""

    operator: OnnxOperator
    w: Floats
    r: Floats
    b: Floats
    p: Floats | None

    @classmethod
    def of(cls, layer: RecurrentLayer) -> "OnnxLayerWeights":
        operator = OPERATORS[layer.cell]
        cells = cells_of(layer)
        peepholes = [to_array(cell.peephole)[PEEPHOLES].ravel() for cell in cells if layer.cell == "lstm-peephole"]

        def ordered(parameter: torch.Tensor) -> Floats:
            gates = to_array(parameter).reshape(-1, layer.hidden, *parameter.shape[1:])
            none = np.zeros_like(gates[0])
            return np.concatenate([none if gate is None else gates[gate] for gate in operator.order])

        return cls(
            operator=operator,
            w=np.stack([ordered(cell.weight_ih_l0) for cell in cells]),
            r=np.stack([ordered(cell.weight_hh_l0) for cell in cells]),
            b=np.stack([np.concatenate([ordered(cell.bias_ih_l0), ordered(cell.bias_hh_l0)]) for cell in cells]),
            p=np.stack(peepholes) if peepholes else None,
        )


def cells_of(layer: RecurrentLayer) -> list[Cell]:
    """Return the forward cell of a layer and, if there is one, its backward cell."""
    return [cell for cell in (layer.forwards, layer.backwards) if cell is not None]


def to_array(parameter: torch.Tensor) -> Floats:
    return parameter.detach().float().cpu().numpy()


def direction_of(layer: RecurrentLayer) -> str:
    return "forward" if layer.backwards is None else "bidirectional"


def add_float_layer(graph: OnnxGraphBuilder, layer: RecurrentLayer, source: LayerInput) -> tuple[Signal, list[Any]]:
    """Add a layer in float. Return its outputs (T, B, D·H) and, for one direction, its final states (B, H)."""
    y, states = _add_operator(graph, layer, source)
    op, width = graph.op, layer.directions * layer.hidden
    y = op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), [0, 0, width])  # (T, D, B, H) -> (T, B, D·H)
    final = [op.Squeeze(state, [0]) for state in states] if layer.directions == 1 else []
    return Signal(x=y, columns=np.arange(width), width=width, reach=1.0), final


def add_final_states(graph: OnnxGraphBuilder, layer: RecurrentLayer, source: LayerInput) -> Any:
    """Return the final hidden states (B, D·H) of a layer, in float at every precision.

    Raises KeyError for a cell without an ONNX operator.
    """
    _, (hidden, *_) = _add_operator(graph, layer, source)
    return graph.op.Reshape(graph.op.Transpose(hidden, perm=[1, 0, 2]), [0, layer.directions * layer.hidden])


def _add_operator(graph: OnnxGraphBuilder, layer: RecurrentLayer, source: LayerInput) -> tuple[Any, list[Any]]:
    """Return the operator's outputs (T, D, B, H) and final states (D, B, H)."""
    op, weights = graph.op, OnnxLayerWeights.of(layer)
    operator, name, states = weights.operator, source.name, len(layer.forwards.parts)
    optional = [op.Unsqueeze(part, [0]) for part in source.initial or ()]
    if weights.p is not None:
        optional += [None] * (states - len(optional)) + [graph.constant(weights.p, f"{name}.p")]
    y, *final = getattr(op, operator.name)(
        source.signal.x,
        graph.constant(source.signal.spread(weights.w), f"{name}.w"),
        graph.constant(weights.r, f"{name}.r"),
        graph.constant(weights.b, f"{name}.b"),
        source.lengths,
        *optional,
        hidden_size=layer.hidden,
        direction=direction_of(layer),
        **operator.attributes,
        _outputs=1 + states,
    )
    return y, final
