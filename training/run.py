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
SHORTEST_TEXT = 100  # characters of a part of a text: with fewer there is nothing to learn or to measure
WORDING = ("description", "languages", "expect", "examples", "max_length")  # fields that no weight depends on


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run folder holds, but for the data: enough to export."""

    folder: Path
    recipe: Recipe
    codec: codecs.Codec
    labels: tuple[str, ...]
    source: Source
    history: list[dict[str, float]]
    command: str = ""  # that made it
    sizes: tuple[int, int] = (0, 0)  # examples or characters trained on and held out
    notes: tuple[str, ...] = ()  # what `fit` saw in the data and the user should know

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
    train = _read(choice, task, choice.path)
    if choice.dev is not None:
        dev = _read(choice, task, choice.dev)
    else:
        train, dev = _held_out(train, choice, task, seed)
    files = {path.name: data.sha256_of(path) for path in (choice.path, choice.dev) if path is not None}
    return Splits(
        train=train, dev=dev, source=Source(name=choice.path.name, url="", licence="the user's own", files=files)
    )


def _held_out(rows: Any, choice: DataChoice, task: str, seed: int) -> tuple[Any, Any]:
    """The end of a text, or examples drawn at random."""
    try:
        if task == "generate":
            return own.split_text(rows, dev_share=choice.dev_share)
        return own.split(rows, dev_share=choice.dev_share, seed=seed)
    except data.DataError as error:
        raise data.DataError(f"{choice.path}: {error} (--set data.dev_share=0.3, or --dev FILE)") from None


def _read(choice: DataChoice, task: str, path: Path) -> Any:
    """One file of the user's own: a text for a language model, else a list of examples."""
    if task == "generate":
        return own.read_text(path, encoding=choice.encoding)
    if task == "tag":
        columns = {"token_column": choice.token_column, "tag_column": choice.tag_column}
        return own.read_tagged(path, **columns, encoding=choice.encoding)
    return own.read_labelled(path, text=choice.text, label=choice.label, encoding=choice.encoding)


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


