"""The ONNX twins of the networks, drawn operator by operator out of the layers of layers.py.

Knows the networks and their weights. Does not know data, scores or files.
T steps, B batch, I inputs, H hidden, D directions, C characters, N spellings, K labels, V vocabulary.
"""

from typing import Any

import numpy as np
import onnx_ir as ir

from training.layers import Drawing, Floats, Pen, Precision, Signal, Weights, exact, recurrent
from training.networks import OUT_OF_RANGE, Classifier, LanguageModel, Network, Tagger, WordEncoder


def draw(network: Network, precision: Precision) -> Drawing:
    """The graph of a trained network."""
    if isinstance(network, Tagger):
        return _draw_tagger(network, precision)
    if isinstance(network, Classifier):
        return _draw_classifier(network, precision)
    return _draw_language_model(network, precision)


def _encode_words(pen: Pen, encoder: WordEncoder) -> tuple[Signal, Any]:
    """The feeds of WordsCodec to vectors (T, B, I): the stem's embedding beside the vector of the spelling.

    A spelling is constant, so the vectors of all known words are computed once, here, and not per request; only
    a word without a row is spelled when it comes.
    """
    op = pen.op
    words, lengths = pen.input("words", "T", "B"), pen.input("lengths", "B")
    stems = encoder.stem_embedding.weight.detach().numpy()
    embedding = stems.shape[1]
    if pen.precision == "int8":
        # The largest magnitude that an input can have; the vector of a spelling, a hidden state, stays below 1.
        reach = np.float32(max(1.0, np.abs(stems).max()))
        stems = np.concatenate([stems, np.tile([reach, -reach], (len(stems), 1)).astype(np.float32)], axis=1)
    width = stems.shape[1]
    if encoder.speller is None:
        return Signal(x=pen.lookup(stems, words, "stems"), columns=np.arange(embedding), width=width), lengths
    spelled = encoder.spelled().numpy()  # (rows, 2·Hc), zero where a row has no spelling
    has = np.flatnonzero(encoder.spelling_lengths.numpy())
    place = np.zeros(len(spelled), np.int32)
    place[has] = 1 + np.arange(len(has))
    vectors = np.concatenate([np.zeros_like(spelled[:1]), spelled[has]])
    stem_rows = op.Gather(pen.constant(encoder.stems.numpy().astype(np.int32), "stem_of_row"), words, axis=0)
    vector_rows = op.Gather(pen.constant(place, "spelling_of_row"), words, axis=0)
    unseen = pen.input("unseen", "T", "B")
    fresh = op.Concat(pen.constant(vectors[:1], "none"), _spell(pen, encoder), axis=0)  # (1 + N, 2·Hc)
    vector = op.Add(pen.lookup(vectors, vector_rows, "spelled"), op.Gather(fresh, unseen, axis=0))
    x = op.Concat(pen.lookup(stems, stem_rows, "stems"), vector, axis=2)
    columns = np.concatenate([np.arange(embedding), width + np.arange(spelled.shape[1])])
    return Signal(x=x, columns=columns, width=width + spelled.shape[1]), lengths


def _spell(pen: Pen, encoder: WordEncoder) -> Any:
    """spellings (C, N) to vectors (N, 2·Hc); always in float: words without a row are few."""
    assert encoder.character_embedding is not None
    assert encoder.speller is not None
    op = pen.op
    spellings, lengths = pen.input("spellings", "C", "N"), pen.input("spelling_lengths", "N")
    table = encoder.character_embedding.weight.detach().numpy()
    x = op.Gather(pen.constant(table, "characters"), spellings, axis=0)
    signal = Signal(x=x, columns=np.arange(table.shape[1]), width=table.shape[1])
    weights = Weights.of(encoder.speller)
    _, final = exact(pen, encoder.speller, weights, signal, lengths, "speller", None)
    return op.Reshape(op.Transpose(final[0], perm=[1, 0, 2]), [0, encoder.speller.width])  # (D, N, H) -> (N, D·H)


