"""Numbers as bytes on fixed scales, so that a sum of products is a sum of integers: exact in any order.

A scale is a constant of the graph, made from the reach of what it scales; none is taken from the batch. So a row has
the same bits alone and in any company.

Knows numbers and operators. Does not know layers.
N outputs, K inputs of a product.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.onnx_export.graph_builder import CONTRIB, Floats, Pen

# int8 weights use 7 bits: on processors without VNNI the product of two bytes is added up in 16 bits, where
# 255 · 64 · 2 still fits and 255 · 127 · 2 does not.
WEIGHT_LEVELS = 64
LEVELS, ZERO = 127, 128  # an activation in [-reach, reach] is a byte in [1, 255]


def levels(matrix: Floats) -> tuple[NDArray[np.int8], Floats]:
    """(…, N, K) to bytes (…, K, N), as the operators want them, and one scale an output (…, N)."""
    highest = np.abs(matrix).max(axis=-1)
    scale = np.where(highest > 0, highest / WEIGHT_LEVELS, 1.0).astype(np.float32)
    rounded = np.rint(matrix / scale[..., None]).astype(np.int8)
    return np.ascontiguousarray(rounded.swapaxes(-1, -2)), scale


def enter(pen: Pen, x: Any, reach: float) -> Any:
    """x, at most `reach` in magnitude, as `product` takes it: in int8 as bytes, else as it is."""
    if pen.precision == "fp32":
        return x
    return pen.op.QuantizeLinear(x, *_scale(pen, reach))


def product(pen: Pen, entered: Any, weight: Floats, bias: Floats | None, reach: float, name: str) -> Any:
    """x · weight (N, K)ᵀ + bias (N,), for what `enter` made of x (…, K) with the same reach: (…, N)."""
    op = pen.op
    if pen.precision == "fp32":
        found = op.MatMul(entered, pen.constant(weight.T, f"{name}.weight"))
        return found if bias is None else op.Add(found, pen.constant(bias, f"{name}.bias"))
    scale, zero = _scale(pen, reach)
    rounded, steps = levels(weight)
    found = op.MatMulIntegerToFloat(
        entered,
        pen.constant(rounded, f"{name}.weight"),
        scale,
        pen.constant(steps, f"{name}.scale"),
        zero,
        None,
        None if bias is None else pen.constant(bias, f"{name}.bias"),
        **CONTRIB,
    )
    found.dtype = scale.dtype  # the builder infers no types for ONNX Runtime's own operators
    return found


def _scale(pen: Pen, reach: float) -> tuple[Any, Any]:
    """The scale and the zero of values up to `reach`. Raises ValueError where they have no bound."""
    if not np.isfinite(reach):
        raise ValueError("these values have no bound, so int8 has no fixed scale for them: draw this in fp32")
    step = np.float32(reach / LEVELS or 1.0)
    return pen.constant(step, f"reach{float(reach)!r}"), pen.constant(np.uint8(ZERO), "zero")
