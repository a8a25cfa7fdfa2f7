"""Training objectives: what a network learns and how it is scored. There is one objective per kind of task."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from models.codecs import Codec
from models.codecs.characters import CharactersCodec
from training.data.examples import SequenceExample, Splits
from training.nn.networks import LanguageModel, Network
from training.objectives.language_model import LanguageModelObjective
from training.objectives.sequences import SequenceObjective
from training.recipe import Recipe


class Objective(Protocol):
    """What the trainer knows about a task.

    An epoch is a sequence of micro-batches. With several processes (`world`), each process (`rank`) gets every
    world-th batch, and None where the epoch has no more.
    """

    network: Network
    metric: str

    def batches(self, epoch: int, rank: int = 0, world: int = 1) -> Iterator[Any]: ...
    def count_batches(self, epoch: int, world: int = 1) -> int: ...
    def loss(self, batch: Any) -> Tensor:
        """Return the mean loss over the targets that `weight` counts, a scalar."""
        ...

    def weight(self, batch: Any) -> float: ...
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Return the scores on the development data, with "loss" among them."""
        ...


def make_objective(
    recipe: Recipe, codec: Codec, network: Network, examples: Splits[Any], auxiliary: Sequence[SequenceExample] = ()
) -> Objective:
    """Return the objective of a recipe's task. `auxiliary` holds the examples of its auxiliary task."""
    if isinstance(network, LanguageModel):
        assert isinstance(codec, CharactersCodec)
        return LanguageModelObjective(recipe, codec, network, examples.train, examples.dev)
    return SequenceObjective(recipe, codec, network, examples, auxiliary)