def fit(recipe: Recipe, folder: Path, report: Report, *, fresh: bool = False, command: str = "") -> Run:
    """Train by the recipe into `folder`; goes on where an interrupted run of the same recipe stopped.

    Data that nothing can be learnt from is refused (DataError) before the folder is touched.
    """
    torch.manual_seed(recipe.training.seed)
    examples = splits(recipe.data, recipe.task)
    labels = () if recipe.task == "generate" else labels_of(examples.train)
    notes = _check_text(examples) if recipe.task == "generate" else _check_examples(recipe, labels, examples)
    if examples.source.note:
        notes = (*notes, f"the data set {examples.source.name} {examples.source.note}")
    codec = fit_codec(recipe, examples.train)
    if fresh and folder.exists():
        _remove(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_run(folder, recipe, codec, labels, examples.source, command)
    objective: Objective
    if isinstance(codec, CharactersCodec):
        objective = Text(recipe, codec, examples.train, examples.dev)
    else:
        objective = Sequences(recipe, codec, labels, examples.train, examples.dev)
    history = loop.fit(objective, recipe.training, folder, report)
    return Run(
        folder=folder,
        recipe=recipe,
        codec=codec,
        labels=labels,
        source=examples.source,
        history=history,
        command=command,
        notes=notes,
        sizes=(len(examples.train), len(examples.dev)),
    )


def _check_text(examples: Splits[Any]) -> tuple[str, ...]:
    """A language model needs some text in both parts."""
    train, dev, name = examples.train, examples.dev, examples.source.name
    if min(len(train), len(dev)) < SHORTEST_TEXT:
        raise data.DataError(
            f"{name}: {len(train)} characters to train on and {len(dev)} held out; each part needs at least "
            f"{SHORTEST_TEXT}, and a model that writes well some 100,000: give more text, or hold more out "
            "(--set data.dev_share=0.3)"
        )
    unseen = sorted(set(dev) - set(train))
    if set(dev[1:]) <= set(unseen):
        raise data.DataError(f"{name}: the held out part shares no character with the rest: give a more even text")
    if unseen:
        shown = " ".join(map(repr, unseen[:10]))
        return (f"{len(unseen)} characters are only in the held out part and do not count in its score: {shown}",)
    return ()


def _check_examples(recipe: Recipe, labels: Sequence[str], examples: Splits[Any]) -> tuple[str, ...]:
    """A tagger or a classifier needs two labels to choose from, and inputs that could be served."""
    thing, name = "tag" if recipe.task == "tag" else "label", examples.source.name
    if len(labels) < 2:
        option = "--tag-column" if recipe.task == "tag" else "--label"
        raise data.DataError(
            f"{name}: every training example has the {thing} {labels[0]!r}; at least two are needed to learn from: "
            f"give examples of another, or name another column with {option}"
        )
    tokeniser = WordsCodec(recipe.codec, ())  # type: ignore[arg-type]  # a recipe of these tasks has words
    for example in (*examples.train, *examples.dev):
        raw = example.tokens if isinstance(example, Tagged) else example.text
        words = tokeniser.encode(raw, limit=recipe.max_length).tokens if isinstance(raw, str) else raw
        if len(words) > recipe.max_length:
            start = raw[:60] if isinstance(raw, str) else " ".join(raw[:10])
            raise data.DataError(
                f"{name}: the {'sentence' if thing == 'tag' else 'text'} that begins {start!r} has more than "
                f"{recipe.max_length} words: split it (a blank line ends a sentence in CoNLL), or allow more with "
                "--set max_length=…"
            )
    if unseen := sorted(set(labels_of(examples.dev)) - set(labels)):
        return (f"{thing}s only in the development data, which count as errors: {', '.join(unseen[:10])}",)
    return ()


def _remove(folder: Path) -> None:
    """Throw a run away, but never a folder that is something else."""
    if any(folder.iterdir()) and not (folder / RUN).is_file():
        raise data.DataError(f"{folder} is no run folder (it has no {RUN}), so it is not removed: give another --run")
    shutil.rmtree(folder)


def _write_run(
    folder: Path, recipe: Recipe, codec: codecs.Codec, labels: Sequence[str], source: Source, command: str
) -> None:
    """run.json and the vocabularies. A folder of another recipe is not continued."""
    description = {
        "recipe": recipe.model_dump(mode="json"),
        "labels": list(labels),
        "source": {"name": source.name, "url": source.url, "licence": source.licence, "files": source.files},
        "codec": recipe.codec.model_dump(mode="json"),
        "command": command,
    }
    path = folder / RUN
    if path.exists():
        before, now = _decisive(_description(folder)), _decisive(description)
        if changed := sorted(key for key in before | now if before.get(key) != now.get(key)):
            raise data.DataError(
                f"{folder} holds another run ({', '.join(changed)} differ): give another folder with --run, "
                "or --fresh to start anew"
            )
    path.write_text(json.dumps(description, indent=1, ensure_ascii=False) + "\n", "utf-8")
    for name, entries in codec.vocabularies.items():
        (folder / name).write_text(vocabulary_text(entries), "utf-8")


def _decisive(description: dict[str, Any]) -> dict[str, Any]:
    """The fields of run.json that weights depend on: what is published may be worded anew without training anew."""
    recipe = {key: value for key, value in description["recipe"].items() if key not in WORDING}
    choice = recipe.pop("data")
    if choice["path"] is not None:  # the columns of a published data set are its reader's, not the recipe's
        recipe["data"] = choice
    training = {f"training.{key}": value for key, value in recipe.pop("training").items()}
    return {**recipe, **training, "labels": description["labels"], "the data files": description["source"]["files"]}


def _description(folder: Path) -> dict[str, Any]:
    try:
        description: dict[str, Any] = json.loads((folder / RUN).read_text("utf-8"))
        return description
    except ValueError as error:
        raise data.DataError(f"{folder / RUN}: is damaged ({error}): give --fresh to start anew") from None


def open_run(folder: Path) -> Run:
    """Read a run folder that `fit` has written."""
    try:
        description = _description(folder)
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
        command=description.get("command", ""),
    )
