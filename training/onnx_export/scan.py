"""Recurrent layers step by step: plain operators in a Scan.

This form serves cells without an operator in ONNX Runtime, or whose operator depends on the batch: GRU and RNN in int8
with fixed scales (a state lies in [-1, 1]), the multiplicative LSTM, and the RNN in float. ONNX Runtime's RNN operator
sums in another order for one row than for many.

One product before the loop computes what the input contributes at all steps. For a looked-up signal with few rows, the
export computes it as a table.

T steps, B batch, I inputs, H hidden, N outputs of a product, R table rows.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from training.nn.cells import Cell
from training.nn.recurrent import RecurrentLayer
from training.onnx_export.builder import Floats, OnnxGraphBuilder
from training.onnx_export.int8 import add_product, add_quantize
from training.onnx_export.layers import LayerInput, Signal, cells_of, to_array

LARGEST_TABLE = 2**20  # numbers, 4 MB: a table of words would be larger than the network
BOUND = 1.0  # of a hidden state after tanh


def add_scan_layer(graph: OnnxGraphBuilder, layer: RecurrentLayer, source: LayerInput) -> tuple[Signal, list[Any]]:
    """Add a layer as one Scan per direction. The results are those of `layers.add_float_layer`."""
    op, lengths, outputs, final = graph.op, source.lengths, [], []
    for number, cell in enumerate(cells_of(layer)):
        prefix = f"{source.name}.{'backward' if number else 'forward'}"
        gates = _project_input(graph, cell, source.signal, prefix, lengths if number else None)
        start = source.initial
        if not start:
            zeros = graph.constant(np.zeros((1, cell.hidden), np.float32), f"zeros{cell.hidden}")
            shape = op.Concat(graph.batch_size(lengths), [cell.hidden], axis=0)
            start = [op.Expand(zeros, shape)] * len(cell.parts)
        y, final = _add_scan(graph, cell, prefix, start, gates, lengths)
        outputs.append(graph.reverse(y, lengths) if number else y)
    width = layer.directions * layer.hidden
    reach = np.inf if layer.cell == "rnn-relu" else BOUND
    x = outputs[0] if len(outputs) == 1 else op.Concat(*outputs, axis=2)
    return Signal(x=x, columns=np.arange(width), width=width, reach=reach), final if layer.directions == 1 else []


def _project_input(
    graph: OnnxGraphBuilder, cell: Cell, signal: Signal, prefix: str, reverse_within: Any | None
) -> list[Any]:
    """Return each input projection (T, B, N), in reverse order within the given lengths, if any."""
    matrices = _input_matrices(cell)
    outputs = sum(len(weight) for weight, _ in matrices)
    as_table = signal.table is not None and len(signal.table) * outputs <= LARGEST_TABLE
    source = signal.rows if as_table else add_quantize(graph, signal.x, signal.reach)
    if reverse_within is not None:
        source = graph.reverse(source, reverse_within)
    projected = []
    for number, (weight, bias) in enumerate(matrices):
        name = f"{prefix}.x{number}"
        if as_table:
            table = signal.table.astype(np.float64) @ weight.T.astype(np.float64)  # (R, N)
            table = table if bias is None else table + bias
            projected.append(graph.op.Gather(graph.constant(table.astype(np.float32), name), source, axis=0))
        else:
            projected.append(add_product(graph, source, signal.spread(weight), bias, signal.reach, name))
    return projected


def _add_scan(
    graph: OnnxGraphBuilder, cell: Cell, prefix: str, start: Sequence[Any], gates: list[Any], lengths: Any
) -> tuple[Any, list[Any]]:
    """Return the outputs (T, B, H) and the final states (B, H)."""
    parts = len(cell.parts)

    def step(inner: OnnxGraphBuilder, *values: Any) -> Sequence[Any]:
        states = STEPS[cell.kind](inner, values[:parts], values[parts:], cell, prefix)
        return [*states, *(inner.op.Identity(state) for state in states)]

    shapes = [(part, cell.hidden) for part in cell.parts] + [(f"gates{number}", None) for number in range(len(gates))]
    inputs = [ir.val(f"{prefix}.{name}", ir.DataType.FLOAT, ir.Shape(("B", width))) for name, width in shapes]
    body = graph.scan_body(step, prefix, inputs=inputs, outputs=2 * parts)
    found = graph.op.Scan(*start, *gates, body=body, num_scan_inputs=len(gates), _outputs=2 * parts)
    sequences = found[parts:]  # each (T, B, H)
    return sequences[0], [graph.final_step(sequence, lengths) for sequence in sequences]


def _input_matrices(cell: Cell) -> list[tuple[Floats, Floats | None]]:
    """Return the weight (N, I) and the bias (N,) of each matrix that reads the layer's input at all steps."""
    weight, bias, state_bias = (to_array(part) for part in (cell.weight_ih_l0, cell.bias_ih_l0, cell.bias_hh_l0))
    if cell.kind.startswith("gru"):
        # r and z go together. n is alone, because its state part waits for the reset gate.
        two = 2 * cell.hidden
        return [(weight[:two], bias[:two] + state_bias[:two]), (weight[two:], bias[two:])]
    matrices: list[tuple[Floats, Floats | None]] = [(weight, bias + state_bias)]
    return [*matrices, (to_array(cell.weight_mx), None)] if cell.kind == "mlstm" else matrices


