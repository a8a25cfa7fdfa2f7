"""A translator as two ONNX graphs: the reader, which runs once for a source, and the step, which writes a piece.

On a CPU with one thread, a row of either graph has the same bits alone and in any batch, with any padding.
S steps of the longest source, M sources, B rows, E embedding, H units of the decoder, W width of a memory value,
A attention units, V pieces.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from torch import nn

from training.nn.encoders import ImageEncoder
from training.nn.translator import EncoderDecoder
from training.onnx_export.builder import ExportedGraph, OnnxGraphBuilder, Precision, Rounded
from training.onnx_export.int8 import add_int8_product, add_product, add_quantize, quantize_weights
from training.onnx_export.layers import to_array
from training.onnx_export.parts import (
    LOWEST,
    convolve,
    look_up,
    reach_of,
    standardize,
    valid_steps,
    weighted_mean,
)
from training.onnx_export.scan import add_gru_step
from training.onnx_export.stack import ROUNDING, add_stack

CANDIDATES = 16  # best pieces of a row
UNIT = float(ROUNDING)  # bounds states, and means of them
STATE, KEYS, VALUES = "h", "keys", "values"


def export_translator(network: EncoderDecoder, precision: Precision) -> ExportedGraph:
    return replace(_step(network, precision), reader=_reader(network, precision))


def _reader(network: EncoderDecoder, precision: Precision) -> ExportedGraph:
    """Return the graph from source (S, M) or (S, M, F) to state (M, H), keys (S, M, A) and values (S, M, W)."""
    graph = OnnxGraphBuilder(precision)
    if network.stack is not None:
        source, lengths = graph.input("source", "S", "M"), graph.input("lengths", "M")
        signal = look_up(graph, to_array(network.embedding.weight), source)
        signal, _ = add_stack(graph, network.stack, signal, lengths)
        values = signal.features(graph, "features")
    else:
        encoder = network.encoder
        features = encoder.spec.features if isinstance(encoder, ImageEncoder) else encoder.width
        source, lengths = graph.input("source", "S", "M", features, dtype="float32"), graph.input("lengths", "M")
        weight, bias = to_array(network.frames.weight), to_array(network.frames.bias)
        read = convolve if isinstance(encoder, ImageEncoder) else standardize
        values = graph.op.Tanh(graph.dense(read(graph, encoder, source), weight, bias, "frames"))
    valid = graph.op.Cast(valid_steps(graph, values, lengths), to=ir.DataType.FLOAT)
    mean = add_quantize(graph, weighted_mean(graph, values, valid)[0], UNIT)
    first = graph.op.Tanh(_linear(graph, mean, network.initial, "initial"))
    graph.output(first, f"{STATE}_next", "M", network.initial.out_features)
    if network.keys is not None:
        keys = _linear(graph, add_quantize(graph, values, UNIT), network.keys, "keys")
        graph.output(keys, KEYS, "S", "M", network.keys.out_features)
    graph.output(values, VALUES, "S", "M", network.values)
    return graph.finish()


def _step(network: EncoderDecoder, precision: Precision) -> ExportedGraph:
    """Return the graph from the newest pieces (B,), the state and the memory to the scores of the next pieces."""
    graph = OnnxGraphBuilder(precision)
    op, cell = graph.op, network.cell
    pieces = graph.input("pieces", "B")
    h = graph.state_input(STATE, network.initial.out_features)
    keys = graph.memory_input(KEYS, network.keys.out_features) if network.keys is not None else None
    values = graph.memory_input(VALUES, network.values)
    lengths, owners = graph.input("memory_lengths", "M"), graph.input("owners", "B")
    table = _OutputTable(graph, network)
    x = add_quantize(graph, table.look_up(pieces), table.reach)
    between = _gru(graph, (x, table.reach), cell.read_piece, h, cell.update_first, "first")
    valid = valid_steps(graph, values, op.Gather(lengths, owners, axis=0))  # (S, B, 1)
    if keys is not None:
        query = _linear(graph, add_quantize(graph, between, UNIT), cell.query, "query")
        hidden = op.Tanh(op.Add(op.Gather(keys, owners, axis=1), query))  # (S, B, A)
        # A product with one column would use another kernel for one row than for many: multiply and sum instead.
        scored = op.Mul(hidden, graph.constant(to_array(cell.score), "score"))
        scores = op.Where(valid, op.ReduceSum(scored, [2], keepdims=1), LOWEST)  # (S, B, 1)
        weights = op.Exp(op.Sub(scores, op.ReduceMax(scores, [0], keepdims=1)))
    else:
        weights = op.Cast(valid, to=ir.DataType.FLOAT)
    context, total = weighted_mean(graph, op.Gather(values, owners, axis=1), weights)
    c = add_quantize(graph, context, UNIT)
    after = _gru(graph, (c, UNIT), cell.read_context, between, cell.update_second, "second")
    logits = table.logits(op.Tanh(_deep(graph, network, after, x, c, table.reach)))
    scores = op.LogSoftmax(logits, axis=-1)
    graph.output(scores, "log_probabilities", "B", table.rows)
    count = min(CANDIDATES, table.rows)
    best, rows = op.TopK(scores, [count], axis=-1, largest=1, sorted=1, _outputs=2)
    graph.output(best, "best_scores", "B", count)
    graph.output(op.Cast(rows, to=ir.DataType.INT32), "best_pieces", "B", count, dtype="int32")
    shares = op.Div(op.Squeeze(weights, [2]), op.Squeeze(total, [1]))  # (S, B)
    graph.output(op.Transpose(shares, perm=[1, 0]), "attention", "B", "S")
    graph.state_output(after, STATE, network.initial.out_features)
    return graph.finish()


class _OutputTable:
    """The embedding (V, E) as input and as output matrix, once in the file. ONNX Runtime transposes it when it loads.

    In int8, every row has its own scale.
    """

    def __init__(self, graph: OnnxGraphBuilder, network: EncoderDecoder) -> None:
        self._graph = graph
        table = to_array(network.embedding.weight)
        self.rows = len(table)
        self._scale = None
        if graph.precision == "int8":
            rounded, scale = quantize_weights(table)  # (E, V), (V,)
            exact = Rounded(exact=table, scale="table.scale", shape=(self.rows, 1))
            self._scale = graph.constant(scale, exact.scale)
            self._table = graph.constant(np.ascontiguousarray(rounded.T), "table", exact)
            table = rounded.T * scale[:, None]
        else:
            self._table = graph.constant(table, "table")
        self.reach = reach_of(table)
        self._bias = graph.constant(to_array(network.bias), "table.bias")

    def look_up(self, rows: Any) -> Any:
        """Return the vectors (B, E) of rows (B,)."""
        op = self._graph.op
        found = op.Gather(self._table, rows, axis=0)
        if self._scale is None:
            return found
        scale = op.Unsqueeze(op.Gather(self._scale, rows, axis=0), [1])
        return op.Mul(op.Cast(found, to=ir.DataType.FLOAT), scale)

    def logits(self, output: Any) -> Any:
        """Return the scores (B, V) for outputs (B, E) of at most 1."""
        op = self._graph.op
        matrix = op.Transpose(self._table, perm=[1, 0])  # (E, V)
        if self._scale is None:
            return op.Add(op.MatMul(output, matrix), self._bias)
        quantized = add_quantize(self._graph, output, UNIT)
        return add_int8_product(self._graph, quantized, matrix, self._scale, self._bias, UNIT)


def _linear(graph: OnnxGraphBuilder, quantized: Any, layer: nn.Linear, name: str) -> Any:
    """Add a linear layer on values of at most UNIT from `add_quantize`."""
    bias = None if layer.bias is None else to_array(layer.bias)
    return add_product(graph, quantized, to_array(layer.weight), bias, UNIT, name)


def _gru(
    graph: OnnxGraphBuilder, read: tuple[Any, float], layer: nn.Linear, h: Any, update: nn.Linear, name: str
) -> Any:
    """Return the next state (B, H) after `read`, a quantized input with its reach."""
    quantized, reach = read
    weight, bias, state_bias = (to_array(part) for part in (layer.weight, layer.bias, update.bias))
    two = len(weight) * 2 // 3
    # r and z go together. n is alone, because its state part waits for the reset gate.
    gates = [
        add_product(graph, quantized, weight[:two], bias[:two] + state_bias[:two], reach, f"{name}.x.rz"),
        add_product(graph, quantized, weight[two:], bias[two:], reach, f"{name}.x.n"),
    ]
    return add_gru_step(graph, h, gates, to_array(update.weight), state_bias, name)


def _deep(graph: OnnxGraphBuilder, network: EncoderDecoder, h: Any, x: Any, c: Any, reach: float) -> Any:
    """Return the sum (B, E) of the products of the state, the last piece and the context."""
    hidden, embedding = network.initial.out_features, network.embedding.embedding_dim
    weight, bias = to_array(network.deep.weight), to_array(network.deep.bias)
    state, piece, context = np.split(weight, [hidden, hidden + embedding], axis=1)
    parts = [
        add_product(graph, add_quantize(graph, h, UNIT), state, bias, UNIT, "deep.h"),
        add_product(graph, x, piece, None, reach, "deep.x"),
        add_product(graph, c, context, None, UNIT, "deep.c"),
    ]
    return graph.op.Add(graph.op.Add(parts[0], parts[1]), parts[2])
