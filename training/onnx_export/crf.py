"""A linear-chain CRF as ONNX operators: exact marginals and the best path, for ragged batches.

The first of two Scans goes forward in time. It carries the messages of both directions, scaled as in Rabiner 1989. The
backward messages run over reversed sequences. It also carries the score of the best path into each label (Viterbi
1967). The second Scan traces the best path back. There are no back pointers and no K² exponentials: a step has seven
operators forward and three backward.

Everything is in float64, because float32 loses exponents after 87 nats. ONNX Runtime's float32 product also uses
another kernel for one row than for many, so that results would depend on the batch.

T steps, B batch, K labels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from training.nn.crf import LARGEST_GAP, LinearChainCRF
from training.onnx_export.builder import OnnxGraphBuilder

TIME_FIRST = {"time_axis": 0, "batch_axis": 1}


def add_crf(graph: OnnxGraphBuilder, emissions: Any, lengths: Any, crf: LinearChainCRF) -> tuple[Any, Any]:
    """Return marginals (T, B, K) float32 and the best path (T, B) int32; finite but undefined where t >= length.

    emissions (T, B, K) float32, lengths (B,) int32.
    """
    op = graph.op
    wide = op.Cast(emissions, to=ir.DataType.DOUBLE)
    ends = op.Cast(lengths, to=ir.DataType.INT64)
    below = op.Sub(wide, op.ReduceMax(wide, [2], keepdims=1))
    weights = op.Exp(op.Max(below, graph.constant(np.float64(-LARGEST_GAP), "crf.largest_gap")))  # (T, B, K)
    backward_weights = op.ReverseSequence(weights, ends, **TIME_FIRST)
    both = op.Concat(op.Unsqueeze(weights, [1]), op.Unsqueeze(backward_weights, [1]), axis=1)  # (T, 2, B, K)
    scores = [scores.detach().numpy() for scores in crf.scores()]
    transitions, _, last = scores
    towards = graph.constant(transitions.T, "crf.towards")  # (K, K), [to, from]
    messages, best = _scan_forwards(graph, both, wide, lengths, scores, towards)
    backward = op.ReverseSequence(op.Gather(messages, 1, axis=1), ends, **TIME_FIRST)
    # Both directions include the weight of the step itself.
    product = op.Div(op.Mul(op.Gather(messages, 0, axis=1), backward), weights)
    marginals = op.Cast(op.LpNormalization(product, p=1, axis=2), to=ir.DataType.FLOAT)

    def step_back(inner: OnnxGraphBuilder, onwards: Any, score: Any) -> Sequence[Any]:
        label = inner.op.ArgMax(inner.op.Add(score, onwards), axis=1, keepdims=0)  # (B,)
        return inner.op.Gather(towards, label, axis=0), label

    start = _expand_rows(graph, last[None], lengths, "crf.last")
    inputs = [_double(("B", len(last))) for _ in range(2)]
    body = graph.scan_body(step_back, "crf.backwards", inputs=inputs, outputs=2)
    best = op.ReverseSequence(best, ends, **TIME_FIRST)
    _, path = op.Scan(start, best, num_scan_inputs=1, body=body, _outputs=2)  # (T, B) reversed
    return marginals, op.Cast(op.ReverseSequence(path, ends, **TIME_FIRST), to=ir.DataType.INT32)


def _scan_forwards(
    graph: OnnxGraphBuilder, both: Any, emissions: Any, lengths: Any, scores: Sequence[Any], towards: Any
) -> tuple[Any, Any]:
    """Return normalized messages (T, 2, B, K) and best scores (T, B, K), both with the emission of their step."""
    first = scores[1]
    pairs, start, end = (np.exp(each - each.max()) for each in scores)
    moves = graph.constant(np.stack([pairs, pairs.T]), "crf.moves")  # (2, K, K)

    def step(inner: OnnxGraphBuilder, message: Any, score: Any, weight: Any, emission: Any) -> Sequence[Any]:
        op = inner.op
        message = op.LpNormalization(op.Mul(message, weight), p=1, axis=2)
        score = op.Add(score, emission)
        onwards = op.ReduceMax(op.Add(op.Unsqueeze(score, [1]), towards), [2], keepdims=0)
        return op.MatMul(message, moves), onwards, message, score

    message_shape, score_shape = (2, "B", len(first)), ("B", len(first))
    *_, messages, best = graph.op.Scan(
        _expand_rows(graph, np.stack([start, end])[:, None], lengths, "crf.ends"),
        _expand_rows(graph, first[None], lengths, "crf.first"),
        both,
        emissions,
        num_scan_inputs=2,
        body=graph.scan_body(
            step, "crf.forwards", inputs=[_double(shape) for shape in (message_shape, score_shape) * 2], outputs=4
        ),
        _outputs=4,
    )
    return messages, best


def _double(shape: Sequence[int | str]) -> ir.Value:
    return ir.Value(type=ir.TensorType(ir.DataType.DOUBLE), shape=ir.Shape(shape))


def _expand_rows(graph: OnnxGraphBuilder, row: Any, lengths: Any, name: str) -> Any:
    """Return a constant (…, 1, K) expanded to (…, B, K)."""
    return graph.op.Expand(graph.constant(row, name), graph.op.Concat(graph.batch_size(lengths), [1], axis=0))
