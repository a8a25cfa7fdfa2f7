"""Recurrent layers step by step, from plain operators in a Scan.

For what ONNX Runtime has no operator for, or none that keeps a row's bits: GRU and RNN in bytes on fixed scales (a
state lies in [-1, 1]), the multiplicative LSTM, and the RNN in float. ONNX Runtime's RNN operator adds up in another
order for one row than for many, and is the slower one: measured once with 256 units over 20 steps, as fast as the Scan
for one row, 2.5 times as slow for 16.

What the layer's input gives to the gates is computed for all steps at once, before the loop; for a looked-up signal of
few rows it is computed here, into a table. Measured once and left out: chunks of several steps in one turn of the Scan
(no faster: each operator of the body packs its own copy of its weights, and a turn costs half a microsecond), both
directions in one Scan (4 % for one row), both as one batched product (up to 3 times as slow, as it is not packed
ahead), the bare step where T is 1 (7 % of a step of two layers for one row, 3 % for 64 rows, for twice the weights in
memory).

Knows the equations of cells.py. Does not know which network the layers make up.
T steps, B batch, I inputs, H hidden, N outputs of a product, R rows of a table.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from training.nn.recurrent import Recurrent
from training.onnx_export.graph_builder import Floats, Pen
from training.onnx_export.layers import Signal, array, directions
from training.onnx_export.levels import enter, product

FOLDED = 2**20  # numbers in a table of looked-up gates, 4 MB; a table of words would be larger than the network
BOUND = 1.0  # of a hidden state behind a tanh

Step = Callable[..., list[Any]]  # (pen, states, gates, cell, name) -> the states after the step


@dataclass(frozen=True, kw_only=True)
class Block:
    """A matrix that reads the layer's input for all steps at once: weight (N, I), bias (N,) or none."""

    weight: Floats
    bias: Floats | None


@dataclass(frozen=True, kw_only=True)
class Form:
    """A cell as steps: what reads its input, and what a step then does."""

    blocks: Callable[[Any], list[Block]]
    step: Step


def draw_steps(
    pen: Pen, layer: Recurrent, signal: Signal, lengths: Any, name: str, memory: list[Any] | None
) -> tuple[Signal, list[Any]]:
    """One layer over a signal: its outputs (T, B, D·H), and its states (B, H) if it has one direction.

    `memory`: the initial states (B, H), for a layer of one direction; without it the layer starts from zero.
    """
    op, ys, after = pen.op, [], []
    for number, cell in enumerate(directions(layer)):
        place = f"{name}.{'backward' if number else 'forward'}"
        gates = _gates(pen, cell, signal, place, lengths if number else None)
        start = memory or [_zeros(pen, cell, lengths)] * len(cell.parts)
        y, after = _scan(pen, cell, place, start, gates, lengths)
        ys.append(_reverse(pen, y, lengths) if number else y)
    width = layer.directions * layer.hidden
    reach = np.inf if layer.cell == "rnn-relu" else BOUND
    x = ys[0] if len(ys) == 1 else op.Concat(*ys, axis=2)
    after = after if layer.directions == 1 else []
    return Signal(x=x, columns=np.arange(width), width=width, reach=reach), after


def _gates(pen: Pen, cell: Any, signal: Signal, place: str, turned: Any | None) -> list[Any]:
    """What the input gives to each block of the cell (T, B, N); `turned`: lengths within which time runs backwards."""
    blocks = FORMS[cell.kind].blocks(cell)
    folded = signal.table is not None and len(signal.table) * sum(len(b.weight) for b in blocks) <= FOLDED
    source = signal.rows if folded else enter(pen, signal.x, signal.reach)
    if turned is not None:
        source = _reverse(pen, source, turned)
    found = []
    for number, block in enumerate(blocks):
        name = f"{place}.x{number}"
        if folded:
            table = signal.table.astype(np.float64) @ block.weight.T.astype(np.float64)
            table = table if block.bias is None else table + block.bias
            found.append(pen.op.Gather(pen.constant(table.astype(np.float32), name), source, axis=0))
        else:
            found.append(product(pen, source, signal.spread(block.weight), block.bias, signal.reach, name))
    return found


def _scan(pen: Pen, cell: Any, place: str, start: list[Any], gates: list[Any], lengths: Any) -> tuple[Any, list[Any]]:
    """All steps: outputs (T, B, H), and the states (B, H) at which each row ends."""
    parts = len(cell.parts)

    def body(inner: Pen, *values: Any) -> Sequence[Any]:
        states = FORMS[cell.kind].step(inner, values[:parts], values[parts:], cell, place)
        return [*states, *(inner.op.Identity(state) for state in states)]

    inputs = [_value(f"{place}.{part}", cell.hidden) for part in cell.parts]
    inputs += [_value(f"{place}.gates{number}", None) for number in range(len(gates))]
    drawn = pen.body(body, place, inputs=inputs, outputs=2 * parts)
    found = pen.op.Scan(*start, *gates, body=drawn, num_scan_inputs=len(gates), _outputs=2 * parts)
    sequences = found[parts:]  # each (T, B, H)
    return sequences[0], [_at_the_end(pen, sequence, lengths) for sequence in sequences]


