"""Tiny bundles for the tests: seeded random weights, drawn operator by operator, written by models.bundle.save.

Knows no torch and needs no network. What the weights say makes no sense, and every answer is different.
T steps, B batch, K labels, V vocabulary, H hidden.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from models import bundle, self_test
from models.bundle import Bundle, vocabulary_text
from models.codecs.characters import CODES
from models.manifest import (
    FORMAT_VERSION,
    AnySpec,
    CharactersSpec,
    Data,
    DnaSpec,
    Example,
    FramesSpec,
    InputLimits,
    Manifest,
    Provenance,
    SubwordsSpec,
    Variant,
    WordsSpec,
)
from models.onnx_session import Placement
from models.tasks import as_json
from tests.support.graph_builder import HIDDEN, Pen

WORDS = ("the", "cat", "sat", "on", "a", "mat", "Paris", "film", "lovely", ".")
STEMS = ("the", "cat", "paris", "dog")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
CHARACTERS = "\n !,.:ABCDEFGHIJKLMNOPQRSTUVWXYZ" + LETTERS
UPOS = ("NOUN", "VERB", "DET", "PUNCT")
IOB2 = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
SENTIMENTS = ("negative", "neutral", "positive")
SITES = ("donor", "acceptor")
CPU = Placement(device="cpu")
GENERATION = {"max_new_tokens": 12, "temperature": 0.0}
FEATURES, BUCKETS, POSITIONS = 3, 40, 20
FRAMES = [[0.5, -1.0, 2.0], [0.25, 0.0, -0.5], [1.0, 1.0, 1.0]]
SPELLED = WordsSpec(stems="stems.json", characters="characters.json", max_spelling=8)
VOCABULARIES = {"words.json": WORDS, "stems.json": STEMS, "characters.json": LETTERS}
ROWS = 2 + len(WORDS) + len(STEMS)
SENTENCES = ("the cat sat on zebras .", "Paris")


def tagger(
    root: Path, *, name: str = "tiny-tag", labels: Sequence[str] = UPOS, max_length: int = 64, path: bool = False
) -> Path:
    """A bidirectional tagger over words and spellings; labels IOB2 make it one with a span scheme.

    With `path` it has labels of its own, which are not the likeliest ones.
    """
    pen = Pen(seed=1)
    steps, _ = pen.both_ways(*pen.words(ROWS, 2 + len(LETTERS)))
    _tags(pen, steps, labels, path=path)
    described = {"task": "tag", "labels": tuple(labels), "scheme": "iob2" if "O" in labels else None}
    return _write(root, name, pen, SENTENCES, codec=SPELLED, limits=InputLimits(max_length=max_length), **described)


def classifier(root: Path, *, name: str = "tiny-classify", max_length: int = 64) -> Path:
    """A classifier: the last state of a bidirectional layer."""
    pen = Pen(seed=2)
    _, last = pen.both_ways(*pen.words(ROWS, 2 + len(LETTERS)))
    _labels(pen, last, SENTIMENTS)
    described = {"task": "classify", "labels": SENTIMENTS, "limits": InputLimits(max_length=max_length)}
    return _write(root, name, pen, ["a lovely film", "the film sat"], codec=SPELLED, **described)


def generator(root: Path, *, name: str = "tiny-generate", max_length: int = 300) -> Path:
    """A character language model with its state in and out."""
    pen = Pen(seed=3)
    rows = 2 + len(CHARACTERS)
    x, lengths = pen.symbols("characters", rows)
    y, after = pen.forwards(x, lengths)
    logits = pen.dense(y, HIDDEN, rows, never=2)
    pen.output(pen.op.LogSoftmax(logits, axis=-1), "log_probabilities", "T", "B", rows)
    pen.carry(after)
    described = {"task": "generate", "limits": InputLimits(max_length=max_length), "codec": CharactersSpec()}
    return _write(root, name, pen, ["ROMEO:", "a cat"], GENERATION, **described)


def joint(root: Path, *, name: str = "tiny-joint") -> Path:
    """Spans and a label of the whole from one layer, the spans with a path."""
    pen = Pen(seed=4)
    steps, last = pen.both_ways(*pen.words(ROWS, 2 + len(LETTERS)))
    _tags(pen, steps, IOB2, path=True)
    _labels(pen, last, SENTIMENTS, "text_probabilities")
    described = {"task": "joint", "labels": IOB2, "text_labels": SENTIMENTS, "scheme": "iob2"}
    return _write(root, name, pen, SENTENCES, codec=SPELLED, **described)


def subword_tagger(root: Path, *, name: str = "tiny-subwords") -> Path:
    """A tagger whose words without a row are read by their n-grams alone."""
    pen = Pen(seed=5)
    steps, _ = pen.both_ways(*pen.subwords(2 + len(WORDS), BUCKETS))
    _tags(pen, steps, UPOS)
    spec = WordsSpec(lowercase=True, subwords=SubwordsSpec(buckets=BUCKETS, shortest=3, longest=5))
    return _write(root, name, pen, SENTENCES, codec=spec, task="tag", labels=UPOS)


def of_letters(root: Path, task: str, *, name: str | None = None) -> Path:
    """A tagger or classifier of the characters of a text, in lower case."""
    pen = Pen(seed=6)
    _head(pen, task, *pen.symbols("characters", 2 + len(LETTERS)))
    spec = CharactersSpec(lowercase=True)
    return _write(root, name or f"tiny-letters-{task}", pen, ["Rossi", "O'Neill"], codec=spec, **_described(task))


def of_bases(root: Path, task: str, *, name: str | None = None, positions: int = POSITIONS) -> Path:
    """A tagger or classifier of bases, each with a row for its place."""
    pen = Pen(seed=7)
    _head(pen, task, *pen.symbols("bases", 2 + max(1, positions) * len(CODES)))
    spec = DnaSpec(positions=positions)
    return _write(root, name or f"tiny-dna-{task}", pen, ["ACGT", "ggnRu-"], codec=spec, **_described(task))


def of_frames(root: Path, task: str, *, name: str | None = None) -> Path:
    """A tagger or classifier of frames of FEATURES numbers, at most 64 of them."""
    pen = Pen(seed=8)
    _head(pen, task, *pen.frames(FEATURES))
    described = {**_described(task), "limits": InputLimits(max_length=64), "codec": FramesSpec(features=FEATURES)}
    return _write(root, name or f"tiny-frames-{task}", pen, [FRAMES, FRAMES[:1]], **described)


def live_tagger(root: Path, *, name: str = "tiny-live", labels: Sequence[str] = UPOS, max_length: int = 64) -> Path:
    """A tagger of words that reads forwards only, with its state in and out."""
    pen = Pen(seed=9)
    return _live(root, name, pen, pen.words(ROWS, 2 + len(LETTERS)), SENTENCES, SPELLED, labels, max_length)


def live_frames(root: Path, *, name: str = "tiny-live-frames") -> Path:
    """The same for frames of FEATURES numbers."""
    pen = Pen(seed=10)
    return _live(root, name, pen, pen.frames(FEATURES), [FRAMES, FRAMES[:1]], FramesSpec(features=FEATURES), UPOS, 64)


def _live(
    root: Path,
    name: str,
    pen: Pen,
    read: tuple[Any, Any],
    inputs: Sequence[Any],
    codec: AnySpec,
    labels: Sequence[str],
    max_length: int,
) -> Path:
    steps, after = pen.forwards(*read)
    pen.output(pen.probabilities(steps, HIDDEN, len(labels)), "probabilities", "T", "B", len(labels))
    pen.carry(after)
    described = {"task": "tag", "labels": tuple(labels), "scheme": "iob2" if "O" in labels else None}
    return _write(root, name, pen, inputs, codec=codec, limits=InputLimits(max_length=max_length), **described)


def embedder(root: Path, *, name: str = "tiny-embed") -> Path:
    """A classifier that gives the vector which its labels are read from."""
    pen = Pen(seed=11)
    _, last = pen.both_ways(*pen.words(ROWS, 2 + len(LETTERS)))
    _labels(pen, last, SENTIMENTS)
    pen.output(last, "embedding", "B", 2 * HIDDEN)
    described = {"task": "classify", "labels": SENTIMENTS, "limits": InputLimits(max_length=64)}
    return _write(root, name, pen, ["a lovely film", "the film sat"], codec=SPELLED, **described)


def embedding_joint(root: Path, *, name: str = "tiny-embed-joint") -> Path:
    """The same with tags."""
    pen = Pen(seed=12)
    steps, last = pen.both_ways(*pen.words(ROWS, 2 + len(LETTERS)))
    _tags(pen, steps, IOB2)
    _labels(pen, last, SENTIMENTS, "text_probabilities")
    pen.output(last, "embedding", "B", 2 * HIDDEN)
    described = {"task": "joint", "labels": IOB2, "text_labels": SENTIMENTS, "scheme": "iob2"}
    return _write(root, name, pen, SENTENCES, codec=SPELLED, **described)


def of_format_3(root: Path) -> Path:
    """What only format 3 has: taggers that stream, bundles that embed."""
    for make in (live_tagger, live_frames, embedder, embedding_joint):
        make(root)
    return root


def of_every_kind(root: Path) -> Path:
    """A bundle of every kind of input and answer beyond those of format 1, in `root`."""
    tagger(root, name="tiny-path", path=True)
    joint(root)
    subword_tagger(root)
    for task in ("tag", "classify"):
        of_letters(root, task)
        of_bases(root, task)
        of_frames(root, task)
    return root


def opened(path: Path) -> Bundle:
    return bundle.load(path, placement=CPU)


def _described(task: str) -> dict[str, Any]:
    return {"task": task, "labels": UPOS if task == "tag" else SITES}


def _head(pen: Pen, task: str, x: Any, lengths: Any) -> None:
    steps, last = pen.both_ways(x, lengths)
    if task == "tag":
        _tags(pen, steps, UPOS)
    else:
        _labels(pen, last, SITES)


def _tags(pen: Pen, steps: Any, labels: Sequence[str], *, path: bool = False) -> None:
    """Steps (T, B, 2·H) to probabilities, and with `path` to labels that have nothing to do with them."""
    pen.output(pen.probabilities(steps, 2 * HIDDEN, len(labels)), "probabilities", "T", "B", len(labels))
    if path:
        best = pen.op.ArgMax(pen.dense(steps, 2 * HIDDEN, len(labels)), axis=2, keepdims=0)
        pen.output(pen.op.Cast(best, to=ir.DataType.INT32), "path", "T", "B", dtype="int32")


def _labels(pen: Pen, last: Any, labels: Sequence[str], output: str = "probabilities") -> None:
    pen.output(pen.probabilities(last, 2 * HIDDEN, len(labels)), output, "B", len(labels))


def _write(
    root: Path, name: str, pen: Pen, inputs: Sequence[Any], parameters: dict[str, Any] | None = None, **described: Any
) -> Path:
    """Save a bundle with placeholder examples, let the reference path answer them, and save it again."""
    vocabularies = _vocabularies(described["codec"], described["task"])
    files = {file: vocabulary_text(entries).encode() for file, entries in vocabularies.items()}
    files["fp32.onnx"] = pen.model()
    manifest = Manifest(
        format=FORMAT_VERSION,
        name=name,
        description="A tiny model for the tests.",
        inputs=tuple(pen.inputs),
        outputs=tuple(pen.outputs),
        state=tuple(pen.state),
        variants={"fp32": Variant(file="fp32.onnx", scores={"accuracy": 50.0})},
        default_variant="fp32",
        files=checksums(files),
        metric="accuracy",
        provenance=_PROVENANCE,
        tolerance=1e-4,
        examples=tuple(Example(inputs=raw, parameters=parameters or {}, outputs=None) for raw in inputs),
        **described,
    )
    path = root / name
    bundle.save(path, manifest, files)
    tiny = opened(path)
    answered = [
        example.model_copy(update={"outputs": as_json(self_test.answer(tiny, example.inputs, example.parameters))})
        for example in manifest.examples
    ]
    bundle.save(path, manifest.model_copy(update={"examples": tuple(answered)}), files)
    return path


def _vocabularies(spec: AnySpec, task: str) -> dict[str, Sequence[str]]:
    if isinstance(spec, CharactersSpec):
        return {spec.characters: CHARACTERS if task == "generate" else LETTERS}
    if isinstance(spec, WordsSpec):
        return {file: VOCABULARIES[file] for file in (spec.words, spec.stems, spec.characters) if file}
    return {}


def checksums(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


_PROVENANCE = Provenance(
    recipe="none", command="none", data=Data(name="none"), seed=0, created="2026-01-01", parameters=0
)
