"""The ONNX twins of the networks, built operator by operator, in two precisions.

fp32 uses ONNX's LSTM and GRU with `sequence_lens`. int8 uses DynamicQuantizeLSTM, made independent of the batch:
the operator takes its activation scales from whatever is in the batch, so two constant input features (+r, -r) and
two hidden units held at +1 and -1 ("ballast", all with zero outgoing weights) pin every range. The scales are then
constants, and an answer has the same bits alone and in any company.

Knows weights and operators. Does not know data, scores or files.
T steps, B batch, I inputs, H hidden, D directions, C characters, N spellings, K labels, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript import GraphBuilder

from models.manifest import StateTensor, Tensor
from training.networks import OUT_OF_RANGE, Classifier, LanguageModel, Network, Recurrent, Tagger, WordEncoder

Precision = Literal["fp32", "int8"]
Floats = NDArray[np.float32]

OPSET, IR_VERSION = 21, 10
BALLAST = 2  # hidden units and input features that pin the ranges
SATURATION = 30.0  # a gate with this pre-activation is exactly 0 or 1 in float32, and tanh(30) is exactly 1
# int8 weights use 7 bits: on processors without VNNI the product of two bytes is added up in 16 bits, where
# 255 · 64 · 2 still fits and 255 · 127 · 2 does not.
WEIGHT_LEVELS = 64


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A finished graph and the tensors that it declares."""

    model: onnx.ModelProto
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    state: tuple[StateTensor, ...] = ()


def draw(network: Network, precision: Precision) -> Drawing:
    """The graph of a trained network."""
    if isinstance(network, Tagger):
        return _draw_tagger(network, precision)
    if isinstance(network, Classifier):
        return _draw_classifier(network, precision)
    return _draw_language_model(network, precision)


class _Pen:
    """A graph being built: onnxscript's builder, with the layers that the networks share."""

    def __init__(self, precision: Precision) -> None:
        self.precision = precision
        self._graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET, "com.microsoft": 1}, name="seqserve")
        self._builder = GraphBuilder(self._graph)
        self.op: Any = self._builder.op
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.state: list[StateTensor] = []

    def constant(self, array: Any, name: str) -> Any:
        return self._builder.initializer(ir.tensor(np.asarray(array, order="C")), name)

    def input(self, name: str, *shape: int | str) -> Any:
        self.inputs.append(Tensor(name=name, dtype="int32", shape=shape))
        return self._builder.input(name, ir.DataType.INT32, list(shape))

    def output(self, value: Any, name: str, *shape: int | str) -> None:
        self.outputs.append(Tensor(name=name, dtype="float32", shape=shape))
        self._output(value, name, shape)

    def state_input(self, name: str, width: int) -> Any:
        self.state.append(StateTensor(input=name, output=f"{name}_next", width=width))
        return self._builder.input(name, ir.DataType.FLOAT, ["B", width])

    def state_output(self, value: Any, name: str, width: int) -> None:
        self._output(value, f"{name}_next", ("B", width))

    def _output(self, value: Any, name: str, shape: tuple[int | str, ...]) -> None:
        value = self.op.Identity(value)
        value.name, value.shape, value.dtype = name, ir.Shape(shape), ir.DataType.FLOAT
        self._graph.outputs.append(value)

    def finish(self) -> Drawing:
        model = ir.to_proto(ir.Model(self._graph, ir_version=IR_VERSION, producer_name="seqserve"))
        onnx.checker.check_model(model)
        return Drawing(model=model, inputs=tuple(self.inputs), outputs=tuple(self.outputs), state=tuple(self.state))

    def lookup(self, table: Floats, rows: Any, name: str) -> Any:
        """Rows of a constant table (R, I): in int8 stored as bytes on one scale, which halves the graph twice."""
        if self.precision == "fp32":
            return self.op.Gather(self.constant(table, name), rows, axis=0)
        scale = np.float32(np.abs(table).max() / 127 or 1.0)  # a table of zeros alone has no scale
        levels = np.rint(table / scale).astype(np.int8)
        picked = self.op.Gather(self.constant(levels, name), rows, axis=0)
        return self.op.DequantizeLinear(picked, self.constant(scale, f"{name}.scale"))

    def dense(self, x: Any, weight: Floats, bias: Floats, name: str) -> Any:
        """x (…, I) · weight (K, I)ᵀ + bias (K,)."""
        product = self.op.MatMul(x, self.constant(weight.T, f"{name}.weight"))
        return self.op.Add(product, self.constant(bias, f"{name}.bias"))

    def batch_size(self, lengths: Any) -> Any:
        return self.op.Shape(lengths)  # (1,)


