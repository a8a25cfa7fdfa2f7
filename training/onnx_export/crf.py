"""A linear chain as ONNX operators: exact marginals and the best path, for ragged batches.

Two Scans. The first goes forwards in time: messages of both directions at once (the backward one over sequences that
ReverseSequence turned round within their lengths), as products of exponentials that are made to sum to 1 at every
step (Rabiner 1989), and beside them the score of the best path into each label (Viterbi 1967). The second goes back
and asks at each step for the label before. So neither pointers nor K² exponentials are needed: a step is seven
operators, and three on the way back.

In float64: its exponents hold what float32 loses after 87 nats, best scores do not wear off over thousands of steps,
and ONNX Runtime's float64 product has one kernel for any number of rows, so that a row has the same bits in every
batch (its float32 product takes another for a single row: measured, the bits differ).

Once, on a busy machine, one thread, µs a call at B = 1 / 16, beside the LSTM operator (fp32, both directions, H = 200):

|        | T = 10      | T = 20      | T = 40      |
|--------|-------------|-------------|-------------|
| K = 13 | 75 / 145    | 130 / 260   | 240 / 510   |
| K = 72 | 130 / 720   | 235 / 1,450 | 450 / 3,050 |
| LSTM   | 205 / 2,100 | 390 / 3,900 | 760 / 8,100 |

The forward Scan, T = 20, against other forms: the same steps unrolled 5 % slower; sums by ReduceLogSumExp 1.5 times as
slow at K = 13 and B = 1, 160 times at K = 72 and B = 16; back pointers (ArgMax over K²) 3 times the best scores alone
there; the LSTM operator with linear gates as the sums, which then need a bound on their range, faster only at K = 13
and B = 1.

Knows scores and operators. Does not know the network that gives the emissions, nor the names of labels.
T steps, B batch, K labels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from training.nn.crf import DEEPEST, LinearChain
from training.onnx_export.graph_builder import Pen

TIME_FIRST = {"time_axis": 0, "batch_axis": 1}


def draw_chain(pen: Pen, emissions: Any, lengths: Any, chain: LinearChain) -> tuple[Any, Any]:
    """emissions (T, B, K) float32, lengths (B,) int32 -> marginals (T, B, K) float32, best path (T, B) int32.

    What stands where t >= length is finite and means nothing.
    """
    op = pen.op
    wide = op.Cast(emissions, to=ir.DataType.DOUBLE)
    ends = op.Cast(lengths, to=ir.DataType.INT64)
    below = op.Sub(wide, op.ReduceMax(wide, [2], keepdims=1))
    weights = op.Exp(op.Max(below, pen.constant(np.float64(-DEEPEST), "chain.deepest")))  # (T, B, K)
    turned = op.ReverseSequence(weights, ends, **TIME_FIRST)
    both = op.Concat(op.Unsqueeze(weights, [1]), op.Unsqueeze(turned, [1]), axis=1)  # (T, 2, B, K)
    messages, best = _forwards(pen, both, wide, lengths, chain)
    backwards = op.ReverseSequence(op.Gather(messages, 1, axis=1), ends, **TIME_FIRST)
    # The weight of the step itself is in both directions.
    product = op.Div(op.Mul(op.Gather(messages, 0, axis=1), backwards), weights)
    marginals = op.Cast(op.LpNormalization(product, p=1, axis=2), to=ir.DataType.FLOAT)
    path = _backwards(pen, op.ReverseSequence(best, ends, **TIME_FIRST), lengths, chain)
    return marginals, op.Cast(op.ReverseSequence(path, ends, **TIME_FIRST), to=ir.DataType.INT32)


def _forwards(pen: Pen, both: Any, emissions: Any, lengths: Any, chain: LinearChain) -> tuple[Any, Any]:
    """Messages (T, 2, B, K) that sum to 1, and best scores (T, B, K); the emission of the step itself is in each."""
    transitions, first, last = (scores.detach().numpy() for scores in chain.scores())
    pairs, start, end = (np.exp(scores - scores.max()) for scores in (transitions, first, last))
    moves = pen.constant(np.stack([pairs, pairs.T]), "chain.moves")  # (2, K, K)
    towards = pen.constant(transitions.T, "chain.towards")  # (K, K), [to, from]

    def step(pen: Pen, message: Any, score: Any, weight: Any, emission: Any) -> Sequence[Any]:
        op = pen.op
        message = op.LpNormalization(op.Mul(message, weight), p=1, axis=2)
        score = op.Add(score, emission)
        onwards = op.ReduceMax(op.Add(op.Unsqueeze(score, [1]), towards), [2], keepdims=0)
        return op.MatMul(message, moves), onwards, message, score

    of_messages, of_scores = (2, "B", len(first)), ("B", len(first))
    inputs = [_value(shape) for shape in (of_messages, of_scores) * 2]
    *_, messages, best = pen.op.Scan(
        _rows(pen, np.stack([start, end])[:, None], lengths, "chain.ends"),
        _rows(pen, first[None], lengths, "chain.first"),
        both,
        emissions,
        num_scan_inputs=2,
        body=pen.body(step, "chain.forwards", inputs=inputs, outputs=4),
        _outputs=4,
    )
    return messages, best


def _backwards(pen: Pen, best: Any, lengths: Any, chain: LinearChain) -> Any:
    """The best path (T, B) int64 from its end to its start, out of best scores (T, B, K) in that order."""
    transitions, _, last = (scores.detach().numpy() for scores in chain.scores())
    towards = pen.constant(transitions.T, "chain.towards")  # (K, K), [to, from]

    def step(pen: Pen, onwards: Any, score: Any) -> Sequence[Any]:
        label = pen.op.ArgMax(pen.op.Add(score, onwards), axis=1, keepdims=0)  # (B,)
        return pen.op.Gather(towards, label, axis=0), label

    inputs = [_value(("B", len(last))) for _ in range(2)]
    start = _rows(pen, last[None], lengths, "chain.last")
    body = pen.body(step, "chain.backwards", inputs=inputs, outputs=2)
    return pen.op.Scan(start, best, num_scan_inputs=1, body=body, _outputs=2)[1]


def _value(shape: Sequence[int | str]) -> ir.Value:
    return ir.Value(type=ir.TensorType(ir.DataType.DOUBLE), shape=ir.Shape(shape))


def _rows(pen: Pen, row: Any, lengths: Any, name: str) -> Any:
    """A constant (…, 1, K) spread to the rows of the batch (…, B, K)."""
    return pen.op.Expand(pen.constant(row, name), pen.op.Concat(pen.batch_size(lengths), [1], axis=0))
