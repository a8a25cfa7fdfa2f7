"""From a recipe to what the loop trains: data, codec, network, objective. Writes nothing and trains nothing."""

from dataclasses import dataclass
from typing import Any

import torch

from models.codecs import Codec, build
from models.codecs.characters import CharactersCodec
from models.codecs.words import WordsCodec
from models.manifest import CharactersSpec, DnaSpec, FramesSpec
from training.data import loading as choice
from training.data.examples import Splits, inputs_of, label_names, text_of
from training.nn.networks import Network, make_network
from training.nn.pretrained_vectors import load_vectors
from training.objectives import Objective, make_objective
from training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """All that a run needs before its first step."""

    examples: Splits[Any]
    beside: Splits[Any] | None  # the data of the auxiliary task
    codec: Codec
    labels: tuple[str, ...]
    text_labels: tuple[str, ...]
    network: Network
    notes: tuple[str, ...]

    def objective(self, recipe: Recipe) -> Objective:
        """The objective of the recipe's task; encodes all examples."""
        beside = self.beside.train if self.beside else ()
        return make_objective(recipe, self.codec, self.network, self.examples, beside)


def prepare(recipe: Recipe, examples: Splits[Any] | None = None) -> Prepared:
    """The recipe's data (or a fold of them), codec and untrained network.

    Raises DataError where nothing can be learnt from the data, with file and line where there are any.
    """
    torch.manual_seed(recipe.training.seed)
    examples = choice.answered(recipe, examples or choice.splits(recipe))
    beside = choice.auxiliary(recipe)
    codec = fit_codec(recipe, [*examples.train, *beside.train] if beside else examples.train)
    labels, text_labels = ((), ()) if recipe.task == "generate" else label_names(recipe.task, examples.train)
    notes = choice.check(recipe, codec, examples)
    network = make_network(
        recipe.architecture,
        codec,
        task=recipe.task,
        labels=labels,
        text_labels=text_labels,
        merge=recipe.merge,
        auxiliary_labels=len(label_names("tag", beside.train)[0]) if beside else 0,
    )
    if recipe.vectors is not None:
        notes = (*notes, load_vectors(recipe.vectors, codec, network))
    return Prepared(
        examples=examples,
        beside=beside,
        codec=codec,
        labels=labels,
        text_labels=text_labels,
        network=network,
        notes=notes,
    )


def fit_codec(recipe: Recipe, train: Any) -> Codec:
    """The codec of the recipe, its vocabularies counted on the training data alone."""
    spec = recipe.codec
    if isinstance(spec, CharactersSpec):
        return CharactersCodec.fit(spec, [train] if isinstance(train, str) else [text_of(e) for e in train])
    if isinstance(spec, DnaSpec | FramesSpec):
        return build(spec, lambda name: ())
    tokeniser = WordsCodec(spec, ())
    sentences = (tokeniser.encode(inputs_of(example)).tokens for example in train)
    return WordsCodec.fit(spec, sentences, min_count=recipe.min_count)
