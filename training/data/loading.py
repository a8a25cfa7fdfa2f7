"""The data that a recipe asks for: read, split, and refused where nothing can be learnt from it.

Knows published data sets, users' own files and what a task needs of its examples. Does not know networks.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from models import codecs
from training import data
from training.data import custom_data as own
from training.data import label_checks as labels
from training.data import tokens
from training.data.examples import (
    SequenceExample,
    SeriesExample,
    Source,
    Splits,
    inputs_of,
    label_names,
    merge_labels,
    tags_of,
    where,
)
from training.recipe import DataChoice, Recipe

HELD_OUT_SEED = 1  # whatever the seed of the weights: runs of several seeds are scored on the same examples
FEW = 20  # held out examples: with fewer, one more right is over 5 points of the score
SHORTEST_TEXT = 100  # characters of a part of a text: with fewer there is nothing to learn or to measure


def splits(recipe: Recipe) -> Splits[Any]:
    """The examples that a recipe asks for: a published data set, or the user's own file split in two.

    With the labels of the data; `answered` gives the development part those that the bundle answers with.
    """
    choice = recipe.data
    if choice.path is None:
        if choice.name is None:
            raise data.DataError("the recipe names no data: give --data FILE, or set name or path under [data]")
        return data.load({"name": choice.name, **choice.options})
    train = _read(recipe, choice.path)
    if choice.dev is not None:
        dev = _read(recipe, choice.dev)
    else:
        train, dev = _held_out(train, choice)
    files = {choice.path.name: data.sha256_of(choice.path)}
    if choice.dev is not None:
        files[f"dev/{choice.dev.name}"] = data.sha256_of(choice.dev)
    source = Source(name=choice.path.name, url="", licence="the user's own", files=files)
    return Splits(train=train, dev=dev, source=source)


def counted(recipe: Recipe) -> Recipe:
    """The recipe for frames of a user's own file, with as many features as the first frame there has numbers."""
    if recipe.data.path is None or recipe.codec.kind != "frames":
        return recipe
    first: SeriesExample = _read(recipe, recipe.data.path)[0]
    return recipe.model_copy(update={"codec": recipe.codec.model_copy(update={"features": len(first.frames[0])})})


def answered(recipe: Recipe, examples: Splits[Any]) -> Splits[Any]:
    """The same, its development part under the labels that the bundle answers with."""
    return replace(examples, dev=merge_labels(examples.dev, recipe.merge)) if recipe.merge else examples


def auxiliary(recipe: Recipe) -> Splits[Any] | None:
    """The data of the task that is learnt beside the recipe's own, if it has one."""
    if recipe.auxiliary is None:
        return None
    found: Splits[Any] = data.load({"name": recipe.auxiliary.name, **recipe.auxiliary.options})
    if not tags_of(found.train[0]):
        raise data.DataError(f"{recipe.auxiliary.name}: has no tags, which auxiliary data must have: take another")
    return found


def source(examples: Splits[Any], beside: Splits[Any] | None) -> Source:
    """Where the data come from, those of the task beside included."""
    if beside is None:
        return examples.source
    return _joined(examples.source, beside.source, beside.source.name)


def with_lenders(recipe: Recipe, found: Source) -> Source:
    """A source with the data sets whose mentions training borrows."""
    for lender in recipe.variation.lenders if recipe.variation else ():
        other = data.load({"name": lender.name, **lender.options}).source
        found = _joined(found, other, f"mentions of {other.name}")
    return found


def _joined(source: Source, other: Source, name: str) -> Source:
    return replace(
        source,
        licence=f"{source.licence}; {name}: {other.licence}",
        files=source.files | {f"{other.name}/{file}": found for file, found in other.files.items()},
    )


def _read(recipe: Recipe, path: Path) -> Any:
    choice = recipe.data
    columns = own.Columns(
        text=choice.text,
        label=choice.label,
        series=choice.series,
        token=choice.token_column,
        tag=choice.tag_column,
        encoding=choice.encoding,
    )
    return own.read(path, recipe.task, recipe.codec.kind, columns)


def _held_out(rows: Any, choice: DataChoice) -> tuple[Any, Any]:
    try:
        return own.hold_out(rows, dev_share=choice.dev_share, seed=HELD_OUT_SEED)
    except data.DataError as error:
        raise data.DataError(f"{choice.path}: {error}") from None


def check(recipe: Recipe, codec: codecs.Codec, examples: Splits[Any]) -> tuple[str, ...]:
    """What the user should know of the data; raises DataError where nothing can be learnt or nothing measured."""
    notes = _check_text(examples) if recipe.task == "generate" else _check_examples(recipe, codec, examples)
    if examples.source.note:
        notes = (*notes, f"the data set {examples.source.name} {examples.source.note}")
    return notes


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


def _check_examples(recipe: Recipe, codec: codecs.Codec, examples: Splits[Any]) -> tuple[str, ...]:
    """Labels to choose from, and inputs that could be served."""
    name = examples.source.name
    notes = labels.check(recipe.task, examples.train, examples.dev, name=name, answered=tuple(recipe.merge))
    _, whole = label_names("joint", examples.train)
    if unknown := sorted({part for parts in recipe.merge.values() for part in parts} - set(whole)):
        raise data.DataError(f"{name}: merge names the label {unknown[0]!r}; the data have {', '.join(whole)}")
    if recipe.task in ("tag", "joint"):
        notes = (*notes, *tokens.check([*examples.train, *examples.dev]))
    if len(examples.dev) < FEW:
        notes = (*notes, _few(len(examples.dev)))
    for example in (*examples.train, *examples.dev):
        _check_input(recipe, codec, example, name)
    return notes


def _few(count: int) -> str:
    means = "a score of one means nothing" if count == 1 else f"one more right is {100 / count:.0f} points"
    return (
        f"only {count} held out for the scores ({means}; from {FEW} on a score says something): give more data, or "
        "cross-validate, which holds every example out once"
    )


def _check_input(recipe: Recipe, codec: codecs.Codec, example: SequenceExample, name: str) -> None:
    raw, place = inputs_of(example), where(example) or name
    try:
        length = codec.encode(raw, limit=recipe.max_length).length
    except codecs.InputError as error:
        hint = " (--set codec.features=N takes frames of N numbers)" if recipe.codec.kind == "frames" else ""
        raise data.DataError(f"{place}: {error}{hint}") from None
    if length > recipe.max_length:
        raise data.DataError(
            f"{place}: the {'sentence' if tags_of(example) else 'input'} has more than {recipe.max_length} steps: "
            "split it (a blank line ends a sentence in CoNLL), or allow more with --set max_length=…"
        )