@dataclass(frozen=True, kw_only=True)
class _Signal:
    """A sequence on its way through the layers: x (T, B, I), and which of its features are real.

    `columns[i]` is the place in x of feature i of the network; the other places hold ballast.
    """

    x: Any
    columns: NDArray[np.int64]
    width: int


@dataclass(frozen=True, kw_only=True)
class _Weights:
    """One layer in ONNX's layout and order of gates: w (D, G·H, I), r (D, G·H, H), b (D, 2·G·H)."""

    operator: str
    gates: int
    w: Floats
    r: Floats
    b: Floats

    @classmethod
    def of(cls, layer: Recurrent) -> "_Weights":
        # PyTorch: LSTM i f g o, GRU r z n.  ONNX: LSTM i o f c, GRU z r h.
        operator, order = {"lstm": ("LSTM", (0, 3, 1, 2)), "gru": ("GRU", (1, 0, 2))}[layer.cell]

        def reorder(parameter: Any) -> Floats:
            parts = np.split(parameter.detach().numpy(), len(order))
            return np.concatenate([parts[gate] for gate in order])

        directions = [part for part in (layer.forwards, layer.backwards) if part is not None]
        return cls(
            operator=operator,
            gates=len(order),
            w=np.stack([reorder(d.weight_ih_l0) for d in directions]),
            r=np.stack([reorder(d.weight_hh_l0) for d in directions]),
            b=np.stack([np.concatenate([reorder(d.bias_ih_l0), reorder(d.bias_hh_l0)]) for d in directions]),
        )

    def spread(self, signal: _Signal) -> Floats:
        """w for an input with ballast in it: (D, G·H, signal.width), zero where the ballast is."""
        wide = np.zeros((*self.w.shape[:2], signal.width), np.float32)
        wide[:, :, signal.columns] = self.w
        return wide


def _recurrent(
    pen: _Pen, layer: Recurrent, signal: _Signal, lengths: Any, name: str, memory: list[Any] | None = None
) -> tuple[_Signal, list[Any]]:
    """One layer over a signal: the outputs (T, B, D·H), and its final states, each (D, B, H).

    `memory`: the initial states (B, H), for a layer of one direction; without it the layer starts from zero.
    """
    weights = _Weights.of(layer)
    quantised = pen.precision == "int8" and weights.operator == "LSTM"
    run = _quantised if quantised else _exact
    y, final = run(pen, layer, weights, signal, lengths, name, memory)
    op, hidden = pen.op, layer.hidden + (BALLAST if quantised else 0)
    y = op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), [0, 0, layer.directions * hidden])  # (T, D, B, H) -> (T, B, D·H)
    columns = np.concatenate([d * hidden + np.arange(layer.hidden) for d in range(layer.directions)])
    return _Signal(x=y, columns=columns, width=layer.directions * hidden), final


def _exact(
    pen: _Pen, layer: Recurrent, weights: _Weights, signal: _Signal, lengths: Any, name: str, memory: list[Any] | None
) -> tuple[Any, list[Any]]:
    op = pen.op
    initial = [op.Unsqueeze(part, [0]) for part in memory] if memory else []
    attributes: dict[str, Any] = {"hidden_size": layer.hidden, "direction": _direction(layer)}
    if weights.operator == "GRU":
        attributes["linear_before_reset"] = 1  # PyTorch's form
    y, *final = getattr(op, weights.operator)(
        signal.x,
        pen.constant(weights.spread(signal), f"{name}.w"),
        pen.constant(weights.r, f"{name}.r"),
        pen.constant(weights.b, f"{name}.b"),
        lengths,
        *initial,
        **attributes,
        _outputs=3 if weights.operator == "LSTM" else 2,
    )
    return y, final