def _stack(
    pen: Pen, network: Tagger | Classifier, signal: Signal, lengths: Any, *, final: bool
) -> tuple[Signal, list[Any]]:
    """All layers; with `final` also the last one's final states."""
    states: list[Any] = []
    for number, layer in enumerate(network.stack.layers, 1):
        last = number == len(network.stack.layers)
        signal, states = recurrent(pen, layer, signal, lengths, f"layer{number - 1}", final=final and last)
    return signal, states


def _head(network: Tagger | Classifier | LanguageModel) -> tuple[Floats, Floats]:
    return network.head.weight.detach().numpy(), network.head.bias.detach().numpy()


def _draw_tagger(network: Tagger, precision: Precision) -> Drawing:
    pen = Pen(precision)
    signal, lengths = _encode_words(pen, network.encoder)
    signal, _ = _stack(pen, network, signal, lengths, final=False)
    weight, bias = _head(network)
    wide = np.zeros((len(bias), signal.width), np.float32)
    wide[:, signal.columns] = weight
    probabilities = pen.op.Softmax(pen.dense(signal.x, wide, bias, "head"), axis=-1)
    pen.output(probabilities, "probabilities", "T", "B", len(bias))
    return pen.finish()


def _draw_classifier(network: Classifier, precision: Precision) -> Drawing:
    pen = Pen(precision)
    op = pen.op
    signal, lengths = _encode_words(pen, network.encoder)
    signal, final = _stack(pen, network, signal, lengths, final=True)
    steps = op.Shape(signal.x, start=0, end=1)  # (1,)
    places = op.Unsqueeze(op.Cast(op.Range(0, op.Squeeze(steps), 1), to=ir.DataType.INT32), [1, 2])  # (T, 1, 1)
    valid = op.Less(places, op.Unsqueeze(lengths, [0, 2]))  # (T, B, 1)
    highest = op.ReduceMax(op.Where(valid, signal.x, OUT_OF_RANGE), [0], keepdims=0)  # (B, width)
    layer = network.stack.layers[-1]
    last = op.Reshape(op.Transpose(final[0], perm=[1, 0, 2]), [0, layer.width])  # (B, D·H)
    weight, bias = _head(network)
    wide = np.zeros((len(bias), signal.width + layer.width), np.float32)
    wide[:, signal.columns] = weight[:, : layer.width]
    wide[:, signal.width :] = weight[:, layer.width :]
    probabilities = op.Softmax(pen.dense(op.Concat(highest, last, axis=1), wide, bias, "head"), axis=-1)
    pen.output(probabilities, "probabilities", "B", len(bias))
    return pen.finish()


def _draw_language_model(network: LanguageModel, precision: Precision) -> Drawing:
    pen = Pen(precision)
    characters, lengths = pen.input("characters", "T", "B"), pen.input("lengths", "B")
    table = network.embedding.weight.detach().numpy().copy()
    table[1] = table[2:].mean(axis=0)  # a character that training never saw: none in particular
    reach, width = float(np.abs(table).max()), table.shape[1]
    if precision == "int8":
        table = np.concatenate([table, np.full((len(table), 1), reach), np.full((len(table), 1), -reach)], axis=1)
    x = pen.lookup(table.astype(np.float32), characters, "table")
    signal = Signal(x=x, columns=np.arange(width), width=table.shape[1])
    after: list[tuple[Any, str, int]] = []
    for number, layer in enumerate(network.stack.layers):
        names = [f"{part}{number}" for part in ("hc" if layer.cell == "lstm" else "h")]
        memory = [pen.state_input(name, layer.hidden) for name in names]
        signal, final = recurrent(pen, layer, signal, lengths, f"layer{number}", memory, final=True)
        after += [(part, name, layer.hidden) for part, name in zip(final, names, strict=True)]
    weight, bias = _head(network)
    wide = np.zeros((len(bias), signal.width), np.float32)
    wide[:, signal.columns] = weight
    bias = bias + network.never.numpy()
    pen.output(
        pen.op.LogSoftmax(pen.dense(signal.x, wide, bias, "head"), axis=-1), "log_probabilities", "T", "B", len(bias)
    )
    for value, name, hidden in after:
        pen.state_output(pen.op.Squeeze(value, [0]), name, hidden)
    return pen.finish()
