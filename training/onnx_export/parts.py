"""Parts of a graph that several networks share: table lookups, masks, and weighted means over the steps.

T steps, B batch, E embedding, W signal columns, S patches, F numbers of a patch.
"""

from typing import Any

import numpy as np
import onnx_ir as ir

from models.codecs.images import BRIGHTEST, CHANNELS
from training.nn.encoders import FRAME_LIMIT, FrameEncoder, ImageEncoder
from training.onnx_export.builder import Floats, OnnxGraphBuilder
from training.onnx_export.int8 import pin_table
from training.onnx_export.layers import Signal, to_array
from training.onnx_export.stack import ROUNDING

LOWEST = float(np.finfo(np.float32).min)
END = np.iinfo(np.int64).max  # of a Slice


def reach_of(table: Floats) -> float:
    """Return the largest magnitude in a table, with a margin for quantization."""
    return float(np.abs(table).max() * ROUNDING)


def look_up(
    graph: OnnxGraphBuilder, table: Floats, rows: Any, name: str = "table", *, keep_table: bool = True
) -> Signal:
    """Look up rows (T, B). With `keep_table`, layers may fold the table into their input projections."""
    reach = reach_of(table)
    pinned = pin_table(graph, table, reach)
    x = graph.lookup(pinned, rows, name)
    source = {"table": table, "rows": rows} if keep_table else {}
    return Signal(x=x, columns=np.arange(table.shape[1]), width=pinned.shape[1], reach=reach, **source)


def valid_steps(graph: OnnxGraphBuilder, rows: Any, lengths: Any) -> Any:
    """Return a mask (T, B, 1) of the steps before the end of each column, for rows (T, B, …)."""
    op = graph.op
    count = op.Squeeze(op.Shape(rows, start=0, end=1))
    steps = op.Cast(op.Range(0, count, 1), to=ir.DataType.INT32)
    return op.Less(op.Unsqueeze(steps, [1, 2]), op.Unsqueeze(lengths, [0, 2]))


def weighted_mean(graph: OnnxGraphBuilder, y: Any, weights: Any) -> tuple[Any, Any]:
    """Return the mean (B, W) of y (T, B, W) by weights (T, B, 1), and the sum of the weights (B, 1).

    The weights are summed as one more column of y. A separate sum over (T, B, 1) would use another order for one row
    than for many.
    """
    op = graph.op
    sums = op.ReduceSum(op.Concat(op.Mul(y, weights), weights, axis=2), [0], keepdims=0)  # (B, W + 1)
    total = op.Slice(sums, [-1], [END], [1])
    return op.Div(op.Slice(sums, [0], [-1], [1]), total), total


def standardize(graph: OnnxGraphBuilder, encoder: FrameEncoder, frames: Any) -> Any:
    """Return frames (T, B, F) with the mean and deviation of the training data, at most FRAME_LIMIT."""
    op = graph.op
    centered = op.Sub(frames, graph.constant(to_array(encoder.mean), "mean"))
    scaled = op.Div(centered, graph.constant(to_array(encoder.deviation), "deviation"))
    return op.Clip(scaled, -FRAME_LIMIT, FRAME_LIMIT)


def convolve(graph: OnnxGraphBuilder, encoder: ImageEncoder, pixels: Any) -> Any:
    """Return vectors (S, B, W) for the patches (S, B, F) of pictures.

    ONNX Runtime convolves one picture of a batch after another, so each has the same bits in any batch.
    """
    op, spec = graph.op, encoder.spec
    x = op.Reshape(pixels, [spec.grid, spec.grid, -1, spec.patch, spec.patch, CHANNELS])
    x = op.Reshape(op.Transpose(x, perm=[2, 5, 0, 3, 1, 4]), [-1, CHANNELS, spec.size, spec.size])
    x = op.Sub(1.0, op.Div(x, float(BRIGHTEST)))
    for number, layer in enumerate(encoder.layers):
        weight, bias = graph.constant(to_array(layer.weight), f"filters{number}"), to_array(layer.bias)
        x = op.Conv(
            x,
            weight,
            graph.constant(bias, f"filters{number}.bias"),
            strides=list(layer.stride),
            pads=2 * list(layer.padding),
            kernel_shape=list(layer.kernel_size),
        )
        if layer is encoder.layers[-1]:
            x = op.Add(x, graph.constant(to_array(encoder.places), "places"))
        x = op.Relu(x)
    return op.Transpose(op.Reshape(x, [0, 0, spec.grid * spec.grid]), perm=[2, 0, 1])
