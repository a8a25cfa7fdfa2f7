"""A whole stack of recurrent layers as ONNX operators, with what goes past its layers, in fp32 and in int8.

Which layer is drawn how: LSTMs and, in fp32, GRUs are operators (layers.py; in int8 ballast.py), the others steps
(steps.py). In both precisions a row has the same bits alone and in any batch, and a sequence in pieces with its state
handed on the same as the whole, on the CPU with one thread.

Knows stacks, layers and signals. Does not know encoders or heads.
T steps, B batch, W columns of a signal, H hidden.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from training.nn.recurrent import Stack
from training.onnx_export.ballast import draw_ballast, hold
from training.onnx_export.graph_builder import Pen
from training.onnx_export.int8_steps import draw_steps
from training.onnx_export.layers import OPERATORS, Signal, array, draw_exact
from training.onnx_export.levels import enter, product

# (pen, layer, signal, lengths, name, memory) -> (signal, states)
Draw = Callable[..., tuple[Signal, list[Any]]]

BY_BALLAST = ("lstm", "lstm-peephole", "lstm-coupled")
BY_STEPS = ("rnn", "gru", "gru-textbook")  # in int8: a relu has no bound, nor has the product in an mlstm
SLACK = np.float32(1 + 2**-20)  # for rounding: x + t(y - x) lies between x and y, a sum within the sum of reaches


def has_int8(stack: Stack) -> bool:
    """Whether there is an int8 form of these layers: for all cells but rnn-relu and mlstm."""
    return stack.layers[0].cell in BY_BALLAST + BY_STEPS


def draw_stack(
    pen: Pen,
    stack: Stack,
    signal: Signal,
    lengths: Any,
    memory: list[list[Any]] | None = None,
    *,
    carry: bool = False,
) -> tuple[Signal, list[list[Any]] | None]:
    """All layers over a signal, lengths (B,) int32 of at least 1.

    `memory`: for each layer its initial states (B, H), in the order of its cell's `parts`; without it, zeros. With it,
    or with `carry`, the answer has the states at which each row ends, laid out alike; otherwise None.
    Raises ValueError for what has no int8 form, and for states of a bidirectional stack.
    """
    asked = carry or memory is not None
    cell = stack.layers[0].cell
    if asked and stack.layers[0].directions == 2:
        raise ValueError("a bidirectional stack has no state to carry: set bidirectional = false in the recipe")
    if pen.precision == "int8" and not has_int8(stack):
        raise ValueError(f"no int8 form of cell {cell!r}: draw it in fp32")
    draw = _how(pen, cell)
    after, outputs = [], []
    start = read = hold(pen, signal) if draw is draw_ballast else signal
    for number, layer in enumerate(stack.layers):
        past = read
        y, states = draw(pen, layer, read, lengths, f"layer{number}", memory[number] if memory else None)
        if stack.skipped[number]:
            y = _add(pen, number, past, y) if stack.skip == "residual" else _highway(pen, stack, number, past, y)
        outputs.append(y)
        after.append(states)
        read = _beside(pen, [start, *outputs]) if stack.skip == "dense" else y
    return _beside(pen, outputs) if stack.skip == "dense" else y, after if asked else None


def _how(pen: Pen, cell: str) -> Draw:
    if pen.precision == "int8":
        return draw_ballast if cell in BY_BALLAST else draw_steps
    return draw_exact if cell in OPERATORS else draw_steps


def _plain(pen: Pen, signal: Signal, name: str) -> Any:
    """The real columns alone (T, B, len(columns))."""
    if signal.width == len(signal.columns):
        return signal.x
    return pen.op.Gather(signal.x, pen.constant(signal.columns, f"{name}.columns"), axis=2)


def _add(pen: Pen, number: int, x: Signal, y: Signal) -> Signal:
    """x + y; where both have the same layout their ballast adds up to that of the sum."""
    if x.width == y.width and np.array_equal(x.columns, y.columns):
        return Signal(x=pen.op.Add(x.x, y.x), columns=y.columns, width=y.width, reach=x.reach + y.reach)
    width = len(y.columns)
    total = pen.op.Add(_plain(pen, x, f"past{number}"), _plain(pen, y, f"new{number}"))
    return Signal(x=total, columns=np.arange(width), width=width, reach=float((x.reach + y.reach) * SLACK))


def _highway(pen: Pen, stack: Stack, number: int, x: Signal, y: Signal) -> Signal:
    """x + t ⊙ (y - x), t = sigmoid(W x + b)."""
    op, gate, name = pen.op, stack.highways[number], f"highway{number}"
    entered = enter(pen, x.x, x.reach)
    read = product(pen, entered, x.spread(array(gate.weight)), array(gate.bias), x.reach, name)  # (T, B, W)
    past, new, width = _plain(pen, x, f"past{number}"), _plain(pen, y, f"new{number}"), len(y.columns)
    mixed = op.Add(past, op.Mul(op.Sigmoid(read), op.Sub(new, past)))
    reach = float(np.float32(max(x.reach, y.reach)) * SLACK)
    return Signal(x=mixed, columns=np.arange(width), width=width, reach=reach)


def _beside(pen: Pen, signals: list[Signal]) -> Signal:
    """Signals side by side: where they have ballast, that of the one that reaches farthest shows the range of all."""
    if len(signals) == 1:
        return signals[0]
    starts = np.cumsum([0, *(signal.width for signal in signals)])
    return Signal(
        x=pen.op.Concat(*(signal.x for signal in signals), axis=2),
        columns=np.concatenate([start + s.columns for start, s in zip(starts, signals, strict=False)]),
        width=int(starts[-1]),
        reach=max(signal.reach for signal in signals),
    )
