"""Builds the graphs of the tiny bundles operator by operator, with seeded random weights.

T steps, B batch, C characters, N spellings, G n-grams, K labels, F numbers of a frame, D directions, H hidden.
S steps of the longest source, M sources.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnxscript import GraphBuilder

from models.manifest import MemoryTensor, StateTensor, Tensor

HIDDEN, EMBEDDING = 6, 5
CANDIDATES = 16  # best pieces of a step
_TYPES = {"int32": ir.DataType.INT32, "float32": ir.DataType.FLOAT}


class TinyGraph:
    """A graph under construction, and the tensors that it declares."""

    def __init__(self, seed: int) -> None:
        self._numbers = np.random.default_rng(seed)
        self._graph = ir.Graph([], [], nodes=[], opset_imports={"": 21}, name="tiny")
        self._builder = GraphBuilder(self._graph)
        self.op: Any = self._builder.op
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.state: list[StateTensor] = []
        self.memory: list[MemoryTensor] = []

    def random(self, *shape: int) -> Any:
        """Return a constant of independent weights, large enough for confident and different answers."""
        return self.constant(self._numbers.normal(0, 0.9, shape).astype(np.float32))

    def constant(self, array: Any) -> Any:
        return self._builder.initializer(ir.tensor(array), f"constant{len(self._graph.initializers)}")

    def input(self, name: str, *shape: int | str, dtype: Any = "int32") -> Any:
        self.inputs.append(Tensor(name=name, dtype=dtype, shape=shape))
        return self._builder.input(name, _TYPES[dtype], list(shape))

    def state_input(self, name: str) -> Any:
        self.state.append(StateTensor(input=name, output=f"{name}_next", width=HIDDEN))
        return self._builder.input(name, ir.DataType.FLOAT, ["B", HIDDEN])

    def memory_input(self, name: str, width: int) -> Any:
        self.memory.append(MemoryTensor(name=name, width=width))
        return self._builder.input(name, ir.DataType.FLOAT, ["S", "M", width])

    def output(self, value: Any, name: str, *shape: int | str, dtype: Any = "float32") -> None:
        self.outputs.append(Tensor(name=name, dtype=dtype, shape=shape))
        self.declare_output(value, name, *shape, dtype=dtype)

    def declare_output(self, value: Any, name: str, *shape: int | str, dtype: str = "float32") -> None:
        value = self.op.Identity(value)
        value.name, value.shape, value.dtype = name, ir.Shape(shape), _TYPES[dtype]
        self._graph.outputs.append(value)

    def words(self, rows: int, letters: int, *, buckets: int = 0) -> tuple[Any, Any]:
        """Return the vectors (T, B, EMBEDDING) of a WordsCodec with characters, and the lengths (B,).

        With `buckets`, the n-grams of a word add to its vector.
        """
        words, lengths, unseen = self._words()
        spellings, spelling_lengths = self.input("spellings", "C", "N"), self.input("spelling_lengths", "N")
        x = self.op.Gather(self.random(letters, EMBEDDING), spellings, axis=0)
        last = self.op.Squeeze(self.lstm(x, spelling_lengths, 1)[1], [0])  # (N, H)
        oov = self.dense(last, HIDDEN, EMBEDDING)
        if buckets:
            oov = self.op.Add(oov, self._mean_of_ngrams(buckets))
        return self._add_oov(rows, words, unseen, oov), lengths

    def subwords(self, rows: int, buckets: int) -> tuple[Any, Any]:
        """Return the vectors of a WordsCodec with n-grams: the mean over the n-grams of a word."""
        words, lengths, unseen = self._words()
        return self._add_oov(rows, words, unseen, self._mean_of_ngrams(buckets)), lengths

    def _mean_of_ngrams(self, buckets: int) -> Any:
        """Return the mean (N, EMBEDDING) over the n-grams of each OOV word."""
        op = self.op
        subwords, counts = self.input("subwords", "G", "N"), self.input("subword_counts", "N")
        padding = self.constant(np.zeros((1, EMBEDDING), np.float32))
        table = op.Concat(padding, self.random(buckets, EMBEDDING), axis=0)
        total = op.ReduceSum(op.Gather(table, subwords, axis=0), [0], keepdims=0)
        count = op.Unsqueeze(op.Cast(op.Max(counts, self.constant(np.array(1, np.int32))), to=ir.DataType.FLOAT), [1])
        return op.Div(total, count)

    def _words(self) -> tuple[Any, Any, Any]:
        return self.input("words", "T", "B"), self.input("lengths", "B"), self.input("unseen", "T", "B")

    def _add_oov(self, rows: int, words: Any, unseen: Any, oov: Any) -> Any:
        """Add the vectors of OOV words (N, EMBEDDING) to the rows of the table."""
        oov = self.op.Concat(self.constant(np.zeros((1, EMBEDDING), np.float32)), oov, axis=0)
        known = self.op.Gather(self.random(rows, EMBEDDING), words, axis=0)
        return self.op.Add(known, self.op.Gather(oov, unseen, axis=0))

    def symbols(self, name: str, rows: int) -> tuple[Any, Any]:
        """Return the vectors (T, B, EMBEDDING) of a CharactersCodec or DnaCodec, and the lengths (B,)."""
        symbols, lengths = self.input(name, "T", "B"), self.input("lengths", "B")
        return self.op.Gather(self.random(rows, EMBEDDING), symbols, axis=0), lengths

    def frames(self, features: int) -> tuple[Any, Any]:
        """Return the vectors (T, B, EMBEDDING) of a FramesCodec, and the lengths (B,)."""
        frames, lengths = self.input("frames", "T", "B", features, dtype="float32"), self.input("lengths", "B")
        return self.dense(frames, features, EMBEDDING), lengths

    def series(self, segment: int) -> tuple[Any, Any]:
        """Return the vectors (T, B, EMBEDDING) of a SeriesCodec, and the lengths (B,)."""
        segments, lengths = self.input("segments", "T", "B", 2 * segment, dtype="float32"), self.input("lengths", "B")
        return self.dense(segments, 2 * segment, EMBEDDING), lengths

    def lstm(self, x: Any, lengths: Any, directions: int, state: Sequence[Any] = ()) -> Any:
        w, r = self.random(directions, 4 * HIDDEN, EMBEDDING), self.random(directions, 4 * HIDDEN, HIDDEN)
        b = self.random(directions, 8 * HIDDEN)
        direction_name = "bidirectional" if directions == 2 else "forward"
        return self.op.LSTM(x, w, r, b, lengths, *state, hidden_size=HIDDEN, direction=direction_name, _outputs=3)

    def bidirectional(self, x: Any, lengths: Any) -> tuple[Any, Any]:
        """Add a bidirectional layer. Returns every step (T, B, D·H) and the last steps (B, D·H)."""
        y, last, _ = self.lstm(x, lengths, directions=2)
        steps = self.op.Reshape(self.op.Transpose(y, perm=[0, 2, 1, 3]), [0, 0, 2 * HIDDEN])
        return steps, self.op.Reshape(self.op.Transpose(last, perm=[1, 0, 2]), [0, 2 * HIDDEN])

    def around(self, y: Any, lengths: Any, steps: Any, inputs: Any) -> Any:
        """Return the forward state before each step and the backward state after it (P, 2·H); zeros at the ends."""
        op = self.op
        padded = op.Pad(y, self.constant(np.array([1, 0, 0, 1, 0, 0])))  # (T + 2, B, 2·H)
        before, column = (op.Unsqueeze(op.Cast(each, to=ir.DataType.INT64), [1]) for each in (steps, inputs))
        two = self.constant(np.array(2))
        left, right = (op.GatherND(padded, op.Concat(step, column, axis=1)) for step in (before, op.Add(before, two)))
        one, zero = self.constant(np.array(1, np.int32)), self.constant(np.array(0, np.float32))
        follows = op.Unsqueeze(op.Less(op.Add(steps, one), op.Gather(lengths, inputs, axis=0)), [1])
        right = op.Where(follows, right, zero)
        return op.Concat(op.Slice(left, [0], [HIDDEN], [1]), op.Slice(right, [HIDDEN], [2 * HIDDEN], [1]), axis=1)

    def forward_from_state(self, x: Any, lengths: Any) -> tuple[Any, list[Any]]:
        """Add a layer that starts from the state inputs h and c.

        Returns every step (T, B, H), and the last h and c, for `declare_state_outputs`.
        """
        state = [self.op.Unsqueeze(self.state_input(part), [0]) for part in "hc"]
        y, *after = self.lstm(x, lengths, 1, state)
        return self.op.Squeeze(y, [1]), after

    def declare_state_outputs(self, after: Sequence[Any]) -> None:
        """Declare the state outputs, after all other outputs."""
        for part, value in zip("hc", after, strict=True):
            self.declare_output(self.op.Squeeze(value, [0]), f"{part}_next", "B", HIDDEN)

    def read_source(self, x: Any, lengths: Any) -> None:
        """Declare the outputs of a reader: the first state h (M, H), keys (S, M, H) and values (S, M, 2·H)."""
        steps, last = self.bidirectional(x, lengths)
        self.output(self.op.Tanh(self.dense(last, 2 * HIDDEN, HIDDEN)), "h_next", "M", HIDDEN)
        self.output(self.dense(steps, 2 * HIDDEN, HIDDEN), "keys", "S", "M", HIDDEN)
        self.output(steps, "values", "S", "M", 2 * HIDDEN)

    def write_step(self, rows: int, bias: Any) -> None:
        """Declare the inputs and outputs of a step that writes a piece after the newest ones (B,).

        `bias` (rows,) is that of the scores.
        """
        op = self.op
        pieces, h = self.input("pieces", "B"), self.state_input("h")
        keys, values = self.memory_input("keys", HIDDEN), self.memory_input("values", 2 * HIDDEN)
        lengths, owners = self.input("memory_lengths", "M"), self.input("owners", "B")
        x = op.Gather(self.random(rows, EMBEDDING), pieces, axis=0)
        h = op.Tanh(self.dense(op.Concat(x, h, axis=1), EMBEDDING + HIDDEN, HIDDEN))
        scores = op.ReduceSum(op.Mul(op.Gather(keys, owners, axis=1), h), self.constant(np.array([2])), keepdims=1)
        count = op.Squeeze(op.Shape(keys, start=0, end=1))
        steps = op.Cast(op.Range(op.Sub(count, count), count, op.Div(count, count)), to=ir.DataType.INT32)
        valid = op.Less(
            op.Unsqueeze(steps, self.constant(np.array([1, 2]))),
            op.Unsqueeze(op.Gather(lengths, owners, axis=0), self.constant(np.array([0, 2]))),
        )
        scores = op.Where(valid, scores, self.constant(np.float32(-1e9)))
        weights = op.Exp(op.Sub(scores, op.ReduceMax(scores, self.constant(np.array([0])), keepdims=1)))  # (S, B, 1)
        found = op.Concat(op.Mul(op.Gather(values, owners, axis=1), weights), weights, axis=2)
        sums = op.ReduceSum(found, self.constant(np.array([0])), keepdims=0)
        context, total = op.Split(sums, self.constant(np.array([2 * HIDDEN, 1])), axis=1, _outputs=2)
        h = op.Tanh(self.dense(op.Concat(h, op.Div(context, total), axis=1), 3 * HIDDEN, HIDDEN))
        logits = op.Add(op.MatMul(h, self.random(HIDDEN, rows)), self.constant(bias))
        log_probabilities = op.LogSoftmax(logits, axis=-1)
        best, best_rows = op.TopK(log_probabilities, self.constant(np.array([CANDIDATES])), axis=-1, _outputs=2)
        self.output(log_probabilities, "log_probabilities", "B", rows)
        self.output(best, "best_scores", "B", CANDIDATES)
        self.output(op.Cast(best_rows, to=ir.DataType.INT32), "best_pieces", "B", CANDIDATES, dtype="int32")
        shares = op.Div(
            op.Squeeze(weights, self.constant(np.array([2]))), op.Squeeze(total, self.constant(np.array([1])))
        )
        self.output(op.Transpose(shares, perm=[1, 0]), "attention", "B", "S")
        self.declare_output(h, "h_next", "B", HIDDEN)

    def probabilities(self, x: Any, width: int, labels: int) -> Any:
        """Map (…, width) to probabilities (…, labels)."""
        return self.op.Softmax(self.dense(x, width, labels), axis=-1)

    def dense(self, x: Any, width: int, columns: int, *, never: int = 0) -> Any:
        """Map x (…, width) to (…, columns). The first `never` columns get a bias that makes them impossible."""
        bias = self._numbers.normal(0, 1, columns).astype(np.float32)
        bias[:never] = -100
        return self.op.Add(self.op.MatMul(x, self.random(width, columns)), self.constant(bias))

    def model(self) -> bytes:
        model = ir.to_proto(ir.Model(self._graph, ir_version=10))
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())
