"""A forecaster as an ONNX graph.

T segments, B batch, S values of a segment, M segments and N values of the forecast, E embedding, H hidden, Q levels.
"""

from typing import Any

import numpy as np

from training.nn.forecaster import Forecaster
from training.onnx_export.builder import OnnxGraphBuilder
from training.onnx_export.layers import LayerInput, Signal, add_final_states, add_float_layer, to_array


def add_forecaster(graph: OnnxGraphBuilder, network: Forecaster) -> None:
    """Add the graph from segments (T, B, 2·S) and lengths (B,) to mean (B, N) and quantiles (B, N, Q), in float."""
    op, segment, levels = graph.op, network.segment, network.levels
    segments = graph.input("segments", "T", "B", 2 * segment, dtype="float32")
    lengths = graph.input("lengths", "B")
    embedded = op.Relu(
        graph.dense(segments, to_array(network.embedding.weight), to_array(network.embedding.bias), "embedding")
    )
    _, state = add_float_layer(graph, network.layer, _layer_input(embedded, lengths, network))
    positions = to_array(network.positions)
    count = len(positions)
    batch = op.Shape(lengths)  # (1,)
    # Rows are ordered by position, then by series, as in Forecaster.forward.
    steps = op.Expand(
        graph.constant(positions[:, None], "positions"), op.Concat([count], batch, [positions.shape[1]], axis=0)
    )
    steps = op.Reshape(steps, [1, -1, positions.shape[1]])  # (1, M·B, E)
    repeated = [op.Tile(part, [count, 1]) for part in state]  # (M·B, H)
    ones = op.Tile(op.Div(lengths, lengths), [count])
    last = add_final_states(graph, network.layer, _layer_input(steps, ones, network, repeated))  # (M·B, H)
    output = graph.dense(last, to_array(network.head.weight), to_array(network.head.bias), "head")
    output = op.Reshape(output, op.Concat([count], batch, [segment * (1 + levels)], axis=0))
    output = op.Reshape(op.Transpose(output, perm=[1, 0, 2]), [0, network.horizon, 1 + levels])  # (B, N, 1 + Q)
    graph.output(op.Squeeze(op.Slice(output, [0], [1], [2]), [2]), "mean", "B", network.horizon)
    graph.output(op.Slice(output, [1], [1 + levels], [2]), "quantiles", "B", network.horizon, levels)


def _layer_input(x: Any, lengths: Any, network: Forecaster, initial: Any = None) -> LayerInput:
    """Return the input of the recurrent layer. Both of its uses share the name and so the weights."""
    width = network.layer.forwards.weight_ih_l0.shape[1]
    signal = Signal(x=x, columns=np.arange(width), width=width, reach=np.inf)
    return LayerInput(signal=signal, lengths=lengths, name="layer", initial=initial)
