"""The ONNX twins of the networks, drawn operator by operator: encoder, recurrent layers, heads.

Knows the networks and their weights. Does not know data, scores or files.
T steps, B batch, I features, W columns of the stack's output, C characters, N forms, G n-grams, K labels, V vocabulary.
"""

from typing import Any

import numpy as np
import onnx_ir as ir

from training.nn.encoders import (
    CLIP,
    OUT_OF_RANGE,
    FrameEncoder,
    LetterCells,
    LetterWindows,
    SymbolEncoder,
    WordEncoder,
)
from training.nn.networks import LanguageModel, Network, SequenceNetwork
from training.nn.pooling import Attention, Pooling
from training.nn.recurrent import Stack
from training.onnx_export.crf import draw_chain
from training.onnx_export.graph_builder import Drawing, Floats, Pen, Precision
from training.onnx_export.layers import Signal, final_states
from training.onnx_export.stack import SLACK, draw_stack

LOWEST = float(np.finfo(np.float32).min)


def draw(network: Network, precision: Precision) -> Drawing:
    """The graph of a trained network."""
    if isinstance(network, LanguageModel):
        return _draw_language_model(network, precision)
    return _draw_sequences(network, precision)


def _draw_sequences(network: SequenceNetwork, precision: Precision) -> Drawing:
    pen = Pen(precision)
    encoder = network.encoder
    if isinstance(encoder, WordEncoder):
        signal, lengths = _encode_words(pen, encoder)
    elif isinstance(encoder, FrameEncoder):
        signal, lengths = _encode_frames(pen, encoder)
    else:
        signal, lengths = _encode_symbols(pen, encoder)
    memory = _memory(pen, network.stack) if network.streams else None
    signal, after = draw_stack(pen, network.stack, signal, lengths, memory)
    if network.step_head is not None:
        emissions = _dense(pen, signal, network.step_head, "step_head")
        labels = network.step_head.out_features
        if network.chain is not None:
            marginals, path = draw_chain(pen, emissions, lengths, network.chain)
            pen.output(marginals, "probabilities", "T", "B", labels)
            pen.output(path, "path", "T", "B", dtype="int32")
        else:
            pen.output(pen.op.Softmax(emissions, axis=-1), "probabilities", "T", "B", labels)
    if network.pooling is not None and network.text_head is not None:
        pooled = _pool(pen, network, network.pooling, signal, lengths)
        weight, bias = network.text_head.weight.detach().numpy(), network.text_head.bias.detach().numpy()
        probabilities = pen.op.Softmax(pen.dense(pooled, weight, bias, "text_head"), axis=-1)
        labels = len(bias)
        if network.merged is not None:
            probabilities, labels = _merge(pen, probabilities, network.merged.numpy()), len(network.merged)
        pen.output(probabilities, "probabilities" if network.step_head is None else "text_probabilities", "B", labels)
        pen.output(pooled, "embedding", "B", network.pooling.width)
    _carry(pen, network.stack, after)
    return pen.finish()


def _states(stack: Stack) -> list[list[tuple[str, int]]]:
    """Name and width of each state of each layer."""
    return [
        [(f"{part}{number}", layer.hidden) for part in layer.forwards.parts]
        for number, layer in enumerate(stack.layers)
    ]


def _memory(pen: Pen, stack: Stack) -> list[list[Any]]:
    """The states that a sequence goes on from, as inputs of the graph."""
    return [[pen.state_input(name, width) for name, width in layer] for layer in _states(stack)]


def _carry(pen: Pen, stack: Stack, after: list[list[Any]] | None) -> None:
    """The states at which each row ends, as outputs of the graph, if it has any."""
    for values, layer in zip(after or (), _states(stack), strict=after is not None):
        for value, (name, width) in zip(values, layer, strict=True):
            pen.state_output(value, name, width)


