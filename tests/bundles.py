"""Tiny bundles for the tests: seeded random weights, drawn operator by operator, written by models.bundle.save.

Knows no torch and needs no network. What the weights say makes no sense, and every answer is different.
T steps, B batch, C characters, N spellings, K labels, V vocabulary, D directions, H hidden.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnxscript import GraphBuilder

from models import bundle, reference
from models.bundle import Bundle, vocabulary_text
from models.manifest import (
    CharactersSpec,
    Data,
    Example,
    Limits,
    Manifest,
    Provenance,
    StateTensor,
    Tensor,
    Variant,
    WordsSpec,
)
from models.network import Placement

WORDS = ("the", "cat", "sat", "on", "a", "mat", "Paris", "film", "lovely", ".")
STEMS = ("the", "cat", "paris", "dog")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
CHARACTERS = "\n !,.:ABCDEFGHIJKLMNOPQRSTUVWXYZ" + LETTERS
UPOS = ("NOUN", "VERB", "DET", "PUNCT")
IOB2 = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
SENTIMENTS = ("negative", "neutral", "positive")
CPU = Placement(device="cpu")
HIDDEN, EMBEDDING = 6, 5
GENERATION = {"max_new_tokens": 12, "temperature": 0.0}


def tagger(root: Path, *, name: str = "tiny-tag", labels: Sequence[str] = UPOS, max_length: int = 64) -> Path:
    """A bidirectional tagger over words and spellings; labels IOB2 make it one with a span scheme."""
    pen = _Pen(seed=1)
    x, lengths = pen.words()
    y = pen.lstm(x, lengths, directions=2)[0]  # (T, D, B, H)
    y = pen.op.Reshape(pen.op.Transpose(y, perm=[0, 2, 1, 3]), [0, 0, 2 * HIDDEN])  # (T, B, D·H)
    pen.output(pen.op.Softmax(pen.dense(y, 2 * HIDDEN, len(labels)), axis=-1), "probabilities", "T", "B", len(labels))
    described: dict[str, Any] = {"task": "tag", "labels": tuple(labels), "scheme": "iob2" if "O" in labels else None}
    return _write(root, name, pen, described, ["the cat sat on zebras .", "Paris"], {}, max_length)


def classifier(root: Path, *, name: str = "tiny-classify", max_length: int = 64) -> Path:
    """A classifier: the last state of a bidirectional layer."""
    pen = _Pen(seed=2)
    x, lengths = pen.words()
    last = pen.op.Transpose(pen.lstm(x, lengths, directions=2)[1], perm=[1, 0, 2])  # (B, D, H)
    scores = pen.dense(pen.op.Reshape(last, [0, 2 * HIDDEN]), 2 * HIDDEN, len(SENTIMENTS))
    pen.output(pen.op.Softmax(scores, axis=-1), "probabilities", "B", len(SENTIMENTS))
    described = {"task": "classify", "labels": SENTIMENTS}
    return _write(root, name, pen, described, ["a lovely film", "the film sat"], {}, max_length)


def generator(root: Path, *, name: str = "tiny-generate", max_length: int = 300) -> Path:
    """A character language model with its state in and out."""
    pen = _Pen(seed=3)
    characters, lengths = pen.input("characters", "T", "B"), pen.input("lengths", "B")
    rows = 2 + len(CHARACTERS)
    x = pen.op.Gather(pen.random(rows, EMBEDDING), characters, axis=0)
    memory = [pen.op.Unsqueeze(pen.state_input(part), [0]) for part in "hc"]
    y, *after = pen.lstm(x, lengths, 1, memory)
    logits = pen.dense(pen.op.Squeeze(y, [1]), HIDDEN, rows, never=2)
    pen.output(pen.op.LogSoftmax(logits, axis=-1), "log_probabilities", "T", "B", rows)
    for part, value in zip("hc", after, strict=True):
        pen.named(pen.op.Squeeze(value, [0]), f"{part}_next", "B", HIDDEN)
    return _write(root, name, pen, {"task": "generate"}, ["ROMEO:", "a cat"], GENERATION, max_length)


def opened(path: Path) -> Bundle:
    return bundle.load(path, placement=CPU)


class _Pen:
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

    def input(self, name: str, *shape: str) -> Any:
        self.inputs.append(Tensor(name=name, dtype="int32", shape=shape))
        return self._builder.input(name, ir.DataType.INT32, list(shape))

    def state_input(self, name: str) -> Any:
        self.state.append(StateTensor(input=name, output=f"{name}_next", width=HIDDEN))
        return self._builder.input(name, ir.DataType.FLOAT, ["B", HIDDEN])

    def output(self, value: Any, name: str, *shape: int | str) -> None:
        self.outputs.append(Tensor(name=name, dtype="float32", shape=shape))
        self.named(value, name, *shape)

    def named(self, value: Any, name: str, *shape: int | str) -> None:
        value = self.op.Identity(value)
        value.name, value.shape, value.dtype = name, ir.Shape(shape), ir.DataType.FLOAT
        self._graph.outputs.append(value)

    def words(self) -> tuple[Any, Any]:
        """The feeds of WordsCodec as vectors (T, B, EMBEDDING), and the lengths (B,)."""
        op = self.op
        words, lengths, unseen = (
            self.input("words", "T", "B"),
            self.input("lengths", "B"),
            self.input("unseen", "T", "B"),
        )
        spellings, spelling_lengths = self.input("spellings", "C", "N"), self.input("spelling_lengths", "N")
        letters = op.Gather(self.random(2 + len(LETTERS), EMBEDDING), spellings, axis=0)
        last = op.Squeeze(self.lstm(letters, spelling_lengths, 1)[1], [0])  # (N, H)
        spelled = self.dense(last, HIDDEN, EMBEDDING)
        fresh = op.Concat(self.constant(np.zeros((1, EMBEDDING), np.float32)), spelled, axis=0)  # (1 + N, EMBEDDING)
        known = op.Gather(self.random(2 + len(WORDS) + len(STEMS), EMBEDDING), words, axis=0)
        return op.Add(known, op.Gather(fresh, unseen, axis=0)), lengths

    def lstm(self, x: Any, lengths: Any, directions: int, memory: Sequence[Any] = ()) -> Any:
        w, r = self.random(directions, 4 * HIDDEN, EMBEDDING), self.random(directions, 4 * HIDDEN, HIDDEN)
        b = self.random(directions, 8 * HIDDEN)
        way = "bidirectional" if directions == 2 else "forward"
        return self.op.LSTM(x, w, r, b, lengths, *memory, hidden_size=HIDDEN, direction=way, _outputs=3)

    def dense(self, x: Any, width: int, columns: int, *, never: int = 0) -> Any:
        """x (…, width) to (…, columns), of which the first `never` are as good as impossible."""
        bias = self._numbers.normal(0, 1, columns).astype(np.float32)
        bias[:never] = -100
        return self.op.Add(self.op.MatMul(x, self.random(width, columns)), self.constant(bias))

    def model(self) -> bytes:
        model = ir.to_proto(ir.Model(self._graph, ir_version=10))
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())


def _write(
    root: Path,
    name: str,
    pen: _Pen,
    described: dict[str, Any],
    inputs: Sequence[str],
    parameters: dict[str, Any],
    max_length: int,
) -> Path:
    """Save a bundle with placeholder examples, let the reference path answer them, and save it again."""
    words = described["task"] != "generate"
    files = {"fp32.onnx": pen.model(), "characters.json": vocabulary_text(LETTERS if words else CHARACTERS).encode()}
    if words:
        files |= {"words.json": vocabulary_text(WORDS).encode(), "stems.json": vocabulary_text(STEMS).encode()}
    manifest = Manifest(
        format=1,
        name=name,
        description="A tiny model for the tests.",
        codec=WordsSpec(stems="stems.json", characters="characters.json", max_spelling=8)
        if words
        else CharactersSpec(),
        inputs=tuple(pen.inputs),
        outputs=tuple(pen.outputs),
        state=tuple(pen.state),
        variants={"fp32": Variant(file="fp32.onnx", scores={"accuracy": 50.0})},
        default_variant="fp32",
        files=checksums(files),
        limits=Limits(max_length=max_length),
        metric="accuracy",
        provenance=_PROVENANCE,
        tolerance=1e-4,
        examples=tuple(Example(inputs=text, parameters=parameters, outputs=None) for text in inputs),
        **described,
    )
    path = root / name
    bundle.save(path, manifest, files)
    tiny = opened(path)
    answered = [
        example.model_copy(update={"outputs": reference.answer(tiny, example.inputs, example.parameters)})
        for example in manifest.examples
    ]
    bundle.save(path, manifest.model_copy(update={"examples": tuple(answered)}), files)
    return path


def checksums(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


_PROVENANCE = Provenance(
    recipe="none", command="none", data=Data(name="none"), seed=0, created="2026-01-01", parameters=0
)
