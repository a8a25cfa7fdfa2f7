"""Networks as ONNX graphs: encoder, recurrent stack, pooling and heads.

T steps, B batch, E embedding, H hidden, W signal columns, C characters, N forms, G n-grams, F form width, K step
labels, L text labels, M merged labels, V vocabulary. Of a forecaster: S values of a segment, M segments and N values of
the forecast, Q levels. Of a filler: P gaps, X targets, R best words.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from torch import nn

from training.nn.encoders import FRAME_LIMIT, OUT_OF_RANGE, FrameEncoder, SpellingLSTM, WordEncoder
from training.nn.networks import Filler, Forecaster, LanguageModel, Network, SequenceNetwork
from training.nn.recurrent import RecurrentStack
from training.nn.translator import EncoderDecoder
from training.onnx_export.builder import ExportedGraph, OnnxGraphBuilder, Precision
from training.onnx_export.crf import add_crf
from training.onnx_export.int8 import add_product, add_quantize, add_rounded, pin_table, quantize_weights
from training.onnx_export.layers import LayerInput, Signal, add_final_states, add_float_layer, to_array
from training.onnx_export.parts import LOWEST, look_up, reach_of, standardize, valid_steps, weighted_mean
from training.onnx_export.stack import ROUNDING, add_stack
from training.onnx_export.translator import export_translator

FILLER_HEAD = "head"  # prefix of the names of the table's constants
REACH = 1.0  # of states and of the outputs of both dense layers of a filler


def export_graph(network: Network, precision: Precision) -> ExportedGraph:
    graph = OnnxGraphBuilder(precision)
    if isinstance(network, EncoderDecoder):
        return export_translator(network, precision)
    if isinstance(network, Forecaster):
        _add_forecaster(graph, network)
    elif isinstance(network, Filler):
        _add_filler(graph, network)
    elif isinstance(network, LanguageModel):
        characters, lengths = graph.input("characters", "T", "B"), graph.input("lengths", "B")
        table = to_array(network.table())
        signal = look_up(graph, table, characters)
        signal, final = add_stack(graph, network.stack, signal, lengths, _state_inputs(graph, network.stack))
        if network.narrow is not None:
            x = _dense(graph, signal, network.narrow, "narrow")
            signal = Signal(x=x, columns=np.arange(table.shape[1]), width=table.shape[1], reach=np.inf)
        bias = to_array(network.head.bias) + to_array(network.never)
        logits = graph.dense(signal.x, signal.spread(to_array(network.head.weight)), bias, "head")
        graph.output(graph.op.LogSoftmax(logits, axis=-1), "log_probabilities", "T", "B", len(bias))
        _state_outputs(graph, network.stack, final)
    else:
        _add_sequence_network(graph, network)
    return graph.finish()


def _add_sequence_network(graph: OnnxGraphBuilder, network: SequenceNetwork) -> None:
    op, encoder = graph.op, network.encoder
    if isinstance(encoder, WordEncoder):
        signal, lengths = _encode_words(graph, encoder)
    elif isinstance(encoder, FrameEncoder):
        signal, lengths = _encode_frames(graph, encoder)
    else:  # mixtures and positions are folded into the table
        rows, lengths = graph.input("bases" if encoder.is_dna else "characters", "T", "B"), graph.input("lengths", "B")
        signal = look_up(graph, to_array(encoder.table()), rows)
    initial = _state_inputs(graph, network.stack) if network.streams else None
    signal, final = add_stack(graph, network.stack, signal, lengths, initial)
    if network.step_head is not None:
        emissions = _dense(graph, signal, network.step_head, "step_head")  # (T, B, K)
        labels = network.step_head.out_features
        if network.crf is not None:
            marginals, path = add_crf(graph, emissions, lengths, network.crf)
            graph.output(marginals, "probabilities", "T", "B", labels)
            graph.output(path, "path", "T", "B", dtype="int32")
        else:
            graph.output(op.Softmax(emissions, axis=-1), "probabilities", "T", "B", labels)
    if network.text_head is not None:
        pooled = _pool(graph, network, signal, lengths)
        weight, bias = to_array(network.text_head.weight), to_array(network.text_head.bias)
        probabilities = op.Softmax(graph.dense(pooled, weight, bias, "text_head"), axis=-1)  # (B, L)
        labels = len(bias)
        if network.merged is not None:  # sum over the merged labels, and normalize over the answered ones
            merged, labels = graph.constant(to_array(network.merged), "merged"), len(network.merged)
            shares = op.ReduceSum(op.Mul(op.Unsqueeze(probabilities, [1]), merged), [2], keepdims=0)  # (B, M)
            probabilities = op.Div(shares, op.ReduceSum(shares, [1], keepdims=1))
        graph.output(probabilities, "probabilities" if network.step_head is None else "text_probabilities", "B", labels)
        graph.output(pooled, "embedding", "B", network.pooling.width)
    if network.streams:
        _state_outputs(graph, network.stack, final)


def _state_inputs(graph: OnnxGraphBuilder, stack: RecurrentStack) -> list[list[Any]]:
    return [
        [graph.state_input(f"{part}{number}", layer.hidden) for part in layer.forwards.parts]
        for number, layer in enumerate(stack.layers)
    ]


def _state_outputs(graph: OnnxGraphBuilder, stack: RecurrentStack, final: list[list[Any]]) -> None:
    for number, (layer, values) in enumerate(zip(stack.layers, final, strict=True)):
        for part, value in zip(layer.forwards.parts, values, strict=True):
            graph.state_output(value, f"{part}{number}", layer.hidden)


def _dense(graph: OnnxGraphBuilder, signal: Signal, layer: nn.Linear, name: str) -> Any:
    """Add a linear layer on the features of a signal. Range pins get zero weights."""
    return graph.dense(signal.x, signal.spread(to_array(layer.weight)), to_array(layer.bias), name)


def _encode_words(graph: OnnxGraphBuilder, encoder: WordEncoder) -> tuple[Signal, Any]:
    """Encode the feeds of WordsCodec: the stem's embedding, concatenated with the form's vector.

    Form vectors of known words are computed at export. Only a word without a table row is spelled at run time.
    """
    op = graph.op
    words, lengths = graph.input("words", "T", "B"), graph.input("lengths", "B")
    stems = to_array(encoder.stem_embedding.weight)
    embedding = stems.shape[1]
    if not encoder.has_forms:
        return look_up(graph, stems, words, "stems", keep_table=False), lengths
    forms = to_array(encoder.form_table())  # (rows, F), zeros for a row without a form
    # A spelling's vector stays below 1, and a mean of n-grams below the largest n-gram.
    reach = max(1.0, reach_of(stems))
    if encoder.subword_embedding is not None:
        reach = max(reach, reach_of(to_array(encoder.subword_embedding.weight)))
    has_form = np.flatnonzero(forms.any(axis=1))
    form_of_row = np.zeros(len(forms), np.int32)
    form_of_row[has_form] = 1 + np.arange(len(has_form))
    vectors = np.concatenate([np.zeros_like(forms[:1]), forms[has_form]])
    stem_rows = op.Gather(graph.constant(encoder.stems.numpy().astype(np.int32), "stem_of_row"), words, axis=0)
    form_rows = op.Gather(graph.constant(form_of_row, "form_of_row"), words, axis=0)
    unseen = graph.input("unseen", "T", "B")
    fresh = op.Concat(graph.constant(vectors[:1], "none"), _encode_forms(graph, encoder), axis=0)  # (1 + N, F)
    form = op.Add(graph.lookup(vectors, form_rows, "forms"), op.Gather(fresh, unseen, axis=0))  # (T, B, F)
    pinned = pin_table(graph, stems, reach)
    x = op.Concat(graph.lookup(pinned, stem_rows, "stems"), form, axis=2)
    width = pinned.shape[1]
    columns = np.concatenate([np.arange(embedding), width + np.arange(forms.shape[1])])
    return Signal(x=x, columns=columns, width=width + forms.shape[1], reach=reach), lengths


def _encode_forms(graph: OnnxGraphBuilder, encoder: WordEncoder) -> Any:
    """Return vectors (N, F) of words without a table row. They are few, so this is in float at every precision."""
    op, parts = graph.op, []
    if encoder.speller is not None:
        speller, spellings = encoder.speller, graph.input("spellings", "C", "N")
        lengths = graph.input("spelling_lengths", "N")
        table = to_array(speller.embedding.weight)
        x = op.Gather(graph.constant(table, "characters"), spellings, axis=0)  # (C, N, E)
        if isinstance(speller, SpellingLSTM):
            width, reach = table.shape[1], float(np.abs(table).max())
            signal = Signal(x=x, columns=np.arange(width), width=width, reach=reach)
            source = LayerInput(signal=signal, lengths=lengths, name="speller")
            parts.append(add_final_states(graph, speller.layer, source))
        else:
            # The convolution is one product over windows, so that a form's bits do not depend on the others.
            valid = valid_steps(graph, spellings, lengths)  # (C, N, 1)
            x = op.Where(valid, x, 0.0)
            windows = op.Concat(op.Pad(x, [1, 0, 0, -1, 0, 0]), x, op.Pad(x, [-1, 0, 0, 1, 0, 0]), axis=2)
            weight, bias = to_array(speller.filters.weight), to_array(speller.filters.bias)
            filtered = op.Tanh(graph.dense(windows, weight, bias, "filters"))
            parts.append(op.ReduceMax(op.Where(valid, filtered, OUT_OF_RANGE), [0], keepdims=0))
    if encoder.subword_embedding is not None:
        subwords, counts = graph.input("subwords", "G", "N"), graph.input("subword_counts", "N")
        picked = graph.lookup(to_array(encoder.subword_embedding.weight), subwords, "ngrams")  # (G, N, E)
        count = op.Unsqueeze(op.Cast(op.Max(counts, 1), to=ir.DataType.FLOAT), [1])
        parts.append(op.Div(op.ReduceSum(picked, [0], keepdims=0), count))
    return parts[0] if len(parts) == 1 else op.Concat(*parts, axis=1)


def _encode_frames(graph: OnnxGraphBuilder, encoder: FrameEncoder) -> tuple[Signal, Any]:
    features = encoder.width
    frames = graph.input("frames", "T", "B", features, dtype="float32")
    lengths = graph.input("lengths", "B")
    x = standardize(graph, encoder, frames)
    return Signal(x=x, columns=np.arange(features), width=features, reach=FRAME_LIMIT), lengths


def _pool(graph: OnnxGraphBuilder, network: SequenceNetwork, signal: Signal, lengths: Any) -> Any:
    """Return the concatenated poolings (B, pooling width) of a signal's features."""
    op, pooling = graph.op, network.pooling
    y = signal.features(graph, "features")  # (T, B, W)
    valid = valid_steps(graph, y, lengths)
    if network.stack.layers[0].cell == "rnn-relu":
        y = op.Where(valid, y, 0.0)  # an unbounded state may be infinite in the padding, and 0 · inf is NaN
    pooled = []
    for part in pooling.parts:
        if part == "max":
            pooled.append(op.ReduceMax(op.Where(valid, y, LOWEST), [0], keepdims=0))
        elif part == "mean":
            pooled.append(weighted_mean(graph, y, op.Cast(valid, to=ir.DataType.FLOAT))[0])
        elif part == "last":
            last = graph.final_step(y, lengths)  # (B, W); backward columns end at the first step
            if (backward := network.stack.backward_columns).any():
                last = op.Where(graph.constant(backward, "backward"), op.Gather(y, 0, axis=0), last)
            pooled.append(last)
        else:
            weight, bias = to_array(pooling.attention.hidden.weight), to_array(pooling.attention.hidden.bias)
            hidden = op.Tanh(graph.dense(y, weight, bias, "attention"))
            # A product with one column would use another kernel for one row than for many: multiply and sum instead.
            query = graph.constant(to_array(pooling.attention.query.weight)[0], "attention.query")
            scores = op.Where(valid, op.ReduceSum(op.Mul(hidden, query), [2], keepdims=1), LOWEST)  # (T, B, 1)
            weights = op.Exp(op.Sub(scores, op.ReduceMax(scores, [0], keepdims=1)))
            pooled.append(weighted_mean(graph, y, weights)[0])
    return pooled[0] if len(pooled) == 1 else op.Concat(*pooled, axis=1)