def _merge(pen: Pen, probabilities: Any, merged: Floats) -> Any:
    """(B, L) -> (B, M): the probabilities of the labels that are answered as one, of what is answered at all."""
    op = pen.op
    shares = op.ReduceSum(op.Mul(op.Unsqueeze(probabilities, [1]), pen.constant(merged, "merged")), [2], keepdims=0)
    return op.Div(shares, op.ReduceSum(shares, [1], keepdims=1))


def _dense(pen: Pen, signal: Signal, layer: Any, name: str) -> Any:
    """A linear layer on the real columns of a signal; ballast gets zero weights."""
    return pen.dense(signal.x, signal.spread(layer.weight.detach().numpy()), layer.bias.detach().numpy(), name)


def _reach(table: Floats) -> float:
    """The largest magnitude in a table, with room for the rounding of bytes on a scale."""
    return float(np.abs(table).max() * SLACK)


def _with_ballast(pen: Pen, table: Floats, reach: float) -> Floats:
    """In int8 two constant features more, +reach and -reach, which pin the range of the whole."""
    if pen.precision == "fp32":
        return table
    ends = np.tile(np.array([[reach, -reach]], np.float32), (len(table), 1))
    return np.concatenate([table, ends], axis=1)


def _encode_words(pen: Pen, encoder: WordEncoder) -> tuple[Signal, Any]:
    """The feeds of WordsCodec to vectors (T, B, I): the stem's embedding beside the vector of the form.

    A form is constant, so the vectors of all known words are computed once, here, and not per request; only a word
    without a row is read letter by letter when it comes.
    """
    op = pen.op
    words, lengths = pen.input("words", "T", "B"), pen.input("lengths", "B")
    stems = encoder.stem_embedding.weight.detach().numpy()
    embedding = stems.shape[1]
    if not encoder.reads_form:
        reach = _reach(stems)
        x = pen.lookup(_with_ballast(pen, stems, reach), words, "stems")
        return Signal(x=x, columns=np.arange(embedding), width=embedding + pen.ballast, reach=reach), lengths
    forms = encoder.forms().numpy()  # (rows, width of a form), zero where a row has no form of its own
    # What a spelling gives stays below 1; a mean of n-grams below the largest of them.
    reach = max(1.0, _reach(stems))
    if encoder.subword_embedding is not None:
        reach = max(reach, _reach(encoder.subword_embedding.weight.detach().numpy()))
    has = np.flatnonzero(forms.any(axis=1))
    place = np.zeros(len(forms), np.int32)
    place[has] = 1 + np.arange(len(has))
    vectors = np.concatenate([np.zeros_like(forms[:1]), forms[has]])
    stem_rows = op.Gather(pen.constant(encoder.stems.numpy().astype(np.int32), "stem_of_row"), words, axis=0)
    form_rows = op.Gather(pen.constant(place, "form_of_row"), words, axis=0)
    unseen = pen.input("unseen", "T", "B")
    fresh = op.Concat(pen.constant(vectors[:1], "none"), _read_form(pen, encoder), axis=0)  # (1 + N, width of a form)
    form = op.Add(pen.lookup(vectors, form_rows, "forms"), op.Gather(fresh, unseen, axis=0))
    x = op.Concat(pen.lookup(_with_ballast(pen, stems, reach), stem_rows, "stems"), form, axis=2)
    width = embedding + pen.ballast
    columns = np.concatenate([np.arange(embedding), width + np.arange(forms.shape[1])])
    return Signal(x=x, columns=columns, width=width + forms.shape[1], reach=reach), lengths


def _read_form(pen: Pen, encoder: WordEncoder) -> Any:
    """Vectors (N, width of a form) of the words without a row; always in float: they are few."""
    parts = []
    if encoder.speller is not None:
        spellings, lengths = pen.input("spellings", "C", "N"), pen.input("spelling_lengths", "N")
        read = _read_cells if isinstance(encoder.speller, LetterCells) else _read_windows
        parts.append(read(pen, encoder.speller, spellings, lengths))  # type: ignore[arg-type]
    if encoder.subword_embedding is not None:
        subwords, counts = pen.input("subwords", "G", "N"), pen.input("subword_counts", "N")
        picked = pen.lookup(encoder.subword_embedding.weight.detach().numpy(), subwords, "ngrams")  # (G, N, E)
        count = pen.op.Unsqueeze(pen.op.Cast(pen.op.Max(counts, 1), to=ir.DataType.FLOAT), [1])
        parts.append(pen.op.Div(pen.op.ReduceSum(picked, [0], keepdims=0), count))
    return parts[0] if len(parts) == 1 else pen.op.Concat(*parts, axis=1)


