"""Tiny bundles for the tests, with seeded random weights. They need no torch and no download.

T steps, B batch, K labels, V vocabulary, H hidden.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from models import bundle, self_test
from models.bundle import Bundle, vocabulary_text
from models.codecs.characters import CODES
from models.codecs.pieces import END, FIRST_BYTE, FIRST_PIECE, SPACE, fixed_pieces
from models.languages import profile
from models.manifest import (
    FORMAT_VERSION,
    AnySpec,
    CharactersSpec,
    Data,
    DnaSpec,
    Example,
    ForecastSpec,
    FramesSpec,
    ImageSpec,
    InputLimits,
    LanguagePair,
    Manifest,
    PiecesSpec,
    Provenance,
    SeriesSpec,
    SubwordsSpec,
    TranslationSpec,
    Variant,
    WordsSpec,
)
from models.onnx_session import Placement
from models.tasks import as_json
from tests.support.graph_builder import EMBEDDING, HIDDEN, TinyGraph
from tests.support.pictures import encoded, picture_file
from training.onnx_export.speller import split_bundle

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
SERIES = [3.0, 4.0, None, 6.0, 5.0, 4.5, 7.0]
FRAMES = [[0.5, -1.0, 2.0], [0.25, 0.0, -0.5], [1.0, 1.0, 1.0]]
SPELLED = WordsSpec(stems="stems.json", characters="characters.json", max_spelling=8)
MERGES = ("▁ a", "c a", "ca t", "▁ cat", "s a", "sa t", "▁ sat", "▁ P", "a r", "▁P ar", "i s", "▁Par is")
PIECES = (*fixed_pieces(), SPACE, *LETTERS, "P", ".", *(merge.replace(" ", "") for merge in MERGES), "<2de>", "<2fr>")
ENGLISH_GERMAN = LanguagePair(source="en", target="de")
PROFILES = {
    "en": profile(["A cat sat on the mat, and the dog is in the house with her.", "Where are they? I love this."]),
    "de": profile(["Eine Katze sitzt auf der Matte, und der Hund ist im Haus bei ihr.", "Wo sind sie? Ich liebe das."]),
}
VOCABULARIES = {"words.json": WORDS, "stems.json": STEMS, "characters.json": LETTERS}
ROWS = 2 + len(WORDS) + len(STEMS)
SENTENCES = ("the cat sat on zebras .", "Paris")


def tagger(
    root: Path,
    *,
    name: str = "tiny-tag",
    labels: Sequence[str] = UPOS,
    max_length: int = 64,
    path: bool = False,
    seed: int = 1,
) -> Path:
    """Write a bidirectional tagger over words and spellings. Labels IOB2 give it a span scheme.

    With `path` its labels are not the most likely ones.
    """
    graph = TinyGraph(seed=seed)
    steps, _ = graph.bidirectional(*graph.words(ROWS, 2 + len(LETTERS)))
    _tags(graph, steps, labels, path=path)
    described = {"task": "tag", "labels": tuple(labels), "scheme": "iob2" if "O" in labels else None}
    return _write(root, name, graph, SENTENCES, codec=SPELLED, limits=InputLimits(max_length=max_length), **described)


def classifier(root: Path, *, name: str = "tiny-classify", max_length: int = 64) -> Path:
    """Write a classifier on the last state of a bidirectional layer."""
    graph = TinyGraph(seed=2)
    _, last = graph.bidirectional(*graph.words(ROWS, 2 + len(LETTERS)))
    _labels(graph, last, SENTIMENTS)
    described = {"task": "classify", "labels": SENTIMENTS, "limits": InputLimits(max_length=max_length)}
    return _write(root, name, graph, ["a lovely film", "the film sat"], codec=SPELLED, **described)


def generator(root: Path, *, name: str = "tiny-generate", max_length: int = 300, seed: int = 3) -> Path:
    """Write a character language model."""
    graph = TinyGraph(seed=seed)
    rows = 2 + len(CHARACTERS)
    x, lengths = graph.symbols("characters", rows)
    y, after = graph.forward_from_state(x, lengths)
    logits = graph.dense(y, HIDDEN, rows, never=2)
    graph.output(graph.op.LogSoftmax(logits, axis=-1), "log_probabilities", "T", "B", rows)
    graph.declare_state_outputs(after)
    described = {"task": "generate", "limits": InputLimits(max_length=max_length), "codec": CharactersSpec()}
    return _write(root, name, graph, ["ROMEO:", "a cat"], GENERATION, **described)


def joint(root: Path, *, name: str = "tiny-joint") -> Path:
    """Write a joint bundle whose tags have a path."""
    graph = TinyGraph(seed=4)
    steps, last = graph.bidirectional(*graph.words(ROWS, 2 + len(LETTERS)))
    _tags(graph, steps, IOB2, path=True)
    _labels(graph, last, SENTIMENTS, "text_probabilities")
    described = {"task": "joint", "labels": IOB2, "text_labels": SENTIMENTS, "scheme": "iob2"}
    return _write(root, name, graph, SENTENCES, codec=SPELLED, **described)


def subword_tagger(root: Path, *, name: str = "tiny-subwords", spelled: bool = False) -> Path:
    """Write a tagger that reads OOV words by their n-grams, and with `spelled` by their characters too."""
    graph = TinyGraph(seed=5)
    rows = 2 + len(WORDS)
    words = graph.words(rows, 2 + len(LETTERS), buckets=BUCKETS) if spelled else graph.subwords(rows, BUCKETS)
    steps, _ = graph.bidirectional(*words)
    _tags(graph, steps, UPOS)
    spec = WordsSpec(
        lowercase=True,
        subwords=SubwordsSpec(buckets=BUCKETS, shortest=3, longest=5),
        characters="characters.json" if spelled else None,
    )
    return _write(root, name, graph, SENTENCES, codec=spec, task="tag", labels=UPOS)


def of_letters(root: Path, task: str, *, name: str | None = None) -> Path:
    """Write a tagger or classifier of lower-case characters."""
    graph = TinyGraph(seed=6)
    _head(graph, task, *graph.symbols("characters", 2 + len(LETTERS)))
    spec = CharactersSpec(lowercase=True)
    return _write(root, name or f"tiny-letters-{task}", graph, ["Rossi", "O'Neill"], codec=spec, **_described(task))


def of_bases(root: Path, task: str, *, name: str | None = None, positions: int = POSITIONS) -> Path:
    """Write a tagger or classifier of bases with rows for each position."""
    graph = TinyGraph(seed=7)
    _head(graph, task, *graph.symbols("bases", 2 + max(1, positions) * len(CODES)))
    spec = DnaSpec(positions=positions)
    return _write(root, name or f"tiny-dna-{task}", graph, ["ACGT", "ggnRu-"], codec=spec, **_described(task))


def of_frames(root: Path, task: str, *, name: str | None = None) -> Path:
    """Write a tagger or classifier of at most 64 frames of FEATURES numbers."""
    graph = TinyGraph(seed=8)
    _head(graph, task, *graph.frames(FEATURES))
    described = {**_described(task), "limits": InputLimits(max_length=64), "codec": FramesSpec(features=FEATURES)}
    return _write(root, name or f"tiny-frames-{task}", graph, [FRAMES, FRAMES[:1]], **described)


def live_tagger(
    root: Path, *, name: str = "tiny-live", labels: Sequence[str] = UPOS, max_length: int = 64, seed: int = 9
) -> Path:
    """Write a tagger of words with a state."""
    graph = TinyGraph(seed=seed)
    return _live(root, name, graph, graph.words(ROWS, 2 + len(LETTERS)), SENTENCES, SPELLED, labels, max_length)


def live_frames(root: Path, *, name: str = "tiny-live-frames", delay: int = 0) -> Path:
    """Write a tagger of frames with a state. Its graph does not depend on the delay."""
    graph = TinyGraph(seed=10)
    codec = FramesSpec(features=FEATURES, delay=delay, frame_rate=25 if delay else None)
    return _live(root, name, graph, graph.frames(FEATURES), [FRAMES, FRAMES[:1]], codec, UPOS, 64)


def live_delayed(root: Path) -> Path:
    """Write a tagger of 25 frames per second that labels a frame 3 frames later."""
    return live_frames(root, name="tiny-live-delayed", delay=3)


def _live(
    root: Path,
    name: str,
    graph: TinyGraph,
    read: tuple[Any, Any],
    inputs: Sequence[Any],
    codec: AnySpec,
    labels: Sequence[str],
    max_length: int,
) -> Path:
    steps, after = graph.forward_from_state(*read)
    graph.output(graph.probabilities(steps, HIDDEN, len(labels)), "probabilities", "T", "B", len(labels))
    graph.declare_state_outputs(after)
    described = {"task": "tag", "labels": tuple(labels), "scheme": "iob2" if "O" in labels else None}
    return _write(root, name, graph, inputs, codec=codec, limits=InputLimits(max_length=max_length), **described)


def embedder(root: Path, *, name: str = "tiny-embed") -> Path:
    """Write a classifier with an embedding."""
    graph = TinyGraph(seed=11)
    _, last = graph.bidirectional(*graph.words(ROWS, 2 + len(LETTERS)))
    _labels(graph, last, SENTIMENTS)
    graph.output(last, "embedding", "B", 2 * HIDDEN)
    described = {"task": "classify", "labels": SENTIMENTS, "limits": InputLimits(max_length=64)}
    return _write(root, name, graph, ["a lovely film", "the film sat"], codec=SPELLED, **described)


def embedding_joint(root: Path, *, name: str = "tiny-embed-joint") -> Path:
    """Write a joint bundle with an embedding."""
    graph = TinyGraph(seed=12)
    steps, last = graph.bidirectional(*graph.words(ROWS, 2 + len(LETTERS)))
    _tags(graph, steps, IOB2)
    _labels(graph, last, SENTIMENTS, "text_probabilities")
    graph.output(last, "embedding", "B", 2 * HIDDEN)
    described = {"task": "joint", "labels": IOB2, "text_labels": SENTIMENTS, "scheme": "iob2"}
    return _write(root, name, graph, SENTENCES, codec=SPELLED, **described)


def with_speller(path: Path) -> Path:
    """Split the graph of a bundle whose words have characters: its OOV words get a speller."""
    split_bundle(path)
    return path


def forecaster(root: Path, *, name: str = "tiny-forecast") -> Path:
    """Write a forecaster of 8 values, from at most 5 segments of 4 values."""
    graph = TinyGraph(seed=13)
    spec = ForecastSpec(horizon=8, quantile_levels=(0.1, 0.5, 0.9), frequency="h")
    codec = SeriesSpec(segment=4, longest=20)
    _, last = graph.bidirectional(*graph.series(codec.segment))
    levels = len(spec.quantile_levels)
    quantiles = graph.op.Reshape(
        graph.dense(last, 2 * HIDDEN, spec.horizon * levels), graph.constant(np.array([-1, spec.horizon, levels]))
    )
    graph.output(graph.dense(last, 2 * HIDDEN, spec.horizon), "mean", "B", spec.horizon)
    graph.output(quantiles, "quantiles", "B", spec.horizon, levels)
    return _write(
        root,
        name,
        graph,
        [SERIES, SERIES[:5]],
        {"prediction_length": 3},
        task="forecast",
        forecast=spec,
        codec=codec,
        limits=InputLimits(max_length=64),
    )


def translator(
    root: Path, *, name: str = "tiny-translate", max_length: int = 64, pairs: Sequence[LanguagePair] = (ENGLISH_GERMAN,)
) -> Path:
    """Write a translator that writes letters and a few words, not bytes, and that ends after some of them."""
    reader = TinyGraph(seed=14)
    rows, lengths = reader.input("source", "S", "M"), reader.input("lengths", "M")
    reader.read_source(reader.op.Gather(reader.random(len(PIECES), EMBEDDING), rows, axis=0), lengths)
    described = {
        "task": "translate",
        "translation": TranslationSpec(pairs=tuple(pairs), profiles=PROFILES),
        "source": PiecesSpec(),
    }
    described["limits"] = InputLimits(max_length=max_length)
    languages = {"src_lang": pairs[0].source, "tgt_lang": pairs[0].target} if len(pairs) > 1 else {}
    return _writer(root, name, reader, ["a cat sat", "Paris"], languages, **described)


def captioner(root: Path, *, name: str = "tiny-caption") -> Path:
    """Write a captioner of at most 16 vectors of FEATURES numbers."""
    reader = TinyGraph(seed=16)
    frames = reader.input("source", "S", "M", FEATURES, dtype="float32")
    reader.read_source(reader.dense(frames, FEATURES, EMBEDDING), reader.input("lengths", "M"))
    described = {"task": "caption", "source": FramesSpec(features=FEATURES), "limits": InputLimits(max_length=16)}
    return _writer(root, name, reader, [FRAMES, FRAMES[:1]], {}, **described)


def picture_captioner(root: Path, *, name: str = "tiny-picture") -> Path:
    """Write a captioner of pictures of 16 x 16 pixels."""
    spec, reader = ImageSpec(size=16, patch=4), TinyGraph(seed=17)
    patches = reader.input("source", "S", "M", spec.features, dtype="float32")
    scaled = reader.op.Div(patches, 255.0)
    reader.read_source(reader.dense(scaled, spec.features, EMBEDDING), reader.input("lengths", "M"))
    described = {"task": "caption", "source": spec, "limits": InputLimits(max_length=spec.grid**2)}
    pictures = [encoded(picture_file(seed)) for seed in range(2)]
    return _writer(root, name, reader, pictures, {}, **described)


def _writer(
    root: Path, name: str, reader: TinyGraph, inputs: Sequence[Any], parameters: Mapping[str, Any], **described: Any
) -> Path:
    graph = TinyGraph(seed=15)
    bias = np.zeros(len(PIECES), np.float32)
    bias[FIRST_BYTE:FIRST_PIECE] = -20
    bias[END] = 1
    graph.write_step(len(PIECES), bias)
    files = {"reader.onnx": reader.model()}
    parameters = {"max_new_tokens": 12, **parameters}
    return _write(root, name, graph, inputs, parameters, files=files, codec=PiecesSpec(), **described)


def filler(root: Path, *, name: str = "tiny-fill", best: int = 6, max_length: int = 64) -> Path:
    """Write a filler of lower-case WORDS, which answers at most `best` words for a gap."""
    graph = TinyGraph(seed=14)
    rows = 2 + len(WORDS)
    x, lengths = graph.symbols("words", rows)
    steps, inputs, targets = (
        graph.input("gap_steps", "P"),
        graph.input("gap_inputs", "P"),
        graph.input("targets", "P", "X"),
    )
    y, _ = graph.bidirectional(x, lengths)
    logits = graph.dense(graph.around(y, lengths, steps, inputs), 2 * HIDDEN, rows, never=2)
    probabilities = graph.op.Softmax(logits, axis=-1)
    scores, words = graph.op.TopK(probabilities, [best], axis=-1, _outputs=2)
    graph.output(scores, "best_scores", "P", best)
    graph.output(graph.op.Cast(words, to=ir.DataType.INT32), "best_words", "P", best, dtype="int32")
    graph.output(graph.op.GatherElements(probabilities, targets, axis=1), "target_scores", "P", "X")
    described = {"task": "fill", "limits": InputLimits(max_length=max_length), "codec": WordsSpec(lowercase=True)}
    return _write(root, name, graph, ["the [MASK] sat on a <mask> .", "A [MASK] film"], **described)


def of_format_3(root: Path) -> Path:
    """Write the bundles that only format 3 has: taggers with a state, with a speller for words, and embeddings.

    One of the taggers has a delay, as in format 4.
    """
    for make in (live_tagger, live_frames, live_delayed, embedder, embedding_joint):
        make(root)
    with_speller(root / "tiny-live")
    return root


def of_every_kind(root: Path) -> Path:
    """Write a bundle of every kind of input and answer that format 1 does not have, and one with a speller."""
    tagger(root, name="tiny-path", path=True)
    with_speller(tagger(root, name="tiny-speller"))
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


def _head(graph: TinyGraph, task: str, x: Any, lengths: Any) -> None:
    steps, last = graph.bidirectional(x, lengths)
    if task == "tag":
        _tags(graph, steps, UPOS)
    else:
        _labels(graph, last, SITES)


def _tags(graph: TinyGraph, steps: Any, labels: Sequence[str], *, path: bool = False) -> None:
    """Declare probabilities of steps (T, B, 2·H), and with `path` unrelated labels."""
    graph.output(graph.probabilities(steps, 2 * HIDDEN, len(labels)), "probabilities", "T", "B", len(labels))
    if path:
        best = graph.op.ArgMax(graph.dense(steps, 2 * HIDDEN, len(labels)), axis=2, keepdims=0)
        graph.output(graph.op.Cast(best, to=ir.DataType.INT32), "path", "T", "B", dtype="int32")


def _labels(graph: TinyGraph, last: Any, labels: Sequence[str], output: str = "probabilities") -> None:
    graph.output(graph.probabilities(last, 2 * HIDDEN, len(labels)), output, "B", len(labels))


def _write(
    root: Path,
    name: str,
    graph: TinyGraph,
    inputs: Sequence[Any],
    parameters: dict[str, Any] | None = None,
    *,
    files: Mapping[str, bytes] | None = None,
    **described: Any,
) -> Path:
    """Save a bundle without answers, answer its examples, and save it again. `files` can have a reader."""
    vocabularies = _vocabularies(described["codec"], described["task"])
    files = {**(files or {}), **{file: vocabulary_text(entries).encode() for file, entries in vocabularies.items()}}
    files["fp32.onnx"] = graph.model()
    manifest = Manifest(
        format=FORMAT_VERSION,
        name=name,
        description="A tiny model for the tests.",
        inputs=tuple(graph.inputs),
        outputs=tuple(graph.outputs),
        state=tuple(graph.state),
        memory=tuple(graph.memory),
        variants={
            "fp32": Variant(
                file="fp32.onnx",
                reader="reader.onnx" if "reader.onnx" in files else None,
                scores={"accuracy": 50.0},
            )
        },
        default_variant="fp32",
        files=bundle.digests(files),
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
        found = {file: VOCABULARIES[file] for file in (spec.words, spec.stems, spec.characters) if file}
        return {file: list(map(str.lower, entries)) if spec.lowercase else entries for file, entries in found.items()}
    if isinstance(spec, PiecesSpec):
        return {spec.pieces: PIECES, spec.merges: MERGES}
    return {}


_PROVENANCE = Provenance(
    recipe="none", command="none", data=Data(name="none"), seed=0, created="2026-01-01", parameters=0
)
