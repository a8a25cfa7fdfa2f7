"""What a network learns and how well it does: one objective a kind of task, behind the one interface of the loop."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from models.codecs import Codec
from models.codecs.characters import CharactersCodec
from training.data.examples import SequenceExample, Splits
from training.nn.networks import LanguageModel, Network
from training.objectives.language_model import Text
from training.objectives.sequences import Sequences
from training.recipe import Recipe


class Objective(Protocol):
    """What the loop knows of a task. `metric` is better when higher iff `higher_is_better`.

    An epoch is a row of micro-batches. In `world` processes each gets every world-th place; None where the row ends
    before.
    """

    network: Network
    metric: str
    higher_is_better: bool

    def batches(self, epoch: int, rank: int = 0, world: int = 1) -> Iterator[Any]: ...
    def count_batches(self, epoch: int, world: int = 1) -> int: ...
    def loss(self, batch: Any) -> Tensor:
        """The mean over what `weight` counts."""
        ...

    def weight(self, batch: Any) -> float: ...
    def evaluate(self, network: nn.Module) -> dict[str, float]: ...


def make_objective(
    recipe: Recipe, codec: Codec, network: Network, examples: Splits[Any], beside: Sequence[SequenceExample] = ()
) -> Objective:
    """The objective of a recipe's task for the network that is to be trained; `beside`: of the auxiliary task."""
    if isinstance(network, LanguageModel):
        assert isinstance(codec, CharactersCodec)
        return Text(recipe, codec, network, examples.train, examples.dev)
    return Sequences(recipe, codec, network, examples, beside)
