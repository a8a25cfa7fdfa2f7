"""Quantization to int8 whose results do not depend on the batch, bit for bit.

Scales are constants of the graph, computed from the bound (`reach`) of what they scale. Sums of products are then sums
of integers, exact in any order.

ONNX Runtime's DynamicQuantizeLSTM is different: it takes its activation scales from the values in the batch. *Range
pins* make these scales constant, too: two constant input columns (+reach, -reach), and two hidden units held at +1 and
-1, all with zero outgoing weights.

T steps, B batch, I inputs, H hidden, D directions, G gates, N outputs and K inputs of a product.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.nn.recurrent import RecurrentLayer
from training.onnx_export.builder import CONTRIB, Floats, OnnxGraphBuilder, Rounded
from training.onnx_export.layers import LayerInput, OnnxLayerWeights, Signal, direction_of

# Weights use 7 bits: without VNNI, processors add pairs of byte products in 16 bits, where 255 · 64 · 2 fits and
# 255 · 127 · 2 does not.
WEIGHT_LEVELS = 64
ACTIVATION_LEVELS, ZERO_POINT = 127, 128  # an activation in [-reach, reach] is a byte in [1, 255]
PINS = 2  # columns: +reach and -reach
SATURATION = 30.0  # in float32, sigmoid(±30) is 0 or 1 and tanh(30) is 1


def quantize_weights(matrix: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Return (…, N, K) as bytes (…, K, N), the operators' layout, and one scale per output (…, N)."""
    highest = np.abs(matrix).max(axis=-1)
    scale = np.where(highest > 0, highest / WEIGHT_LEVELS, 1.0).astype(np.float32)
    rounded = np.rint(matrix / scale[..., None]).astype(np.int8)
    return np.ascontiguousarray(rounded.swapaxes(-1, -2)), scale


def add_rounded(graph: OnnxGraphBuilder, matrix: Floats, name: str, scale_name: str) -> tuple[Any, Any]:
    """Return initializers of (…, N, K): bytes (…, K, N), and one scale per output (…, N)."""
    rounded, scale = quantize_weights(matrix)
    exact = Rounded(exact=matrix.swapaxes(-1, -2), scale=scale_name, shape=(*scale.shape[:-1], 1, scale.shape[-1]))
    return graph.constant(rounded, name, exact), graph.constant(scale, scale_name)


def add_quantize(graph: OnnxGraphBuilder, x: Any, reach: float) -> Any:
    """Return x, at most `reach` in magnitude, as `add_product` takes it: bytes in int8, unchanged in float."""
    if graph.precision == "fp32":
        return x
    return graph.op.QuantizeLinear(x, *_activation_scale(graph, reach))


def add_product(
    graph: OnnxGraphBuilder, quantized: Any, weight: Floats, bias: Floats | None, reach: float, name: str
) -> Any:
    """Return x · weight (N, K)ᵀ + bias (N,) as (…, N), for x (…, K) from `add_quantize` with the same reach."""
    op = graph.op
    if graph.precision == "fp32":
        product = op.MatMul(quantized, graph.constant(weight.T, f"{name}.weight"))
        return product if bias is None else op.Add(product, graph.constant(bias, f"{name}.bias"))
    rounded, scale = add_rounded(graph, weight, f"{name}.weight", f"{name}.scale")
    bias = None if bias is None else graph.constant(bias, f"{name}.bias")
    return add_int8_product(graph, quantized, rounded, scale, bias, reach)


def add_int8_product(graph: OnnxGraphBuilder, quantized: Any, rounded: Any, scale: Any, bias: Any, reach: float) -> Any:
    """Return the product (…, N) of bytes (…, K) of `add_quantize` and weights (K, N) with their scales (N,)."""
    step, zero = _activation_scale(graph, reach)
    product = graph.op.MatMulIntegerToFloat(quantized, rounded, step, scale, zero, None, bias, **CONTRIB)
    product.dtype = step.dtype  # the builder infers no types for operators of ONNX Runtime
    return product


def _activation_scale(graph: OnnxGraphBuilder, reach: float) -> tuple[Any, Any]:
    """Return the scale and the zero point of values up to `reach`. Raises ValueError for an infinite reach."""
    if not np.isfinite(reach):
        raise ValueError(f"reach {reach} allows no fixed int8 scale: export this network in fp32")
    step = np.float32(reach / ACTIVATION_LEVELS or 1.0)
    return graph.constant(step, f"reach{float(reach)!r}"), graph.constant(np.uint8(ZERO_POINT), "zero")


def pin_range(graph: OnnxGraphBuilder, signal: Signal) -> Signal:
    """Append range pins to a signal that has none."""
    if signal.has_pins:
        return signal
    op = graph.op
    pins = graph.constant(np.array([signal.reach, -signal.reach], np.float32), f"pins{float(signal.reach)!r}")
    shape = op.Concat(op.Shape(signal.x, start=0, end=2), [PINS], axis=0)
    x = op.Concat(signal.x, op.Expand(pins, shape), axis=2)
    return replace(signal, x=x, width=signal.width + PINS, table=None, rows=None)


