"""Small networks, codecs and data for fast tests."""

import itertools
import random
from typing import Any

import numpy as np
import torch

from models import codecs
from models.codecs import Codec
from models.codecs.characters import CharactersCodec, DnaCodec
from models.codecs.frames import FramesCodec
from models.codecs.words import WordsCodec
from models.manifest import CharactersSpec, DnaSpec, FramesSpec, SubwordsSpec, WordsSpec
from training.data.examples import (
    JointExample,
    LabeledExample,
    SeriesExample,
    Source,
    Splits,
    TaggedExample,
    label_names,
)
from training.nn.networks import Network, SequenceNetwork, make_network
from training.objectives import to_tensors
from training.objectives.sequences import SequenceObjective
from training.options import Architecture
from training.recipe import Recipe

ADJECTIVES = {"good": ["lovely", "warm", "funny", "superb"], "bad": ["dull", "messy", "cold", "awful"]}
NOUNS = ["film", "plot", "cast", "ending"]
SMALL = {
    "architecture.hidden": 12,
    "architecture.embedding": 8,
    "architecture.character_embedding": 4,
    "architecture.character_hidden": 5,
    "training.epochs": 2,
    "training.precision": "fp32",
}
TEXT = "".join(f"{number} green bottles hanging on the wall;\n" for number in range(99, 30, -1))


def labeled(count: int, seed: int = 0) -> list[LabeledExample]:
    """Reviews whose label is in their adjectives."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        label = draw.choice(["good", "bad"])
        words = [f"the {draw.choice(NOUNS)} is {draw.choice(ADJECTIVES[label])}" for _ in range(draw.randint(1, 4))]
        rows.append(LabeledExample(text=" and ".join(words), label=label))
    return rows


def tagged(count: int, seed: int = 0) -> list[TaggedExample]:
    """The same reviews, a tag a word."""
    adjectives = set(itertools.chain(*ADJECTIVES.values()))
    sentences = [tuple(str(row.text).split()) for row in labeled(count, seed)]
    return [
        TaggedExample(tokens=s, tags=tuple("ADJ" if w in adjectives else "NOUN" if w in NOUNS else "O" for w in s))
        for s in sentences
    ]


def joint(count: int, seed: int = 0) -> list[JointExample]:
    """The same reviews, a tag a word and the label of the whole."""
    pairs = zip(tagged(count, seed), labeled(count, seed), strict=True)
    return [JointExample(tokens=t.tokens, tags=t.tags, label=row.label) for t, row in pairs]


def dna(count: int, seed: int = 0) -> list[LabeledExample]:
    """Sequences that hold GATC, or not."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        bases = "".join(draw.choices("ACG", k=draw.randint(6, 20)))
        label = draw.choice(["cut", "whole"])
        rows.append(LabeledExample(text=bases[:3] + ("GATC" if label == "cut" else "") + bases[3:], label=label))
    return rows


def framed(count: int, seed: int = 0) -> list[SeriesExample]:
    """Curves that rise or fall, three numbers a frame."""
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        steps, sign = int(draw.integers(3, 15)), int(draw.choice([-1, 1]))
        curve = sign * np.arange(steps)[:, None] * np.array([[1.0, 10.0, 0.1]]) + draw.normal(0, 0.2, (steps, 3))
        frames = tuple(tuple(frame) for frame in curve.tolist())
        rows.append(SeriesExample(frames=frames, label="up" if sign > 0 else "down"))
    return rows


def words_codec(*, characters: bool = True, subwords: bool = False) -> WordsCodec:
    hashed = SubwordsSpec(buckets=64, shortest=3, longest=4) if subwords else None
    spec = WordsSpec(subwords=hashed)
    if characters:
        spec = WordsSpec(stems="stems.json", characters="characters.json", subwords=hashed)
    return WordsCodec.fit(spec, [e.tokens for e in tagged(30)], min_count=2)


def text_codec() -> CharactersCodec:
    return CharactersCodec.fit(CharactersSpec(), [TEXT])


def dna_codec() -> Codec:
    return codecs.build(DnaSpec(positions=30), lambda name: ())


def plain_dna_codec() -> Codec:
    return codecs.build(DnaSpec(), lambda name: ())


def frames_codec() -> Codec:
    return codecs.build(FramesSpec(features=3), lambda name: ())