def _quantised(
    pen: _Pen, layer: Recurrent, weights: _Weights, signal: _Signal, lengths: Any, name: str, memory: list[Any] | None
) -> tuple[Any, list[Any]]:
    """DynamicQuantizeLSTM with ballast in its hidden state; the signal must carry ballast already."""
    op, hidden, wide = pen.op, layer.hidden, layer.hidden + BALLAST
    ballast_h, ballast_c = np.array([1, -1], np.float32), np.array([SATURATION, -SATURATION], np.float32)
    w, r, b = _with_ballast(weights, signal, hidden)
    w_levels, w_scale = _levels(w)
    r_levels, r_scale = _levels(r)
    initial = [
        _initial(pen, part, ballast, layer, lengths, f"{name}.{state}")
        for state, part, ballast in zip("hc", memory or [None, None], (ballast_h, ballast_c), strict=True)
    ]
    zero = pen.constant(np.zeros(w_scale.shape, np.int8), f"{name}.zero")
    y, *final = op.DynamicQuantizeLSTM(
        signal.x,
        pen.constant(w_levels, f"{name}.w"),
        pen.constant(r_levels, f"{name}.r"),
        pen.constant(b, f"{name}.b"),
        lengths,
        *initial,
        None,
        pen.constant(w_scale, f"{name}.w.scale"),
        zero,
        pen.constant(r_scale, f"{name}.r.scale"),
        zero,
        hidden_size=wide,
        direction=_direction(layer),
        _outputs=3,
        _domain="com.microsoft",
        _version=1,
    )
    return y, [op.Slice(part, [0], [hidden], [2]) for part in final]


def _initial(pen: _Pen, part: Any, ballast: Floats, layer: Recurrent, lengths: Any, name: str) -> Any:
    """An initial state (D, B, H + 2): zeros or the given rows (B, H), and the ballast behind them."""
    op = pen.op
    rows = np.zeros((1, 1, BALLAST if part is not None else layer.hidden + BALLAST), np.float32)
    rows[..., -BALLAST:] = ballast
    directions = pen.constant(np.array([layer.directions]), f"{name}.directions")
    width = pen.constant(np.array([rows.shape[-1]]), f"{name}.width")
    shape = op.Concat(directions, pen.batch_size(lengths), width, axis=0)
    filled = op.Expand(pen.constant(rows, f"{name}.initial"), shape)
    return filled if part is None else op.Concat(op.Unsqueeze(part, [0]), filled, axis=2)


def _with_ballast(weights: _Weights, signal: _Signal, hidden: int) -> tuple[Floats, Floats, Floats]:
    """Weights for two more hidden units that nothing drives and that drive nothing: they keep their state."""
    directions, wide = len(weights.w), hidden + BALLAST

    def widen(matrix: Floats, columns: int) -> Floats:
        """(D, G·H, columns) to (D, G·(H + 2), columns), the new rows zero."""
        gates = matrix.reshape(directions, weights.gates, hidden, -1)
        result = np.zeros((directions, weights.gates, wide, columns), np.float32)
        result[:, :, :hidden, : gates.shape[-1]] = gates
        return result.reshape(directions, weights.gates * wide, columns)

    b = np.zeros((directions, 2, weights.gates, wide), np.float32)
    b[..., :hidden] = weights.b.reshape(directions, 2, weights.gates, hidden)
    # Gates i o f c: nothing comes in, all goes out, nothing is forgotten.
    b[:, 0, :3, hidden:] = np.array([-SATURATION, SATURATION, SATURATION])[:, None]
    w = widen(weights.spread(signal), signal.width)
    return w, widen(weights.r, wide), b.reshape(directions, -1)


