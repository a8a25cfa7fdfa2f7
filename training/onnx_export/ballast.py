"""The LSTM in bytes: ONNX Runtime's DynamicQuantizeLSTM, made independent of the batch.

The operator takes its activation scales from whatever is in the batch. Two constant input columns (+reach, -reach) and
two hidden units held at +1 and -1 (ballast, all with zero outgoing weights) pin every range: the scales are then
constants, and an answer has the same bits alone and in any company.

Knows LSTM layers, with peepholes or coupled gates. Does not know which network they make up.
T steps, B batch, I inputs, H hidden, D directions, G gates.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from training.nn.recurrent import Recurrent
from training.onnx_export.graph_builder import BALLAST, CONTRIB, Floats, Pen
from training.onnx_export.layers import Signal, Weights, direction
from training.onnx_export.levels import levels

SATURATION = 30.0  # a gate with this pre-activation is exactly 0 or 1 in float32, and tanh(30) is exactly 1


def hold(pen: Pen, signal: Signal) -> Signal:
    """The signal with ballast at its end, if it has none yet."""
    if signal.width > len(signal.columns):
        return signal
    op = pen.op
    ends = pen.constant(np.array([signal.reach, -signal.reach], np.float32), f"ballast{float(signal.reach)!r}")
    shape = op.Concat(op.Shape(signal.x, start=0, end=2), [BALLAST], axis=0)
    x = op.Concat(signal.x, op.Expand(ends, shape), axis=2)
    return replace(signal, x=x, width=signal.width + BALLAST, table=None, rows=None)


def draw_ballast(
    pen: Pen, layer: Recurrent, signal: Signal, lengths: Any, name: str, memory: list[Any] | None
) -> tuple[Signal, list[Any]]:
    """One layer in bytes: outputs (T, B, D·(H + 2)) that carry ballast, and its states (B, H) if it has one direction.

    `memory`: the initial states (B, H), for a layer of one direction; without it the layer starts from zero.
    """
    y, states = _operate(pen, layer, hold(pen, signal), lengths, name, memory)
    op, wide = pen.op, layer.hidden + BALLAST
    y = op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), [0, 0, layer.directions * wide])  # (T, D, B, H + 2) -> (T, B, …)
    columns = np.concatenate([number * wide + np.arange(layer.hidden) for number in range(layer.directions)])
    after = []
    if layer.directions == 1:
        after = [op.Slice(op.Squeeze(state, [0]), [0], [layer.hidden], [1]) for state in states]
    return Signal(x=y, columns=columns, width=layer.directions * wide, reach=1.0), after


def _operate(
    pen: Pen, layer: Recurrent, signal: Signal, lengths: Any, name: str, memory: list[Any] | None
) -> tuple[Any, list[Any]]:
    """The operator: its outputs (T, D, B, H + 2) and its final states (D, B, H + 2)."""
    weights = _widen(Weights.of(layer), signal, layer.hidden)
    w, w_scale = levels(weights.w)
    r, r_scale = levels(weights.r)
    zero = pen.constant(np.zeros(w_scale.shape, np.int8), f"{name}.zero")
    y, *final = pen.op.DynamicQuantizeLSTM(
        signal.x,
        pen.constant(w, f"{name}.w"),
        pen.constant(r, f"{name}.r"),
        pen.constant(weights.b, f"{name}.b"),
        lengths,
        *_initial(pen, layer, lengths, name, memory),
        None if weights.p is None else pen.constant(weights.p, f"{name}.p"),
        pen.constant(w_scale, f"{name}.w.scale"),
        zero,
        pen.constant(r_scale, f"{name}.r.scale"),
        zero,
        hidden_size=layer.hidden + BALLAST,
        direction=direction(layer),
        **weights.operator.attributes,
        _outputs=3,
        **CONTRIB,
    )
    for value in (y, *final):
        value.dtype = signal.x.dtype  # the builder infers no types for ONNX Runtime's own operators
    return y, final


def _initial(pen: Pen, layer: Recurrent, lengths: Any, name: str, memory: list[Any] | None) -> list[Any]:
    """The initial states (D, B, H + 2) of h and c: zeros or the given rows (B, H), and the ballast behind them."""
    op = pen.op
    own = BALLAST if memory else layer.hidden + BALLAST  # columns that do not come from outside
    shape = op.Concat([layer.directions], pen.batch_size(lengths), [own], axis=0)
    states = []
    for number, (part, height) in enumerate((("h", 1.0), ("c", SATURATION))):
        rows = np.zeros((1, 1, own), np.float32)
        rows[..., -BALLAST:] = height, -height
        filled = op.Expand(pen.constant(rows, f"{name}.{part}.initial"), shape)
        states.append(op.Concat(op.Unsqueeze(memory[number], [0]), filled, axis=2) if memory else filled)
    return states


def _widen(weights: Weights, signal: Signal, hidden: int) -> Weights:
    """Weights for two more hidden units that nothing drives and that drive nothing: they keep their state."""
    count, gates, wide = len(weights.w), len(weights.operator.order), hidden + BALLAST

    def widen(matrix: Floats, columns: int) -> Floats:
        """(D, G·H, ≤ columns) to (D, G·(H + 2), columns), all that is new zero."""
        old = matrix.reshape(count, gates, hidden, -1)
        new = np.zeros((count, gates, wide, columns), np.float32)
        new[:, :, :hidden, : old.shape[-1]] = old
        return new.reshape(count, gates * wide, columns)

    b = np.zeros((count, 2, gates, wide), np.float32)
    b[..., :hidden] = weights.b.reshape(count, 2, gates, hidden)
    # Gates i o f c: nothing comes in, all goes out, nothing is forgotten (where f is 1 - i, by itself).
    b[:, 0, :3, hidden:] = np.array([-SATURATION, SATURATION, SATURATION])[:, None]
    p = None
    if weights.p is not None:
        p = np.zeros((count, 3, wide), np.float32)
        p[..., :hidden] = weights.p.reshape(count, 3, hidden)
        p = p.reshape(count, -1)
    return replace(
        weights,
        w=widen(signal.spread(weights.w), signal.width),
        r=widen(weights.r, wide),
        b=b.reshape(count, -1),
        p=p,
    )