def pin_table(graph: OnnxGraphBuilder, table: Floats, reach: float) -> Floats:
    """Return a lookup table with range pins as columns; unchanged in float."""
    if graph.precision == "fp32":
        return table
    return np.concatenate([table, np.tile(np.array([[reach, -reach]], np.float32), (len(table), 1))], axis=1)


def add_int8_lstm(graph: OnnxGraphBuilder, layer: RecurrentLayer, source: LayerInput) -> tuple[Signal, list[Any]]:
    """Add an LSTM layer in int8. Return its outputs (T, B, D·(H + 2)) with pins, and its final states (B, H)."""
    signal, name = pin_range(graph, source.signal), source.name
    weights = _with_pinned_units(OnnxLayerWeights.of(layer), signal, layer.hidden)
    w, w_scale = add_rounded(graph, weights.w, f"{name}.w", f"{name}.w.scale")
    r, r_scale = add_rounded(graph, weights.r, f"{name}.r", f"{name}.r.scale")
    zero = graph.constant(np.zeros(weights.w.shape[:2], np.int8), f"{name}.zero")
    y, *states = graph.op.DynamicQuantizeLSTM(
        signal.x,
        w,
        r,
        graph.constant(weights.b, f"{name}.b"),
        source.lengths,
        *_pinned_initial_states(graph, layer, source),
        None if weights.p is None else graph.constant(weights.p, f"{name}.p"),
        w_scale,
        zero,
        r_scale,
        zero,
        hidden_size=layer.hidden + PINS,
        direction=direction_of(layer),
        **weights.operator.attributes,
        _outputs=3,
        **CONTRIB,
    )
    for value in (y, *states):
        value.dtype = signal.x.dtype  # the builder infers no types for operators of ONNX Runtime
    op, wide = graph.op, layer.hidden + PINS
    y = op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), [0, 0, layer.directions * wide])  # (T, D, B, H + 2) -> (T, B, …)
    columns = np.concatenate([number * wide + np.arange(layer.hidden) for number in range(layer.directions)])
    final = []
    if layer.directions == 1:
        final = [op.Slice(op.Squeeze(state, [0]), [0], [layer.hidden], [1]) for state in states]
    return Signal(x=y, columns=columns, width=layer.directions * wide, reach=1.0), final


def _pinned_initial_states(graph: OnnxGraphBuilder, layer: RecurrentLayer, source: LayerInput) -> list[Any]:
    """Return the initial h and c (D, B, H + 2): zeros or the given rows (B, H), followed by the pins."""
    op, initial = graph.op, source.initial
    constant_columns = PINS if initial else layer.hidden + PINS
    shape = op.Concat([layer.directions], graph.batch_size(source.lengths), [constant_columns], axis=0)
    states = []
    for number, (part, height) in enumerate((("h", 1.0), ("c", SATURATION))):
        rows = np.zeros((1, 1, constant_columns), np.float32)
        rows[..., -PINS:] = height, -height
        filled = op.Expand(graph.constant(rows, f"{source.name}.{part}.initial"), shape)
        states.append(op.Concat(op.Unsqueeze(initial[number], [0]), filled, axis=2) if initial else filled)
    return states


def _with_pinned_units(weights: OnnxLayerWeights, signal: Signal, hidden: int) -> OnnxLayerWeights:
    """Add two hidden units without incoming or outgoing weights, which keep their initial state."""
    count, gates, wide = len(weights.w), len(weights.operator.order), hidden + PINS

    def widen(matrix: Floats, columns: int) -> Floats:
        """Return (D, G·H, ≤ columns) as (D, G·(H + 2), columns), filled with zeros."""
        old = matrix.reshape(count, gates, hidden, -1)
        new = np.zeros((count, gates, wide, columns), np.float32)
        new[:, :, :hidden, : old.shape[-1]] = old
        return new.reshape(count, gates * wide, columns)

    b = np.zeros((count, 2, gates, wide), np.float32)
    b[..., :hidden] = weights.b.reshape(count, 2, gates, hidden)
    # Gates i o f c: the input gate is closed, the output gate is open and nothing is forgotten.
    b[:, 0, :3, hidden:] = np.array([-SATURATION, SATURATION, SATURATION])[:, None]
    p = weights.p
    if p is not None:
        p = np.pad(p.reshape(count, 3, hidden), [(0, 0), (0, 0), (0, PINS)]).reshape(count, -1)
    w, r = widen(signal.spread(weights.w), signal.width), widen(weights.r, wide)
    return replace(weights, w=w, r=r, b=b.reshape(count, -1), p=p)