def _add_forecaster(graph: OnnxGraphBuilder, network: Forecaster) -> None:
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


def _add_filler(graph: OnnxGraphBuilder, network: Filler) -> None:
    """Add the graph from words (T, B) and their gaps (P,) to the best words (P, R) and the scores of targets (P, X).

    The best words are chosen by their logits: in a probability that underflows to zero, words that are impossible
    would be as good as others.
    """
    op = graph.op
    words, lengths = graph.input("words", "T", "B"), graph.input("lengths", "B")
    steps, inputs = graph.input("gap_steps", "P"), graph.input("gap_inputs", "P")
    targets = graph.input("targets", "P", "X")
    signal, _ = add_stack(graph, network.stack, _look_up_words(graph, network, words), lengths)
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


def _look_up_words(graph: OnnxGraphBuilder, network: Filler, words: Any) -> Signal:
    """Return the vectors (T, B, E) of words. ONNX Runtime transposes a constant table once, when it opens the file."""
    op, table = graph.op, to_array(network.embedding.weight)
    if graph.precision == "fp32":
        x = op.Gather(graph.constant(table, f"{FILLER_HEAD}.table"), words, axis=0)
        return Signal(x=x, columns=np.arange(table.shape[1]), width=table.shape[1], reach=float(np.abs(table).max()))
    rounded, scale = quantize_weights(table)  # (E, V), (V,)
    weights, weight_scales = add_rounded(graph, table, f"{FILLER_HEAD}.weight", f"{FILLER_HEAD}.scale")
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
    """Return the logits (P, V) of all words for vectors x (P, E). The matrix is the table of `_look_up_words`."""
    op, table = graph.op, to_array(network.embedding.weight)
    bias = to_array(network.bias) + to_array(network.never)
    if graph.precision == "int8":
        return add_product(graph, add_quantize(graph, x, REACH), table, bias, REACH, FILLER_HEAD)
    matrix = op.Transpose(graph.constant(table, f"{FILLER_HEAD}.table"), perm=[1, 0])
    return op.Add(op.MatMul(x, matrix), graph.constant(bias, f"{FILLER_HEAD}.bias"))
