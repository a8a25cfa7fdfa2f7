"""Recurrent layers as ONNX's own operators in float: LSTM, with peepholes or coupled gates, and GRU, in both forms.

Knows the weights of a layer and the operators' order of gates. Does not know which network they make up.
T steps, B batch, I inputs, H hidden, D directions, G gates, R rows of a table.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.nn.recurrent import Recurrent
from training.onnx_export.graph_builder import Floats, Pen


@dataclass(frozen=True, kw_only=True)
class Signal:
    """A sequence on its way through the layers: x (T, B, width), and which of its columns are real.

    `columns[i]` is the place in x of feature i of the network; any other places hold ballast: a column of +reach and
    behind it one of -reach, or several such pairs, of which the farthest is ±reach. `reach` is the largest magnitude
    that a feature can have in any input.
    A signal that was looked up may say in which `table` (R, len(columns)) and in which `rows` (T, B), int32.
    """

    x: Any
    columns: NDArray[np.int64]
    width: int
    reach: float
    table: Floats | None = None
    rows: Any = None

    def spread(self, weight: Floats) -> Floats:
        """(…, len(columns)) to (…, width): zero where the ballast is."""
        wide = np.zeros((*weight.shape[:-1], self.width), np.float32)
        wide[..., self.columns] = weight
        return wide


@dataclass(frozen=True, kw_only=True)
class Operator:
    """How a cell is written in ONNX: which row of gates of ours stands where, and what the operator must be told."""

    name: str
    order: tuple[int | None, ...]  # None: a gate that ONNX has and the cell computes from another
    attributes: dict[str, int] = field(default_factory=dict)

    @property
    def parts(self) -> int:
        """How many states it has: h, or h and c."""
        return 2 if self.name == "LSTM" else 1


# Ours: LSTM i f g o, coupled i g o, GRU r z n.  ONNX: LSTM i o f c, GRU z r h.
OPERATORS = {
    "lstm": Operator(name="LSTM", order=(0, 3, 1, 2)),
    "lstm-peephole": Operator(name="LSTM", order=(0, 3, 1, 2)),
    "lstm-coupled": Operator(name="LSTM", order=(0, 2, None, 1), attributes={"input_forget": 1}),
    "gru": Operator(name="GRU", order=(1, 0, 2), attributes={"linear_before_reset": 1}),
    "gru-textbook": Operator(name="GRU", order=(1, 0, 2), attributes={"linear_before_reset": 0}),
}
PEEPHOLES = (0, 2, 1)  # ours: i f o.  ONNX: i o f


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One layer in ONNX's layout and order of gates: w (D, G·H, I), r (D, G·H, H), b (D, 2·G·H), p (D, 3·H)."""

    operator: Operator
    w: Floats
    r: Floats
    b: Floats
    p: Floats | None

    @classmethod
    def of(cls, layer: Recurrent) -> "Weights":
        operator = OPERATORS[layer.cell]
        cells = directions(layer)
        peepholes = [array(cell.peephole)[list(PEEPHOLES)].ravel() for cell in cells if layer.cell == "lstm-peephole"]

        def ordered(parameter: torch.Tensor) -> Floats:
            gates = array(parameter).reshape(-1, layer.hidden, *parameter.shape[1:])
            none = np.zeros_like(gates[0])
            return np.concatenate([none if gate is None else gates[gate] for gate in operator.order])

        return cls(
            operator=operator,
            w=np.stack([ordered(cell.weight_ih_l0) for cell in cells]),
            r=np.stack([ordered(cell.weight_hh_l0) for cell in cells]),
            b=np.stack([np.concatenate([ordered(cell.bias_ih_l0), ordered(cell.bias_hh_l0)]) for cell in cells]),
            p=np.stack(peepholes) if peepholes else None,
        )


def directions(layer: Recurrent) -> list[Any]:
    """The cells of a layer: forwards, and backwards if there is one."""
    return [cell for cell in (layer.forwards, layer.backwards) if cell is not None]


def array(parameter: torch.Tensor) -> Floats:
    return parameter.detach().float().cpu().numpy()


def direction(layer: Recurrent) -> str:
    return "forward" if layer.backwards is None else "bidirectional"


def draw_exact(
    pen: Pen, layer: Recurrent, signal: Signal, lengths: Any, name: str, memory: list[Any] | None
) -> tuple[Signal, list[Any]]:
    """One layer in float over a signal: its outputs (T, B, D·H), and its states (B, H) if it has one direction.

    `memory`: the initial states (B, H), for a layer of one direction; without it the layer starts from zero.
    """
    y, states = _operate(pen, layer, signal, lengths, name, memory)
    op, width = pen.op, layer.directions * layer.hidden
    y = op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), [0, 0, width])  # (T, D, B, H) -> (T, B, D·H)
    after = [op.Squeeze(state, [0]) for state in states] if layer.directions == 1 else []
    return Signal(x=y, columns=np.arange(width), width=width, reach=1.0), after


def final_states(pen: Pen, layer: Recurrent, signal: Signal, lengths: Any, name: str) -> Any:
    """The hidden states (B, D·H) at which each direction of one layer ends; in float at every precision.

    For a cell that is an operator of ONNX; raises KeyError for another.
    """
    _, (hidden, *_) = _operate(pen, layer, signal, lengths, name, None)
    return pen.op.Reshape(pen.op.Transpose(hidden, perm=[1, 0, 2]), [0, layer.directions * layer.hidden])


def _operate(
    pen: Pen, layer: Recurrent, signal: Signal, lengths: Any, name: str, memory: list[Any] | None
) -> tuple[Any, list[Any]]:
    """The operator: its outputs (T, D, B, H) and its final states (D, B, H)."""
    op, weights = pen.op, Weights.of(layer)
    operator = weights.operator
    initial = [op.Unsqueeze(part, [0]) for part in memory] if memory else []
    if weights.p is not None:
        initial += [None] * (operator.parts - len(initial)) + [pen.constant(weights.p, f"{name}.p")]
    y, *final = getattr(op, operator.name)(
        signal.x,
        pen.constant(signal.spread(weights.w), f"{name}.w"),
        pen.constant(weights.r, f"{name}.r"),
        pen.constant(weights.b, f"{name}.b"),
        lengths,
        *initial,
        hidden_size=layer.hidden,
        direction=direction(layer),
        **operator.attributes,
        _outputs=1 + operator.parts,
    )
    return y, final
