"""A filler as an ONNX graph.

T steps, B batch, W signal columns, E embedding, H hidden, V table rows, P gaps, X targets, R best words.
"""

from typing import Any

import numpy as np
import onnx_ir as ir

from training.nn.filler import Filler
from training.onnx_export.builder import OnnxGraphBuilder
from training.onnx_export.int8 import add_product, add_quantize, add_rounded, quantize_weights
from training.onnx_export.layers import Signal, to_array
from training.onnx_export.stack import ROUNDING, add_stack

HEAD = "head"  # prefix of the names of the table's constants
REACH = 1.0  # of states and of the outputs of both dense layers


def add_filler(graph: OnnxGraphBuilder, network: Filler) -> None:
    """Add the graph from words (T, B) and their gaps (P,) to the best words (P, R) and the scores of targets (P, X).

    The best words are chosen by their logits: in a probability that underflows to zero, words that are impossible
    would be as good as others.
    """
    op = graph.op
    words, lengths = graph.input("words", "T", "B"), graph.input("lengths", "B")
    steps, inputs = graph.input("gap_steps", "P"), graph.input("gap_inputs", "P")
    targets = graph.input("targets", "P", "X")
    signal, _ = add_stack(graph, network.stack, _look_up(graph, network, words), lengths)
    x = _contexts(graph, network, signal, lengths, steps, inputs)  # (P, 2·H)
    for name, layer in (("join", network.join), ("narrow", network.narrow)):
        weight, bias = to_array(layer.weight), to_array(layer.bias)
        x = op.Tanh(add_product(graph, add_quantize(graph, x, REACH), weight, bias, REACH, name))
    logits = _compare(graph, network, x)  # (P, V)
    probabilities = op.Softmax(logits, axis=-1)
    _, best = op.TopK(logits, [network.best], axis=-1, _outputs=2)  # (P, R)
    graph.output(op.GatherElements(probabilities, best, axis=1), "best_scores", "P", network.best)
    graph.output(op.Cast(best, to=ir.DataType.INT32), "best_words", "P", network.best, dtype="int32")
    graph.output(op.GatherElements(probabilities, targets, axis=1), "target_scores", "P", "X")


def _look_up(graph: OnnxGraphBuilder, network: Filler, words: Any) -> Signal:
    """Return the vectors (T, B, E) of words. ONNX Runtime transposes a constant table once, when it opens the file."""
    op, table = graph.op, to_array(network.embedding.weight)
    if graph.precision == "fp32":
        x = op.Gather(graph.constant(table, f"{HEAD}.table"), words, axis=0)
        return Signal(x=x, columns=np.arange(table.shape[1]), width=table.shape[1], reach=float(np.abs(table).max()))
    rounded, scale = quantize_weights(table)  # (E, V), (V,)
    weights, weight_scales = add_rounded(graph, table, f"{HEAD}.weight", f"{HEAD}.scale")
    rows = op.Gather(op.Transpose(weights, perm=[1, 0]), words, axis=0)
    scales = op.Unsqueeze(op.Gather(weight_scales, words, axis=0), [2])
    x = op.Mul(op.Cast(rows, to=ir.DataType.FLOAT), scales)
    reach = float((np.abs(rounded).max(axis=0) * scale).max() * ROUNDING)
    return Signal(x=x, columns=np.arange(table.shape[1]), width=table.shape[1], reach=reach)


def _contexts(graph: OnnxGraphBuilder, network: Filler, signal: Signal, lengths: Any, steps: Any, inputs: Any) -> Any:
    """Return the forward state before each gap and the backward state after it (P, 2·H), zeros at either end."""
    op, (forwards, backwards) = graph.op, np.split(signal.columns, 2)
    padded = op.Pad(signal.x, [1, 0, 0, 1, 0, 0])  # (T + 2, B, W)
    before, column = (op.Unsqueeze(op.Cast(each, to=ir.DataType.INT64), [1]) for each in (steps, inputs))
    left = op.GatherND(padded, op.Concat(before, column, axis=1))  # (P, W)
    right = op.GatherND(padded, op.Concat(op.Add(before, 2), column, axis=1))
    follows = op.Less(op.Add(steps, 1), op.Gather(lengths, inputs, axis=0))  # (P,)
    right = op.Where(op.Unsqueeze(follows, [1]), right, 0.0)
    parts = [
        op.Slice(side, [int(part[0])], [int(part[-1]) + 1], [1])
        for side, part in ((left, forwards), (right, backwards))
    ]
    return op.Concat(*parts, axis=1)


def _compare(graph: OnnxGraphBuilder, network: Filler, x: Any) -> Any:
    """Return the logits (P, V) of all words for vectors x (P, E). The output matrix is the table of `_look_up`."""
    op, table = graph.op, to_array(network.embedding.weight)
    bias = to_array(network.bias) + to_array(network.never)
    if graph.precision == "int8":
        return add_product(graph, add_quantize(graph, x, REACH), table, bias, REACH, HEAD)
    matrix = op.Transpose(graph.constant(table, f"{HEAD}.table"), perm=[1, 0])
    return op.Add(op.MatMul(x, matrix), graph.constant(bias, f"{HEAD}.bias"))
