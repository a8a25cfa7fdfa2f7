"""Networks, codecs and data of a few rows, for tests that must be quick. Knows no test."""

import itertools
import random
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from models.codecs.characters import CharactersCodec
from models.codecs.words import WordsCodec
from models.manifest import CharactersSpec, WordsSpec
from training.batches import tensors
from training.data.examples import Labelled, Tagged
from training.networks import Architecture, Classifier, LanguageModel, Network, Tagger, Words
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


def labelled(count: int, seed: int = 0) -> list[Labelled]:
    """Reviews whose label is in their adjectives."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        label = draw.choice(["good", "bad"])
        words = [f"the {draw.choice(NOUNS)} is {draw.choice(ADJECTIVES[label])}" for _ in range(draw.randint(1, 4))]
        rows.append(Labelled(text=" and ".join(words), label=label))
    return rows


def tagged(count: int, seed: int = 0) -> list[Tagged]:
    """The same reviews, a tag a word."""
    adjectives = set(itertools.chain(*ADJECTIVES.values()))
    sentences = [tuple(str(row.text).split()) for row in labelled(count, seed)]
    return [
        Tagged(tokens=s, tags=tuple("ADJ" if w in adjectives else "NOUN" if w in NOUNS else "O" for w in s))
        for s in sentences
    ]


def words_codec(*, characters: bool = True) -> WordsCodec:
    spec = WordsSpec(stems="stems.json", characters="characters.json") if characters else WordsSpec()
    return WordsCodec.fit(spec, [e.tokens for e in tagged(30)], min_count=2)


def text_codec() -> CharactersCodec:
    return CharactersCodec.fit(CharactersSpec(), [TEXT])


def network(task: str, cell: str = "lstm", *, layers: int = 1, bidirectional: bool = False, seed: int = 0) -> Network:
    """An untrained network in evaluation mode, its weights large enough to saturate some gates."""
    torch.manual_seed(seed)
    shape = Architecture(
        cell=cell,  # type: ignore[arg-type]
        layers=layers,
        hidden=12,
        bidirectional=bidirectional,
        embedding=8,
        character_embedding=4,
        character_hidden=5,
    )
    made: Network
    if task == "generate":
        made = LanguageModel(replace(shape, bidirectional=False), text_codec())
    else:
        made = (Tagger if task == "tag" else Classifier)(shape, Words.of(words_codec()), 4)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1.7)
    return made.eval()


def items(task: str, count: int, seed: int = 0) -> list[Any]:
    """Encoded inputs of many lengths; among the words are some that have no row and must be spelled."""
    draw = random.Random(seed)
    if task == "generate":
        return [text_codec().encode(TEXT[start : start + draw.randint(1, 40)]) for start in range(count)]
    lexicon = [*NOUNS, *ADJECTIVES["bad"], "the", "is", "Film", "PLOT", "unheard", "quux-like", "ñandú", "☃"]
    return [words_codec().encode([draw.choice(lexicon) for _ in range(draw.randint(1, 30))]) for _ in range(count)]


def collate(task: str, batch: list[Any]) -> dict[str, Any]:
    codec: Any = text_codec() if task == "generate" else words_codec()
    feeds: dict[str, Any] = codec.collate(batch)
    return feeds


def probabilities(made: Network, feeds: dict[str, Any]) -> Any:
    """What PyTorch says: probabilities, or a language model's log-probabilities."""
    with torch.no_grad():
        if isinstance(made, LanguageModel):
            return torch.log_softmax(made(**tensors(feeds))[0], -1).numpy()
        return torch.softmax(made(**tensors(feeds)), -1).numpy()


def columns(output: Any, lengths: Any) -> list[Any]:
    """The valid part of each column of (T, B, K), or each row of (B, K)."""
    if output.ndim == 2:
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