def _read_cells(pen: Pen, speller: LetterCells, spellings: Any, lengths: Any) -> Any:
    table = speller.embedding.weight.detach().numpy()
    x = pen.op.Gather(pen.constant(table, "characters"), spellings, axis=0)
    signal = Signal(x=x, columns=np.arange(table.shape[1]), width=table.shape[1], reach=float(np.abs(table).max()))
    return final_states(pen, speller.layer, signal, lengths, "speller")


def _read_windows(pen: Pen, speller: LetterWindows, spellings: Any, lengths: Any) -> Any:
    """spellings (C, N): windows of three as one product, so that a form's bits do not depend on its neighbours."""
    op = pen.op
    valid = _valid(pen, spellings, lengths)  # (C, N, 1)
    x = op.Gather(pen.constant(speller.embedding.weight.detach().numpy(), "characters"), spellings, axis=0)
    x = op.Where(valid, x, 0.0)
    before = op.Pad(x, [1, 0, 0, -1, 0, 0])
    after = op.Pad(x, [-1, 0, 0, 1, 0, 0])
    weight, bias = speller.filters.weight.detach().numpy(), speller.filters.bias.detach().numpy()
    found = op.Tanh(pen.dense(op.Concat(before, x, after, axis=2), weight, bias, "filters"))  # (C, N, Hc)
    return op.ReduceMax(op.Where(valid, found, OUT_OF_RANGE), [0], keepdims=0)


def _encode_symbols(pen: Pen, encoder: SymbolEncoder) -> tuple[Signal, Any]:
    """Characters or bases: what a row of the table is made of, and its place, are folded into the table."""
    name = "bases" if encoder.of_bases else "characters"
    rows, lengths = pen.input(name, "T", "B"), pen.input("lengths", "B")
    table = encoder.table().detach().numpy()
    return _look_up(pen, table, rows), lengths


def _look_up(pen: Pen, table: Floats, rows: Any) -> Signal:
    reach, width = _reach(table), table.shape[1]
    x = pen.lookup(_with_ballast(pen, table, reach), rows, "table")
    return Signal(x=x, columns=np.arange(width), width=width + pen.ballast, reach=reach, table=table, rows=rows)


def _encode_frames(pen: Pen, encoder: FrameEncoder) -> tuple[Signal, Any]:
    op, features = pen.op, encoder.width
    frames = pen.input("frames", "T", "B", features, dtype="float32")
    lengths = pen.input("lengths", "B")
    centred = op.Sub(frames, pen.constant(encoder.mean.numpy(), "mean"))
    x = op.Clip(op.Div(centred, pen.constant(encoder.deviation.numpy(), "deviation")), -CLIP, CLIP)
    return Signal(x=x, columns=np.arange(features), width=features, reach=CLIP), lengths


def _valid(pen: Pen, rows: Any, lengths: Any) -> Any:
    """Whether a step is before the end of its column: (T, B, 1), for rows (T, B, …)."""
    op = pen.op
    steps = op.Squeeze(op.Shape(rows, start=0, end=1))
    places = op.Cast(op.Range(0, steps, 1), to=ir.DataType.INT32)
    return op.Less(op.Unsqueeze(places, [1, 2]), op.Unsqueeze(lengths, [0, 2]))