LABELS = {
    "tag": ("ADJ", "NOUN", "O", "X"),
    "classify": ("a", "b", "c", "d"),
    "joint": ("B-x", "I-x", "O"),
    "generate": (),
}


def network(
    task: str, cell: str = "lstm", *, codec: Any = None, seed: int = 0, merge: Any = None, **shape: Any
) -> Network:
    """Return an untrained network in evaluation mode with weights that saturate some gates."""
    torch.manual_seed(seed)
    small: dict[str, Any] = {
        "cell": cell,
        "hidden": 12,
        "embedding": 8,
        "character_embedding": 4,
        "character_hidden": 5,
    }
    architecture = Architecture(**{**small, "bidirectional": False, **shape})
    made = make_network(
        architecture,
        codec or (text_codec() if task == "generate" else words_codec()),
        task=task,
        labels=LABELS[task],
        text_labels=("good", "bad") if task == "joint" else (),
        merge=merge,
    )
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "crf" not in name and not cell.startswith("rnn"):  # chaos, or no bound at all
                parameter.mul_(1.7)
    return made.eval()


def items(codec: Any, count: int, seed: int = 0) -> list[Any]:
    """Return encoded inputs of different lengths. Some words have no table row and must be spelled."""
    draw = random.Random(seed)
    if isinstance(codec, CharactersCodec):
        return [codec.encode(TEXT[start : start + draw.randint(1, 40)]) for start in range(count)]
    if isinstance(codec, DnaCodec):
        return [codec.encode("".join(draw.choices("ACGTNRY", k=draw.randint(1, 30)))) for _ in range(count)]
    if isinstance(codec, FramesCodec):
        return [
            codec.encode([[draw.gauss(0, 3) for _ in range(3)] for _ in range(draw.randint(1, 30))])
            for _ in range(count)
        ]
    lexicon = [*NOUNS, *ADJECTIVES["bad"], "the", "is", "Film", "PLOT", "unheard", "quux-like", "ñandú", "☃"]
    return [codec.encode([draw.choice(lexicon) for _ in range(draw.randint(1, 30))]) for _ in range(count)]


def cut(codec: Codec, whole: Any, cuts: list[int]) -> list[Any]:
    """Return an encoded input as chunks that start at these steps."""
    raw = whole.rows if isinstance(codec, FramesCodec) else list(whole.tokens)
    places = [0, *cuts, whole.length]
    pieces: list[Any] = [codec.encode(raw[first:last]) for first, last in itertools.pairwise(places)]
    return [piece for piece in pieces if piece.length]


def answers(made: Network, feeds: dict[str, Any]) -> dict[str, Any]:
    """Return PyTorch's answers under the names of the graph's outputs."""
    return {name: part.numpy() for name, part in made.answers(**to_tensors(feeds)).items()}


def columns(output: Any, lengths: Any) -> list[Any]:
    """Return the valid part of each column of (T, B, K) or (T, B), or each row of (B, K)."""
    if output.ndim == 2 and output.dtype.kind == "f":
        return list(output)
    return [output[:length, column] for column, length in enumerate(np.asarray(lengths))]


def recipe(task: str, **changes: Any) -> Recipe:
    """A small recipe without data; `changes` are dotted fields, as in recipe.load, with "__" for the dot."""
    fields: dict[str, Any] = {
        "name": "tiny",
        "task": task,
        "description": "for tests",
        "data": {},
        "codec": {"kind": "characters" if task == "generate" else "words"},
        "architecture": {"hidden": 12, "embedding": 8, "bidirectional": task != "generate", "dropout": 0.1},
        "training": {"epochs": 3, "precision": "fp32", "batch_tokens": 64, "streams": 4, "steps": 16},
    }
    for dotted, value in changes.items():
        part, _, field = dotted.partition("__")
        if field:
            fields[part] = {**fields[part], field: value}
        else:
            fields[part] = value
    return Recipe.model_validate(fields)


def sequence_objective(task: str, train: Any, dev: Any, *, codec: Any = None, **changes: Any) -> SequenceObjective:
    made = recipe(task, **changes)
    codec = codec or words_codec(characters=False)
    labels, text_labels = label_names(task, train)
    untrained = make_network(
        made.architecture, codec, task=task, labels=labels, text_labels=text_labels, merge=made.merge
    )
    assert isinstance(untrained, SequenceNetwork)
    return SequenceObjective(
        made, codec, untrained, Splits(train=train, dev=dev, source=Source(name="tiny", url="", licence=""))
    )