def _levels(matrix: Floats) -> tuple[NDArray[np.int8], Floats]:
    """(D, G·H, I) to bytes (D, I, G·H), as DynamicQuantizeLSTM wants them, and one scale a row (D, G·H)."""
    highest = np.abs(matrix).max(axis=2)
    scale = np.where(highest > 0, highest / WEIGHT_LEVELS, 1.0).astype(np.float32)
    levels = np.rint(matrix / scale[:, :, None]).astype(np.int8)
    return np.ascontiguousarray(levels.transpose(0, 2, 1)), scale


def _direction(layer: Recurrent) -> str:
    return "bidirectional" if layer.directions == 2 else "forward"


def _encode_words(pen: _Pen, encoder: WordEncoder) -> tuple[_Signal, Any]:
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
        return _Signal(x=pen.lookup(stems, words, "stems"), columns=np.arange(embedding), width=width), lengths
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
    return _Signal(x=x, columns=columns, width=width + spelled.shape[1]), lengths


def _spell(pen: _Pen, encoder: WordEncoder) -> Any:
    """spellings (C, N) to vectors (N, 2·Hc); always in float: words without a row are few."""
    assert encoder.character_embedding is not None
    assert encoder.speller is not None
    op = pen.op
    spellings, lengths = pen.input("spellings", "C", "N"), pen.input("spelling_lengths", "N")
    table = encoder.character_embedding.weight.detach().numpy()
    x = op.Gather(pen.constant(table, "characters"), spellings, axis=0)
    signal = _Signal(x=x, columns=np.arange(table.shape[1]), width=table.shape[1])
    weights = _Weights.of(encoder.speller)
    _, final = _exact(pen, encoder.speller, weights, signal, lengths, "speller", None)
    return op.Reshape(op.Transpose(final[0], perm=[1, 0, 2]), [0, encoder.speller.width])  # (D, N, H) -> (N, D·H)


def _stack(pen: _Pen, network: Tagger | Classifier, signal: _Signal, lengths: Any) -> tuple[_Signal, list[Any]]:
    final: list[Any] = []
    for number, layer in enumerate(network.stack.layers):
        signal, final = _recurrent(pen, layer, signal, lengths, f"layer{number}")
    return signal, final


def _head(network: Tagger | Classifier | LanguageModel) -> tuple[Floats, Floats]:
    return network.head.weight.detach().numpy(), network.head.bias.detach().numpy()


def _draw_tagger(network: Tagger, precision: Precision) -> Drawing:
    pen = _Pen(precision)
    signal, lengths = _encode_words(pen, network.encoder)
    signal, _ = _stack(pen, network, signal, lengths)
    weight, bias = _head(network)
    wide = np.zeros((len(bias), signal.width), np.float32)
    wide[:, signal.columns] = weight
    probabilities = pen.op.Softmax(pen.dense(signal.x, wide, bias, "head"), axis=-1)
    pen.output(probabilities, "probabilities", "T", "B", len(bias))
    return pen.finish()


def _draw_classifier(network: Classifier, precision: Precision) -> Drawing:
    pen = _Pen(precision)
    op = pen.op
    signal, lengths = _encode_words(pen, network.encoder)
    signal, final = _stack(pen, network, signal, lengths)
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
    pen = _Pen(precision)
    characters, lengths = pen.input("characters", "T", "B"), pen.input("lengths", "B")
    table = network.embedding.weight.detach().numpy().copy()
    table[1] = table[2:].mean(axis=0)  # a character that training never saw: none in particular
    reach, width = float(np.abs(table).max()), table.shape[1]
    if precision == "int8":
        table = np.concatenate([table, np.full((len(table), 1), reach), np.full((len(table), 1), -reach)], axis=1)
    x = pen.lookup(table.astype(np.float32), characters, "table")
    signal = _Signal(x=x, columns=np.arange(width), width=table.shape[1])
    after: list[tuple[Any, str, int]] = []
    for number, layer in enumerate(network.stack.layers):
        names = [f"{part}{number}" for part in ("hc" if layer.cell == "lstm" else "h")]
        memory = [pen.state_input(name, layer.hidden) for name in names]
        signal, final = _recurrent(pen, layer, signal, lengths, f"layer{number}", memory)
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