def _pool(pen: Pen, network: SequenceNetwork, pooling: Pooling, signal: Signal, lengths: Any) -> Any:
    """(B, width): the parts of the pooling side by side, real columns alone."""
    op = pen.op
    y = (
        signal.x
        if signal.width == len(signal.columns)
        else op.Gather(signal.x, pen.constant(signal.columns, "real"), axis=2)
    )
    valid = _valid(pen, y, lengths)
    if (
        network.stack.layers[0].cell == "rnn-relu"
    ):  # without a bound the padding may be infinite: nothing times that is NaN
        y = op.Where(valid, y, 0.0)
    found = []
    for part in pooling.parts:
        if part == "max":
            found.append(op.ReduceMax(op.Where(valid, y, LOWEST), [0], keepdims=0))
        elif part == "mean":
            found.append(_weighted_mean(pen, y, op.Cast(valid, to=ir.DataType.FLOAT)))
        elif part == "last":
            found.append(_final(pen, network, y, lengths))
        else:
            assert pooling.attention is not None
            found.append(_weighted_mean(pen, y, _attention(pen, pooling.attention, y, valid)))
    return found[0] if len(found) == 1 else op.Concat(*found, axis=1)


def _weighted_mean(pen: Pen, y: Any, weights: Any) -> Any:
    """y (T, B, W), weights (T, B, 1) -> (B, W).

    The sum of the weights is one column more of the same sum: a sum over (T, B, 1) alone would add up in another order
    for one row than for many, and an answer must not depend on its neighbours.
    """
    op = pen.op
    sums = op.ReduceSum(op.Concat(op.Mul(y, weights), weights, axis=2), [0], keepdims=0)  # (B, W + 1)
    return op.Div(op.Slice(sums, [0], [-1], [1]), op.Slice(sums, [-1], [LAST], [1]))


LAST = np.iinfo(np.int64).max


def _attention(pen: Pen, attention: Attention, y: Any, valid: Any) -> Any:
    """Weights (T, B, 1), not yet divided by their sum."""
    op = pen.op
    weight, bias = attention.hidden.weight.detach().numpy(), attention.hidden.bias.detach().numpy()
    hidden = op.Tanh(pen.dense(y, weight, bias, "attention"))
    # A product and a sum, not a matrix product: one column alone would take another kernel for one row than for many.
    query = pen.constant(attention.query.weight.detach().numpy()[0], "attention.query")
    agreement = op.ReduceSum(op.Mul(hidden, query), [2], keepdims=1)  # (T, B, 1)
    agreement = op.Where(valid, agreement, LOWEST)
    return op.Exp(op.Sub(agreement, op.ReduceMax(agreement, [0], keepdims=1)))


def _final(pen: Pen, network: SequenceNetwork, y: Any, lengths: Any) -> Any:
    """y (T, B, W) -> (B, W): forward columns at the last step, backward columns at the first."""
    op = pen.op
    ends = op.Cast(op.Sub(lengths, 1), to=ir.DataType.INT64)
    columns = op.Range(0, op.Squeeze(op.Shape(lengths)), 1)
    last = op.GatherND(y, op.Concat(op.Unsqueeze(ends, [1]), op.Unsqueeze(columns, [1]), axis=1))  # (B, W)
    backward = network.stack.backward_columns
    if not backward.any():
        return last
    return op.Where(pen.constant(backward, "backward"), op.Gather(y, 0, axis=0), last)


def _draw_language_model(network: LanguageModel, precision: Precision) -> Drawing:
    pen = Pen(precision)
    characters, lengths = pen.input("characters", "T", "B"), pen.input("lengths", "B")
    table = network.table().detach().numpy()
    signal = _look_up(pen, table, characters)
    signal, after = draw_stack(pen, network.stack, signal, lengths, _memory(pen, network.stack))
    if network.narrow is not None:
        x = _dense(pen, signal, network.narrow, "narrow")
        signal = Signal(x=x, columns=np.arange(table.shape[1]), width=table.shape[1], reach=np.inf)
    bias = network.head.bias.detach().numpy() + network.never.numpy()
    logits = pen.dense(signal.x, signal.spread(network.head.weight.detach().numpy()), bias, "head")
    pen.output(pen.op.LogSoftmax(logits, axis=-1), "log_probabilities", "T", "B", len(bias))
    _carry(pen, network.stack, after)
    return pen.finish()
