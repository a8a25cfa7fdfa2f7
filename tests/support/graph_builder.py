"""A pen that draws the graphs of the tiny bundles, operator by operator, with seeded random weights.

Knows the feeds of the codecs. Knows no manifest and no files.
T steps, B batch, C characters, N spellings, G n-grams, K labels, F numbers of a frame, D directions, H hidden.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnxscript import GraphBuilder

from models.manifest import StateTensor, Tensor

HIDDEN, EMBEDDING = 6, 5
_TYPES = {"int32": ir.DataType.INT32, "float32": ir.DataType.FLOAT}


class Pen:
    """A graph being drawn, and the tensors that it declares."""

    def __init__(self, seed: int) -> None:
        self._numbers = np.random.default_rng(seed)
        self._graph = ir.Graph([], [], nodes=[], opset_imports={"": 21}, name="tiny")
        self._builder = GraphBuilder(self._graph)
        self.op: Any = self._builder.op
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.state: list[StateTensor] = []

    def random(self, *shape: int) -> Any:
        """A constant of independent weights, large enough for confident and different answers."""
        return self.constant(self._numbers.normal(0, 0.9, shape).astype(np.float32))

    def constant(self, array: Any) -> Any:
        return self._builder.initializer(ir.tensor(array), f"constant{len(self._graph.initializers)}")

    def input(self, name: str, *shape: int | str, dtype: Any = "int32") -> Any:
        self.inputs.append(Tensor(name=name, dtype=dtype, shape=shape))
        return self._builder.input(name, _TYPES[dtype], list(shape))

    def state_input(self, name: str) -> Any:
        self.state.append(StateTensor(input=name, output=f"{name}_next", width=HIDDEN))
        return self._builder.input(name, ir.DataType.FLOAT, ["B", HIDDEN])

    def output(self, value: Any, name: str, *shape: int | str, dtype: Any = "float32") -> None:
        self.outputs.append(Tensor(name=name, dtype=dtype, shape=shape))
        self.named(value, name, *shape, dtype=dtype)

    def named(self, value: Any, name: str, *shape: int | str, dtype: str = "float32") -> None:
        value = self.op.Identity(value)
        value.name, value.shape, value.dtype = name, ir.Shape(shape), _TYPES[dtype]
        self._graph.outputs.append(value)

    def words(self, rows: int, letters: int) -> tuple[Any, Any]:
        """The feeds of WordsCodec with characters as vectors (T, B, EMBEDDING), and the lengths (B,)."""
        words, lengths, unseen = self._words()
        spellings, spelling_lengths = self.input("spellings", "C", "N"), self.input("spelling_lengths", "N")
        x = self.op.Gather(self.random(letters, EMBEDDING), spellings, axis=0)
        last = self.op.Squeeze(self.lstm(x, spelling_lengths, 1)[1], [0])  # (N, H)
        return self._with_fresh(rows, words, unseen, self.dense(last, HIDDEN, EMBEDDING)), lengths

    def subwords(self, rows: int, buckets: int) -> tuple[Any, Any]:
        """The feeds of WordsCodec with n-grams, and without characters: the mean of their vectors."""
        op = self.op
        words, lengths, unseen = self._words()
        subwords, counts = self.input("subwords", "G", "N"), self.input("subword_counts", "N")
        nothing = self.constant(np.zeros((1, EMBEDDING), np.float32))
        table = op.Concat(nothing, self.random(buckets, EMBEDDING), axis=0)
        total = op.ReduceSum(op.Gather(table, subwords, axis=0), [0], keepdims=0)  # (N, EMBEDDING)
        count = op.Unsqueeze(op.Cast(op.Max(counts, self.constant(np.array(1, np.int32))), to=ir.DataType.FLOAT), [1])
        return self._with_fresh(rows, words, unseen, op.Div(total, count)), lengths

    def _words(self) -> tuple[Any, Any, Any]:
        return self.input("words", "T", "B"), self.input("lengths", "B"), self.input("unseen", "T", "B")

    def _with_fresh(self, rows: int, words: Any, unseen: Any, fresh: Any) -> Any:
        """Rows of the table, and beside it what was made of the words that have none, (N, EMBEDDING)."""
        fresh = self.op.Concat(self.constant(np.zeros((1, EMBEDDING), np.float32)), fresh, axis=0)
        known = self.op.Gather(self.random(rows, EMBEDDING), words, axis=0)
        return self.op.Add(known, self.op.Gather(fresh, unseen, axis=0))

    def symbols(self, name: str, rows: int) -> tuple[Any, Any]:
        """The feeds of CharactersCodec or DnaCodec as vectors (T, B, EMBEDDING), and the lengths (B,)."""
        symbols, lengths = self.input(name, "T", "B"), self.input("lengths", "B")
        return self.op.Gather(self.random(rows, EMBEDDING), symbols, axis=0), lengths

    def frames(self, features: int) -> tuple[Any, Any]:
        """The feeds of FramesCodec as vectors (T, B, EMBEDDING), and the lengths (B,)."""
        frames, lengths = self.input("frames", "T", "B", features, dtype="float32"), self.input("lengths", "B")
        return self.dense(frames, features, EMBEDDING), lengths

    def lstm(self, x: Any, lengths: Any, directions: int, memory: Sequence[Any] = ()) -> Any:
        w, r = self.random(directions, 4 * HIDDEN, EMBEDDING), self.random(directions, 4 * HIDDEN, HIDDEN)
        b = self.random(directions, 8 * HIDDEN)
        way = "bidirectional" if directions == 2 else "forward"
        return self.op.LSTM(x, w, r, b, lengths, *memory, hidden_size=HIDDEN, direction=way, _outputs=3)

    def both_ways(self, x: Any, lengths: Any) -> tuple[Any, Any]:
        """A bidirectional layer: every step (T, B, D·H), and the last ones (B, D·H)."""
        y, last, _ = self.lstm(x, lengths, directions=2)
        steps = self.op.Reshape(self.op.Transpose(y, perm=[0, 2, 1, 3]), [0, 0, 2 * HIDDEN])
        return steps, self.op.Reshape(self.op.Transpose(last, perm=[1, 0, 2]), [0, 2 * HIDDEN])

    def forwards(self, x: Any, lengths: Any) -> tuple[Any, list[Any]]:
        """A layer that reads forwards from a state, declared as inputs h and c: every step (T, B, H), and the last
        h and c, for `carry`.
        """
        memory = [self.op.Unsqueeze(self.state_input(part), [0]) for part in "hc"]
        y, *after = self.lstm(x, lengths, 1, memory)
        return self.op.Squeeze(y, [1]), after

    def carry(self, after: Sequence[Any]) -> None:
        """Declare what `forwards` ended at, once all outputs are."""
        for part, value in zip("hc", after, strict=True):
            self.named(self.op.Squeeze(value, [0]), f"{part}_next", "B", HIDDEN)

    def probabilities(self, x: Any, width: int, labels: int) -> Any:
        """(…, width) to probabilities (…, labels)."""
        return self.op.Softmax(self.dense(x, width, labels), axis=-1)

    def dense(self, x: Any, width: int, columns: int, *, never: int = 0) -> Any:
        """x (…, width) to (…, columns), of which the first `never` are as good as impossible."""
        bias = self._numbers.normal(0, 1, columns).astype(np.float32)
        bias[:never] = -100
        return self.op.Add(self.op.MatMul(x, self.random(width, columns)), self.constant(bias))

    def model(self) -> bytes:
        model = ir.to_proto(ir.Model(self._graph, ir_version=10))
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())