def _at_the_end(pen: Pen, sequence: Any, lengths: Any) -> Any:
    """(T, B, H) -> (B, H): each row at its own last step; its length is at least 1."""
    op = pen.op
    last = op.Cast(op.Sub(lengths, 1), to=ir.DataType.INT64)
    rows = op.Range(0, op.Squeeze(pen.batch_size(lengths), [0]), 1)
    return op.GatherND(sequence, op.Concat(op.Unsqueeze(last, [1]), op.Unsqueeze(rows, [1]), axis=1))


def _zeros(pen: Pen, cell: Any, lengths: Any) -> Any:
    """(B, H)."""
    zeros = pen.constant(np.zeros((1, cell.hidden), np.float32), f"zeros{cell.hidden}")
    return pen.op.Expand(zeros, pen.op.Concat(pen.batch_size(lengths), [cell.hidden], axis=0))


def _reverse(pen: Pen, x: Any, lengths: Any) -> Any:
    """x (T, B, …), each column turned round within its length."""
    ends = pen.op.Cast(lengths, to=ir.DataType.INT64)
    return pen.op.ReverseSequence(x, ends, time_axis=0, batch_axis=1)


def _value(name: str, width: int | None) -> ir.Value:
    """An input (B, width) of the body of a Scan."""
    return ir.val(name, dtype=ir.DataType.FLOAT, shape=ir.Shape(("B", width)))


def _rnn_blocks(cell: Any) -> list[Block]:
    return [Block(weight=array(cell.weight_ih_l0), bias=array(cell.bias_ih_l0 + cell.bias_hh_l0))]


def _rnn_step(pen: Pen, states: Sequence[Any], gates: Sequence[Any], cell: Any, name: str, *, activation: str) -> Any:
    (h,), (x,) = states, gates
    read = product(pen, enter(pen, h, BOUND), array(cell.weight_hh_l0), None, BOUND, f"{name}.h")
    return [getattr(pen.op, activation)(pen.op.Add(x, read))]


def _gru_blocks(cell: Any) -> list[Block]:
    """r and z together, and n: its state part is not added before the reset gate is known."""
    two = 2 * cell.hidden
    weight, bias = array(cell.weight_ih_l0), array(cell.bias_ih_l0)
    return [
        Block(weight=weight[:two], bias=bias[:two] + array(cell.bias_hh_l0)[:two]),
        Block(weight=weight[two:], bias=bias[two:]),
    ]


def _gru_step(pen: Pen, states: Sequence[Any], gates: Sequence[Any], cell: Any, name: str, *, textbook: bool) -> Any:
    op, two = pen.op, 2 * cell.hidden
    (h,), (x_rz, x_n) = states, gates
    weight, bias = array(cell.weight_hh_l0), array(cell.bias_hh_l0)[two:]
    entered = enter(pen, h, BOUND)
    read = product(pen, entered, weight[:two], None, BOUND, f"{name}.rz")
    r, z = op.Split(op.Sigmoid(op.Add(x_rz, read)), axis=-1, num_outputs=2, _outputs=2)
    if textbook:
        read = product(pen, enter(pen, op.Mul(r, h), BOUND), weight[two:], bias, BOUND, f"{name}.n")
    else:
        read = op.Mul(r, product(pen, entered, weight[two:], bias, BOUND, f"{name}.n"))
    n = op.Tanh(op.Add(x_n, read))
    return [op.Add(n, op.Mul(z, op.Sub(h, n)))]


def _mlstm_blocks(cell: Any) -> list[Block]:
    gates = Block(weight=array(cell.weight_ih_l0), bias=array(cell.bias_ih_l0 + cell.bias_hh_l0))
    return [gates, Block(weight=array(cell.weight_mx), bias=None)]


def _mlstm_step(pen: Pen, states: Sequence[Any], gates: Sequence[Any], cell: Any, name: str) -> Any:
    op = pen.op
    (h, c), (x_gates, x_m) = states, gates
    m = op.Mul(x_m, product(pen, h, array(cell.weight_mh), None, BOUND, f"{name}.m"))
    read = op.Add(x_gates, product(pen, m, array(cell.weight_hh_l0), None, BOUND, f"{name}.gates"))
    i, f, g, o = op.Split(read, axis=-1, num_outputs=4, _outputs=4)
    c = op.Add(op.Mul(op.Sigmoid(f), c), op.Mul(op.Sigmoid(i), op.Tanh(g)))
    return [op.Mul(op.Sigmoid(o), op.Tanh(c)), c]


FORMS = {
    "rnn": Form(blocks=_rnn_blocks, step=partial(_rnn_step, activation="Tanh")),
    "rnn-relu": Form(blocks=_rnn_blocks, step=partial(_rnn_step, activation="Relu")),
    "gru": Form(blocks=_gru_blocks, step=partial(_gru_step, textbook=False)),
    "gru-textbook": Form(blocks=_gru_blocks, step=partial(_gru_step, textbook=True)),
    "mlstm": Form(blocks=_mlstm_blocks, step=_mlstm_step),
}
