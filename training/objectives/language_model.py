"""Language modeling: truncated backpropagation through time over parallel streams of a text.

T steps, B streams, V vocabulary.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.codecs.base import UNKNOWN
from models.codecs.characters import CharactersCodec
from training import metrics
from training.device_precision import device_of
from training.nn.networks import LanguageModel, Network
from training.nn.recurrent import StackState
from training.recipe import Recipe

IGNORED = -100  # cross_entropy's default ignore_index
SHORTEST_STREAM = 1000  # characters, in evaluation
FEWEST_PIECES = 20  # per stream and epoch: a few large batches would hardly change the weights
# What `fewest_steps` aims at for small texts: narrower batches are slow, and shorter pieces teach little context.
NARROW_STREAMS, SHORT_STEPS = 4, 32

StreamBatch = tuple[Tensor, Tensor, bool]  # inputs (T, B), targets (T, B), whether it is the first of its streams


class LanguageModelObjective:
    """The next character of a text, with the state carried over from batch to batch."""

    metric = metrics.NATS

    def __init__(self, recipe: Recipe, codec: CharactersCodec, network: LanguageModel, train: str, dev: str) -> None:
        self.network: Network = network
        self._train, self._dev = codec.encode(train).rows, codec.encode(dev).rows
        self._seed = recipe.training.seed
        # A short text gets fewer streams and, if it is very short, shorter pieces.
        self._steps = max(1, min(recipe.training.steps, len(self._train) // 4))
        fewest = max(FEWEST_PIECES, recipe.training.fewest_steps)
        if recipe.training.fewest_steps:
            self._steps = min(self._steps, max(SHORT_STEPS, len(self._train) // (fewest * NARROW_STREAMS)))
        self._streams = max(1, min(recipe.training.streams, len(self._train) // (fewest * self._steps)))
        self._state: StackState | None = None

    def batches(self, epoch: int, rank: int = 0, world: int = 1) -> Iterator[StreamBatch | None]:
        # Each epoch has another offset, so that its boundaries differ. Each process has its own streams.
        offset = int(np.random.default_rng([self._seed, epoch]).integers(0, self._steps))
        for inputs, targets, first in split_into_streams(self._train, self._streams, self._steps, offset):
            own = inputs[:, rank::world], targets[:, rank::world], first
            yield own if own[0].numel() else None

    def count_batches(self, epoch: int, world: int = 1) -> int:
        return sum(1 for _ in self.batches(epoch))

    def weight(self, batch: StreamBatch) -> int:
        return batch[1].numel()

    def loss(self, batch: StreamBatch) -> Tensor:
        inputs, targets, lengths = _on_device(self.network, *batch[:2])
        logits, state = self.network(inputs, lengths, None if batch[2] else self._state)
        self._state = [tuple(part.detach() for part in layer) for layer in state]
        return cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Return the nats per character of the development data.

        Uses at most 10 long streams, because each starts without context. Characters that training never saw are read
        but not counted: they have no probability.
        """
        state, loss, total = None, 0.0, 0
        count = max(1, min(10, len(self._dev) // SHORTEST_STREAM))
        for piece, following, _ in split_into_streams(self._dev, count, 512):
            inputs, targets, lengths = _on_device(network, piece, following)
            logits, state = network(inputs, lengths, state)
            known = targets.masked_fill(targets == UNKNOWN, IGNORED).flatten()
            loss += float(cross_entropy(logits.float().flatten(0, 1), known, ignore_index=IGNORED, reduction="sum"))
            total += int((known != IGNORED).sum())
        return {metrics.NATS: loss / total, "loss": loss / total}


def _on_device(network: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs (T, B), targets (T, B) and column lengths (B,) on the network's device."""
    device = device_of(network)
    return inputs.to(device), targets.to(device), torch.full((inputs.shape[1],), len(inputs), device=device)


def split_into_streams(
    rows: NDArray[np.int32], count: int, steps: int, offset: int = 0
) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """Cut a text into `count` contiguous streams and yield (inputs (T, B), targets (T, B), first) of T <= `steps`.

    Each piece continues the previous one, so that a state carries over; `first` marks the first piece. `offset` shifts
    all boundaries. Characters that do not fill a row of streams are left out.
    """
    length = (len(rows) - 1 - offset) // count
    if length < 1:
        raise ValueError(f"a text of {len(rows)} characters cannot be cut into {count} streams: use fewer streams")
    used = torch.from_numpy(rows[offset : offset + length * count + 1]).long()
    inputs = used[:-1].view(count, length).T  # (length, B)
    targets = used[1:].view(count, length).T  # (length, B)
    for start in range(0, length, steps):
        yield inputs[start : start + steps], targets[start : start + steps], start == 0