def _rnn_step(
    graph: OnnxGraphBuilder, states: Sequence[Any], gates: Sequence[Any], cell: Cell, name: str, *, activation: str
) -> list[Any]:
    (h,), (x,) = states, gates
    read = add_product(graph, add_quantize(graph, h, BOUND), to_array(cell.weight_hh_l0), None, BOUND, f"{name}.h")
    return [getattr(graph.op, activation)(graph.op.Add(x, read))]


def _gru_step(
    graph: OnnxGraphBuilder, states: Sequence[Any], gates: Sequence[Any], cell: Cell, name: str, *, textbook: bool
) -> list[Any]:
    weight, bias = to_array(cell.weight_hh_l0), to_array(cell.bias_hh_l0)
    return [add_gru_step(graph, states[0], gates, weight, bias, name, textbook=textbook)]


def add_gru_step(
    graph: OnnxGraphBuilder,
    h: Any,
    gates: Sequence[Any],
    weight: Floats,
    bias: Floats,
    name: str,
    *,
    textbook: bool = False,
) -> Any:
    """Return the next state (B, H) of a GRU with the recurrent weight (3·H, H) and bias (3·H,), |h| <= BOUND.

    `gates` are what the input contributes: r and z (B, 2·H) with both biases, and n (B, H) with that of the input.
    """
    op, two = graph.op, len(weight) * 2 // 3
    (x_rz, x_n), bias = gates, bias[two:]
    quantized = add_quantize(graph, h, BOUND)
    read = add_product(graph, quantized, weight[:two], None, BOUND, f"{name}.rz")
    r, z = op.Split(op.Sigmoid(op.Add(x_rz, read)), axis=-1, num_outputs=2, _outputs=2)
    if textbook:
        read = add_product(graph, add_quantize(graph, op.Mul(r, h), BOUND), weight[two:], bias, BOUND, f"{name}.n")
    else:
        read = op.Mul(r, add_product(graph, quantized, weight[two:], bias, BOUND, f"{name}.n"))
    n = op.Tanh(op.Add(x_n, read))
    return op.Add(n, op.Mul(z, op.Sub(h, n)))


def _mlstm_step(
    graph: OnnxGraphBuilder, states: Sequence[Any], gates: Sequence[Any], cell: Cell, name: str
) -> list[Any]:
    op = graph.op
    (h, c), (x_gates, x_m) = states, gates
    m = op.Mul(x_m, add_product(graph, h, to_array(cell.weight_mh), None, BOUND, f"{name}.m"))
    read = op.Add(x_gates, add_product(graph, m, to_array(cell.weight_hh_l0), None, BOUND, f"{name}.gates"))
    i, f, g, o = op.Split(read, axis=-1, num_outputs=4, _outputs=4)
    c = op.Add(op.Mul(op.Sigmoid(f), c), op.Mul(op.Sigmoid(i), op.Tanh(g)))
    return [op.Mul(op.Sigmoid(o), op.Tanh(c)), c]


# One step of each cell: (graph, states, projected inputs, cell, name) -> next states
STEPS: dict[str, Callable[..., list[Any]]] = {
    "rnn": partial(_rnn_step, activation="Tanh"),
    "rnn-relu": partial(_rnn_step, activation="Relu"),
    "gru": partial(_gru_step, textbook=False),
    "gru-textbook": partial(_gru_step, textbook=True),
    "mlstm": _mlstm_step,
}
