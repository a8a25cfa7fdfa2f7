"""What a network learns and how well it does: one objective a task, behind the one interface of the loop.

T steps, B batch, K labels, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.codecs.characters import UNKNOWN, CharactersCodec
from models.codecs.words import WordsCodec
from training.batches import Feeds, buckets, streams, tensors
from training.data.examples import Labelled, Tagged
from training.networks import Classifier, LanguageModel, Network, State, Tagger, Words
from training.recipe import Recipe

IGNORED = -100  # the target of a padded step, as PyTorch's cross entropy knows it
SHORTEST_STREAM = 1000  # characters, when a text is scored
FEWEST_PIECES = 20  # of `steps` in a stream of text: an epoch of a few large batches would hardly move the weights


class Objective(Protocol):
    """What the loop knows of a task. `metric` is better when higher iff `higher_is_better`."""

    network: Network
    metric: str
    higher_is_better: bool

    def batches(self, epoch: int) -> Iterator[Any]: ...
    def count_batches(self, epoch: int) -> int: ...
    def loss(self, batch: Any) -> Tensor: ...
    def evaluate(self, network: nn.Module) -> dict[str, float]: ...


class Sequences:
    """Tagging and classification: padded batches of encoded sequences, bucketed by length."""

    metric, higher_is_better = "accuracy", True

    def __init__(
        self,
        recipe: Recipe,
        codec: WordsCodec,
        labels: Sequence[str],
        train: Sequence[Tagged | Labelled],
        dev: Sequence[Tagged | Labelled],
    ) -> None:
        make = Tagger if recipe.task == "tag" else Classifier
        self.network: Network = make(recipe.architecture, Words.of(codec), len(labels))
        self._training, self._codec = recipe.training, codec
        index = {label: number for number, label in enumerate(labels)}
        self._train, self._dev = _Encoded(codec, index, train), _Encoded(codec, index, dev)

    def batches(self, epoch: int) -> Iterator[tuple[Feeds, Tensor]]:
        for group in self._groups(epoch):
            yield self._train.batch(group)

    def count_batches(self, epoch: int) -> int:
        return len(self._groups(epoch))

    def _groups(self, epoch: int) -> list[list[int]]:
        random = np.random.default_rng([self._training.seed, epoch])
        return buckets(self._train.lengths, self._training.batch_tokens, random)

    def loss(self, batch: tuple[Feeds, Tensor]) -> Tensor:
        feeds, targets = batch
        logits = self.network(**feeds).float()
        return cross_entropy(
            logits.flatten(0, -2),
            targets.flatten(),
            ignore_index=IGNORED,
            label_smoothing=self._training.label_smoothing,
        )

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        right, total, loss = 0, 0, 0.0
        for group in buckets(self._dev.lengths, 4096, None):
            feeds, targets = self._dev.batch(group)
            logits = network(**feeds).float()
            counted = targets != IGNORED
            right += int((logits.argmax(-1)[counted] == targets[counted]).sum())
            total += int(counted.sum())
            known = targets.masked_fill(targets >= logits.shape[-1], IGNORED)
            loss += float(cross_entropy(logits.flatten(0, -2), known.flatten(), ignore_index=IGNORED, reduction="sum"))
        return {"accuracy": 100 * right / max(total, 1), "loss": loss / max(total, 1)}


class _Encoded:
    """Examples encoded once: feeds and targets are only collated for each batch."""

    def __init__(self, codec: WordsCodec, labels: dict[str, int], examples: Sequence[Tagged | Labelled]) -> None:
        self._codec = codec
        self._items = [codec.encode(e.tokens if isinstance(e, Tagged) else e.text) for e in examples]
        # A label that training never saw cannot be predicted: it counts as an error, under a number of its own.
        self._targets = [
            [labels.get(tag, len(labels)) for tag in e.tags]
            if isinstance(e, Tagged)
            else labels.get(e.label, len(labels))
            for e in examples
        ]
        self.lengths = [item.length for item in self._items]

    def batch(self, group: Sequence[int]) -> tuple[Feeds, Tensor]:
        feeds = tensors(self._codec.collate([self._items[index] for index in group]))
        targets = [self._targets[index] for index in group]
        if isinstance(targets[0], int):
            return feeds, torch.tensor(targets)
        padded = torch.full(feeds["words"].shape, IGNORED)  # (T, B)
        for column, tags in enumerate(targets):
            padded[: len(tags), column] = torch.tensor(tags)
        return feeds, padded


class Text:
    """Language modelling: truncated back-propagation through time over parallel streams, the state carried on."""

    metric, higher_is_better = "nats_per_character", False

    def __init__(self, recipe: Recipe, codec: CharactersCodec, train: str, dev: str) -> None:
        self.network: Network = LanguageModel(recipe.architecture, codec)
        self._train, self._dev = codec.encode(train).rows, codec.encode(dev).rows
        self._seed = recipe.training.seed
        # A short text gets fewer streams and, if it is very short, shorter steps.
        self._steps = max(1, min(recipe.training.steps, len(self._train) // 4))
        self._streams = max(1, min(recipe.training.streams, len(self._train) // (FEWEST_PIECES * self._steps)))
        self._state: State | None = None

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, bool]]:
        # Another offset each epoch, so that the network does not see the same boundaries again.
        offset = int(np.random.default_rng([self._seed, epoch]).integers(0, self._steps))
        return streams(self._train, self._streams, self._steps, offset)

    def count_batches(self, epoch: int) -> int:
        return sum(1 for _ in self.batches(epoch))

    def loss(self, batch: tuple[Tensor, Tensor, bool]) -> Tensor:
        inputs, targets, first = batch
        lengths = torch.full((inputs.shape[1],), len(inputs))
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
        for inputs, targets, _ in streams(self._dev, count, 512):
            lengths = torch.full((inputs.shape[1],), len(inputs))
            logits, state = network(inputs, lengths, state)
            known = targets.masked_fill(targets == UNKNOWN, IGNORED).flatten()
            loss += float(cross_entropy(logits.float().flatten(0, 1), known, ignore_index=IGNORED, reduction="sum"))
            total += int((known != IGNORED).sum())
        return {"nats_per_character": loss / total, "loss": loss / total}
