"""Language modelling as an objective: parallel streams of a text, cut into pieces, the state carried on.

T steps, B streams, V vocabulary.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.codecs.characters import UNKNOWN, CharactersCodec
from training import metrics
from training.batches import streams
from training.device_precision import place_of
from training.nn.networks import LanguageModel, Network
from training.nn.recurrent import State
from training.recipe import Recipe

IGNORED = -100  # a target that does not count, as PyTorch's cross entropy knows it
SHORTEST_STREAM = 1000  # characters, when a text is scored
FEWEST_PIECES = 20  # of `steps` in a stream of text: an epoch of a few large batches would hardly move the weights


class Text:
    """Language modelling: truncated back-propagation through time over parallel streams, the state carried on."""

    metric, higher_is_better = metrics.NATS, False

    def __init__(self, recipe: Recipe, codec: CharactersCodec, network: LanguageModel, train: str, dev: str) -> None:
        self.network: Network = network
        self._train, self._dev = codec.encode(train).rows, codec.encode(dev).rows
        self._seed = recipe.training.seed
        # A short text gets fewer streams and, if it is very short, shorter steps.
        self._steps = max(1, min(recipe.training.steps, len(self._train) // 4))
        self._streams = max(1, min(recipe.training.streams, len(self._train) // (FEWEST_PIECES * self._steps)))
        self._state: State | None = None

    def batches(self, epoch: int, rank: int = 0, world: int = 1) -> Iterator[tuple[Tensor, Tensor, bool] | None]:
        """Every process has streams of its own, the rank-th of each `world`."""
        # Another offset each epoch, so that the network does not see the same boundaries again.
        offset = int(np.random.default_rng([self._seed, epoch]).integers(0, self._steps))
        for inputs, targets, first in streams(self._train, self._streams, self._steps, offset):
            mine = inputs[:, rank::world], targets[:, rank::world], first
            yield mine if mine[0].numel() else None

    def count_batches(self, epoch: int, world: int = 1) -> int:
        return sum(1 for _ in self.batches(epoch))

    def weight(self, batch: tuple[Tensor, Tensor, bool]) -> int:
        return batch[1].numel()

    def loss(self, batch: tuple[Tensor, Tensor, bool]) -> Tensor:
        inputs, targets, first = batch
        inputs, targets, lengths = _placed(self.network, inputs, targets)
        logits, state = self.network(inputs, lengths, None if first else self._state)
        self._state = [tuple(part.detach() for part in layer) for layer in state]
        return cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """At most ten streams at once, none short: each starts cold, which costs a thousandth of a nat or so.

        Characters that training never saw have no probability; they are read, but not counted.
        """
        state, loss, total = None, 0.0, 0
        count = max(1, min(10, len(self._dev) // SHORTEST_STREAM))
        for piece, following, _ in streams(self._dev, count, 512):
            inputs, targets, lengths = _placed(network, piece, following)
            logits, state = network(inputs, lengths, state)
            known = targets.masked_fill(targets == UNKNOWN, IGNORED).flatten()
            loss += float(cross_entropy(logits.float().flatten(0, 1), known, ignore_index=IGNORED, reduction="sum"))
            total += int((known != IGNORED).sum())
        return {"nats_per_character": loss / total, "loss": loss / total}


def _placed(network: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs and targets (T, B) and the lengths (B,) of their columns, where the network is."""
    device = place_of(network)
    return inputs.to(device), targets.to(device), torch.full((inputs.shape[1],), len(inputs), device=device)
