"""A run folder: from a recipe to data, codec, network and weights, and back from the folder to all of them.

Knows files and the order of things. Leaves optimisation to loop.py and the graph to export.py.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models import codecs
from models.bundle import vocabulary, vocabulary_text
from models.codecs.characters import CharactersCodec
from models.codecs.words import WordsCodec
from models.manifest import CharactersSpec
from training import data, loop
from training.data import own
from training.data.examples import Labelled, Source, Splits, Tagged
from training.loop import Report
from training.networks import Classifier, LanguageModel, Network, Tagger, Words
from training.objectives import Objective, Sequences, Text
from training.recipe import DataChoice, Recipe

RUN = "run.json"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run folder holds, but for the data: enough to export."""

    folder: Path
    recipe: Recipe
    codec: codecs.Codec
    labels: tuple[str, ...]
    source: Source
    history: list[dict[str, float]]

    def network(self) -> Network:
        """The network with the best weights, in evaluation mode."""
        network = make_network(self.recipe, self.codec, self.labels)
        network.load_state_dict(torch.load(self.folder / loop.BEST, weights_only=True))
        return network.eval()


def make_network(recipe: Recipe, codec: codecs.Codec, labels: Sequence[str]) -> Network:
    """An untrained network of the recipe's architecture."""
    if isinstance(codec, CharactersCodec):
        return LanguageModel(recipe.architecture, codec)
    make = Tagger if recipe.task == "tag" else Classifier
    return make(recipe.architecture, Words.of(codec), len(labels))


def splits(choice: DataChoice, task: str, seed: int = 1) -> Splits[Any]:
    """The examples that a recipe asks for: a published data set, or the user's own file split in two."""
    if choice.path is None:
        if choice.name is None:
            raise data.DataError("the recipe names no data: give --data FILE, or set name or path under [data]")
        return data.load(choice.name)
    source = Source(
        name=choice.path.name, url="", licence="the user's own", files={choice.path.name: data.sha256_of(choice.path)}
    )
    if task == "generate":
        train, dev = own.split_text(own.read_text(choice.path, encoding=choice.encoding), dev_share=choice.dev_share)
        return Splits(train=train, dev=dev, source=source)  # type: ignore[arg-type]  # a text is a sequence of str
    rows: Sequence[Any]
    if task == "tag":
        rows = own.read_tagged(
            choice.path, token_column=choice.token_column, tag_column=choice.tag_column, encoding=choice.encoding
        )
    else:
        rows = own.read_labelled(choice.path, text=choice.text, label=choice.label, encoding=choice.encoding)
    train_rows, dev_rows = own.split(rows, dev_share=choice.dev_share, seed=seed)
    return Splits(train=train_rows, dev=dev_rows, source=source)


def fit_codec(recipe: Recipe, train: Any) -> codecs.Codec:
    """The codec of the recipe, its vocabularies counted on the training data alone."""
    spec = recipe.codec
    if isinstance(spec, CharactersSpec):
        return CharactersCodec.fit(spec, [train])
    tokeniser = WordsCodec(spec, ())
    sentences = (e.tokens if isinstance(e, Tagged) else tokeniser.encode(e.text).tokens for e in train)
    return WordsCodec.fit(spec, sentences, min_count=recipe.min_count)


def labels_of(train: Sequence[Tagged | Labelled]) -> tuple[str, ...]:
    """The labels that training saw, in alphabetical order."""
    found = {tag for e in train for tag in (e.tags if isinstance(e, Tagged) else (e.label,))}
    return tuple(sorted(found))


def fit(recipe: Recipe, folder: Path, report: Report, *, fresh: bool = False) -> Run:
    """Train by the recipe into `folder`; goes on where an interrupted run of the same recipe stopped."""
    if fresh and folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.training.seed)
    examples = splits(recipe.data, recipe.task)
    codec = fit_codec(recipe, examples.train)
    labels = () if recipe.task == "generate" else labels_of(examples.train)
    _write_run(folder, recipe, codec, labels, examples.source)
    objective: Objective
    if isinstance(codec, CharactersCodec):
        objective = Text(recipe, codec, examples.train, examples.dev)
    else:
        objective = Sequences(recipe, codec, labels, examples.train, examples.dev)
    history = loop.fit(objective, recipe.training, folder, report)
    return Run(folder=folder, recipe=recipe, codec=codec, labels=labels, source=examples.source, history=history)


def _write_run(folder: Path, recipe: Recipe, codec: codecs.Codec, labels: Sequence[str], source: Source) -> None:
    """run.json and the vocabularies. A folder of another recipe is not continued."""
    description = {
        "recipe": recipe.model_dump(mode="json"),
        "labels": list(labels),
        "source": {"name": source.name, "url": source.url, "licence": source.licence, "files": source.files},
        "codec": recipe.codec.model_dump(mode="json"),
    }
    path = folder / RUN
    if path.exists() and json.loads(path.read_text("utf-8")) != description:
        raise data.DataError(
            f"{folder} holds a run of another recipe or of other data: "
            "give another folder with --run, or --fresh to start anew"
        )
    path.write_text(json.dumps(description, indent=1, ensure_ascii=False) + "\n", "utf-8")
    for name, entries in codec.vocabularies.items():
        (folder / name).write_text(vocabulary_text(entries), "utf-8")


def open_run(folder: Path) -> Run:
    """Read a run folder that `fit` has written."""
    try:
        description = json.loads((folder / RUN).read_text("utf-8"))
        history = json.loads((folder / loop.HISTORY).read_text("utf-8"))
    except FileNotFoundError as error:
        raise data.DataError(
            f"{folder} is no finished run ({Path(error.filename).name} is missing): run fit first"
        ) from None
    recipe = Recipe.model_validate(description["recipe"])
    return Run(
        folder=folder,
        recipe=recipe,
        codec=codecs.build(recipe.codec, lambda name: vocabulary(folder / name)),
        labels=tuple(description["labels"]),
        source=Source(**description["source"]),
        history=history,
    )
