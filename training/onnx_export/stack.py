"""A stack of recurrent layers with its skip connections as ONNX operators, in fp32 and int8.

LSTMs and, in fp32, GRUs are operators; other cells are Scans. On a CPU with one thread, a row has the same bits alone
and in any batch. A sequence that is split into chunks has the same bits as the whole.

T steps, B batch, W signal columns, H hidden.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from training.nn.recurrent import RecurrentStack
from training.onnx_export.builder import OnnxGraphBuilder
from training.onnx_export.int8 import add_int8_lstm, add_product, add_quantize, pin_range
from training.onnx_export.layers import OPERATORS, LayerInput, Signal, add_float_layer, to_array
from training.onnx_export.scan import add_scan_layer

INT8_LSTMS = ("lstm", "lstm-peephole", "lstm-coupled")
INT8_SCANS = ("rnn", "gru", "gru-textbook")  # not rnn-relu and mlstm: a relu and the product in an mlstm have no bound
ROUNDING = np.float32(1 + 2**-20)  # margin for bounds: x + t(y - x) lies between x and y but for rounding


def has_int8(stack: RecurrentStack) -> bool:
    """Return whether the stack's cell has an int8 form: all but rnn-relu and mlstm have one."""
    return stack.layers[0].cell in INT8_LSTMS + INT8_SCANS


def add_stack(
    graph: OnnxGraphBuilder,
    stack: RecurrentStack,
    signal: Signal,
    lengths: Any,
    initial: Sequence[Sequence[Any]] | None = None,
) -> tuple[Signal, list[list[Any]]]:
    """Add all layers. Return the output signal and each layer's final states (B, H), none if it is bidirectional.

    lengths (B,) int32 >= 1. `initial` holds each layer's initial states (B, H), in the order of its cell's `parts`.
    Raises ValueError for a cell without an int8 form and for initial states of a bidirectional stack.
    """
    cell = stack.layers[0].cell
    if initial is not None and stack.layers[0].directions == 2:
        raise ValueError("a bidirectional stack has no state to carry over: set bidirectional = false in the recipe")
    if graph.precision == "int8" and not has_int8(stack):
        raise ValueError(f"cell {cell!r} has no int8 form: export it in fp32")
    if graph.precision == "int8":
        add_layer = add_int8_lstm if cell in INT8_LSTMS else add_scan_layer
    else:
        add_layer = add_float_layer if cell in OPERATORS else add_scan_layer
    final, outputs = [], []
    start = read = pin_range(graph, signal) if add_layer is add_int8_lstm else signal
    for number, layer in enumerate(stack.layers):
        source = LayerInput(signal=read, lengths=lengths, name=f"layer{number}", initial=initial and initial[number])
        y, states = add_layer(graph, layer, source)
        if stack.skipped[number] and stack.skip == "residual":
            y = _add_residual(graph, number, read, y)
        elif stack.skipped[number]:
            y = _add_highway(graph, stack, number, read, y)
        outputs.append(y)
        final.append(states)
        read = _concatenate(graph, [start, *outputs]) if stack.skip == "dense" else y
    output = _concatenate(graph, outputs) if stack.skip == "dense" else y
    return output, final


def _add_residual(graph: OnnxGraphBuilder, number: int, x: Signal, y: Signal) -> Signal:
    """Return x + y. In equal layouts, the range pins add up to those of the sum."""
    if x.width == y.width and np.array_equal(x.columns, y.columns):
        return Signal(x=graph.op.Add(x.x, y.x), columns=y.columns, width=y.width, reach=x.reach + y.reach)
    width = len(y.columns)
    total = graph.op.Add(*_both_features(graph, number, x, y))
    return Signal(x=total, columns=np.arange(width), width=width, reach=float((x.reach + y.reach) * ROUNDING))


def _add_highway(graph: OnnxGraphBuilder, stack: RecurrentStack, number: int, x: Signal, y: Signal) -> Signal:
    """Return x + t ⊙ (y - x) with t = sigmoid(W x + b)."""
    op, gate = graph.op, stack.highways[number]
    quantized = add_quantize(graph, x.x, x.reach)
    weight, bias = x.spread(to_array(gate.weight)), to_array(gate.bias)
    read = add_product(graph, quantized, weight, bias, x.reach, f"highway{number}")  # (T, B, W)
    skipped, new = _both_features(graph, number, x, y)
    width = len(y.columns)
    mixed = op.Add(skipped, op.Mul(op.Sigmoid(read), op.Sub(new, skipped)))
    reach = float(np.float32(max(x.reach, y.reach)) * ROUNDING)
    return Signal(x=mixed, columns=np.arange(width), width=width, reach=reach)


def _both_features(graph: OnnxGraphBuilder, number: int, x: Signal, y: Signal) -> tuple[Any, Any]:
    return x.features(graph, f"skipped{number}.columns"), y.features(graph, f"new{number}.columns")


def _concatenate(graph: OnnxGraphBuilder, signals: Sequence[Signal]) -> Signal:
    """Concatenate signals. The farthest range pins bound all of them."""
    if len(signals) == 1:
        return signals[0]
    starts = np.cumsum([0, *(signal.width for signal in signals)])
    return Signal(
        x=graph.op.Concat(*(signal.x for signal in signals), axis=2),
        columns=np.concatenate([start + s.columns for start, s in zip(starts, signals, strict=False)]),
        width=int(starts[-1]),
        reach=max(signal.reach for signal in signals),
    )
