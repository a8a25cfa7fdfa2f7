"""Everything that a run needs before its first step: data, codec, network, objective."""

from dataclasses import dataclass
from typing import Any

import torch

from models.codecs import Codec, build
from models.codecs.characters import CharactersCodec
from models.codecs.words import WordsCodec
from models.manifest import CharactersSpec, DnaSpec, FramesSpec
from training.data import checks, loading
from training.data.examples import Splits, inputs_of, label_names
from training.nn.networks import Network, make_network
from training.nn.pretrained_vectors import load_vectors
from training.objectives import Objective, make_objective
from training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """A recipe's data, codec and untrained network."""

    examples: Splits[Any]
    auxiliary: Splits[Any] | None
    codec: Codec
    labels: tuple[str, ...]
    text_labels: tuple[str, ...]
    network: Network
    notes: tuple[str, ...]

    def objective(self, recipe: Recipe) -> Objective:
        """Return the objective of the recipe's task. Encodes all examples."""
        auxiliary = self.auxiliary.train if self.auxiliary else ()
        return make_objective(recipe, self.codec, self.network, self.examples, auxiliary)


def prepare(recipe: Recipe, examples: Splits[Any] | None = None) -> PreparedRun:
    """Load the recipe's data (unless `examples` is given, as for a fold), fit the codec and make the network.

    Raises DataError, with file and line where possible, if nothing can be learned from the data.
    """
    torch.manual_seed(recipe.training.seed)
    examples = loading.merge_dev_labels(recipe, examples or loading.load_splits(recipe))
    auxiliary = loading.load_auxiliary(recipe)
    codec = fit_codec(recipe, [*examples.train, *auxiliary.train] if auxiliary else examples.train)
    labels, text_labels = ((), ()) if recipe.task == "generate" else label_names(recipe.task, examples.train)
    notes = checks.check_splits(recipe, codec, examples)
    network = make_network(
        recipe.architecture,
        codec,
        task=recipe.task,
        labels=labels,
        text_labels=text_labels,
        merge=recipe.merge,
        auxiliary_labels=len(label_names("tag", auxiliary.train)[0]) if auxiliary else 0,
    )
    if recipe.vectors is not None:
        notes = (*notes, load_vectors(recipe.vectors, codec, network))
    return PreparedRun(
        examples=examples,
        auxiliary=auxiliary,
        codec=codec,
        labels=labels,
        text_labels=text_labels,
        network=network,
        notes=notes,
    )


def fit_codec(recipe: Recipe, train: Any) -> Codec:
    """Return the recipe's codec with vocabularies counted on the training data only."""
    spec = recipe.codec
    if isinstance(spec, CharactersSpec):
        return CharactersCodec.fit(spec, [train] if isinstance(train, str) else ["".join(inputs_of(e)) for e in train])
    if isinstance(spec, DnaSpec | FramesSpec):
        return build(spec, lambda name: ())
    tokenizer = WordsCodec(spec, ())
    sentences = (tokenizer.encode(inputs_of(example)).tokens for example in train)
    return WordsCodec.fit(spec, sentences, min_count=recipe.min_count)
