"""Tagging, classification and both at once as an objective: padded batches of encoded sequences, bucketed by length.

T steps, B batch, K labels of a step, L labels of a whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from models.codecs import Codec
from training import metrics
from training.batches import TensorValidator, buckets, moved, tensors
from training.data.augmentation import make_augmenter
from training.data.examples import SequenceExample, SeriesExample, Splits, inputs_of, label_names, label_of, tags_of
from training.device_precision import place_of
from training.metrics import ExampleLabels
from training.nn.crf import obeys
from training.nn.encoders import FrameEncoder, WordEncoder
from training.nn.networks import Network, SequenceNetwork, standardise
from training.recipe import Recipe

VARIATION = 1  # tells the random numbers of variation from those of batches
IGNORED = -100  # the target of a padded step, as PyTorch's cross entropy knows it


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Padded sequences: feeds of the codec, targets of the steps (T, B) and of the wholes (B,), where there are any."""

    feeds: TensorValidator
    steps: Tensor | None
    text: Tensor | None
    beside: bool = False  # whether the steps are those of the auxiliary task

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        steps, text = (None if part is None else part.to(device) for part in (self.steps, self.text))
        return replace(self, feeds=moved(self.feeds, device), steps=steps, text=text)


class Sequences:
    """Tagging, classification and both at once: padded batches of encoded sequences, bucketed by length."""

    higher_is_better = True

    def __init__(
        self,
        recipe: Recipe,
        codec: Codec,
        network: SequenceNetwork,
        examples: Splits[SequenceExample],
        beside: Sequence[SequenceExample] = (),
    ) -> None:
        train, dev = examples.train, examples.dev
        self.network: Network = network
        self._task, self._training, self._auxiliary = recipe.task, recipe.training, recipe.auxiliary
        labels, text_labels = label_names(recipe.task, train)
        steps, text = ((), labels) if recipe.task == "classify" else (labels, text_labels)  # which head gives which
        self._of_steps, self._of_text = steps, tuple(recipe.merge) or text
        self._outside = steps.index("O") if "O" in steps else None
        self._examples, self._encode = train, partial(_Encoded, codec, steps, text)
        self._varier = make_augmenter(recipe.variation, train) if recipe.variation else None  # type: ignore[arg-type]
        self._varied: tuple[int, _Encoded] | None = None  # the last epoch that was asked for, and its examples
        self._train = self._encode(train)
        self._dev = _Encoded(codec, steps, self._of_text, dev)
        self._beside = _Encoded(codec, label_names("tag", beside)[0], (), beside)
        self.expected = [ExampleLabels.of(example) for example in dev]
        self.metric = metrics.metric_of(recipe.task, steps)
        self._mean_length = float(np.mean(self._train.lengths)) if len(train) else 1.0
        balanced = recipe.training.class_weights == "balanced"
        self._step_weights = _balance(self._train.step_counts) if balanced else None
        self._text_weights = _balance(self._train.text_counts) if balanced else None
        self._show(network, train)

    def _show(self, network: SequenceNetwork, train: Sequence[SequenceExample]) -> None:
        """What a network is told of its training data before it learns."""
        if isinstance(network.encoder, FrameEncoder):
            standardise(network, [example.frames for example in train if isinstance(example, SeriesExample)])
        if isinstance(network.encoder, WordEncoder):
            rows = [item.rows for encoded in (self._train, self._beside) for item in encoded.items]
            network.encoder.count(torch.from_numpy(np.concatenate(rows)).long())
        if network.chain is not None and not obeys(tags_of(example) for example in train):
            network.chain.forbidden.fill_(False)

    def batches(self, epoch: int, rank: int = 0, world: int = 1) -> Iterator[Batch | None]:
        groups = self._groups(epoch)
        for place in range(rank, world * self.count_batches(epoch, world), world):
            yield self._batch(epoch, *groups[place]) if place < len(groups) else None

    def _batch(self, epoch: int, group: list[int], beside: bool) -> Batch:
        return replace(self._beside.batch(group), beside=True) if beside else self._of_epoch(epoch).batch(group)

    def _of_epoch(self, epoch: int) -> "_Encoded":
        """The training examples in the form that they have in an epoch."""
        if self._varier is None:
            return self._train
        if self._varied is None or self._varied[0] != epoch:
            random = np.random.default_rng([self._training.seed, epoch, VARIATION])
            self._varied = epoch, self._encode(self._varier.vary(self._examples, random))  # type: ignore[arg-type]
        return self._varied[1]

    def count_batches(self, epoch: int, world: int = 1) -> int:
        return -(-len(self._groups(epoch)) // world)

    def _groups(self, epoch: int) -> list[tuple[list[int], bool]]:
        """The places of the examples of each batch, and whether they are those of the auxiliary task."""
        random = np.random.default_rng([self._training.seed, epoch])
        budget = self._training.batch_tokens
        train = self._of_epoch(epoch)
        drawn = _some(train, self._training.share, random, below=self._training.share_below)
        groups = [(group, False) for group in buckets(drawn, budget, random)]
        if self._auxiliary is None:
            return groups
        others = buckets(_some(self._beside, self._auxiliary.share, random), budget, random)
        groups += [(group, True) for group in others]
        return [groups[place] for place in random.permutation(len(groups))]

    def weight(self, batch: Batch) -> float:
        """What the mean of the loss divides by: targets, or their weights where labels have some.

        In a joint task texts count, those of the auxiliary task too.
        """
        if batch.beside and self._task == "joint":
            return len(batch.feeds["lengths"])
        weights = self._step_weights if batch.text is None else self._text_weights
        targets = batch.steps if batch.text is None else batch.text
        assert targets is not None
        counted = targets[targets != IGNORED]
        return len(counted) if weights is None or batch.beside else float(weights[counted].sum())

    def loss(self, batch: Batch) -> Tensor:
        batch = batch.to(place_of(self.network))
        logits = self.network(**batch.feeds)
        if batch.beside:
            return self._loss_beside(logits["auxiliary"].float(), batch)
        smoothing = self._training.label_smoothing
        loss = torch.zeros((), device=batch.feeds["lengths"].device)
        if batch.steps is not None:
            loss = loss + self._step_loss(logits["steps"].float(), batch, smoothing)
        if batch.text is not None:
            weights = _beside(logits["text"], self._text_weights)
            loss = loss + cross_entropy(logits["text"].float(), batch.text, weights, label_smoothing=smoothing)
        return loss

    def _loss_beside(self, logits: Tensor, batch: Batch) -> Tensor:
        assert self._auxiliary is not None
        assert batch.steps is not None
        return self._auxiliary.weight * cross_entropy(logits.flatten(0, 1), batch.steps.flatten(), ignore_index=IGNORED)

    def _step_loss(self, logits: Tensor, batch: Batch, smoothing: float) -> Tensor:
        """The mean over the steps; in a joint task over the texts of the mean length, so that texts are what counts."""
        assert isinstance(self.network, SequenceNetwork)
        assert batch.steps is not None
        if self.network.chain is not None:
            targets = batch.steps.clamp(min=0)
            if self._training.margin and self._outside is not None:
                missed = (targets != self._outside).float() * self._training.margin  # what O would cost at each step
                outside = one_hot(torch.tensor(self._outside, device=logits.device), logits.shape[2])  # (K,)
                logits = logits + missed[:, :, None] * outside
            mean = self.network.chain.loss(logits, targets, batch.feeds["lengths"])
        else:
            mean = cross_entropy(
                logits.flatten(0, 1),
                batch.steps.flatten(),
                _beside(logits, self._step_weights),
                ignore_index=IGNORED,
                label_smoothing=smoothing,
            )
        if batch.text is None:
            return mean
        return mean * batch.feeds["lengths"].sum() / (len(batch.text) * self._mean_length)

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        found, loss = self.answers(network)
        return {**metrics.rate(self._task, self._of_steps, self.expected, found), "loss": loss}

    @torch.no_grad()
    def answers(self, network: nn.Module) -> tuple[list[ExampleLabels], float]:
        """The answers to the development data, and their loss: nats a target."""
        assert isinstance(network, SequenceNetwork)
        found: list[ExampleLabels] = [ExampleLabels()] * len(self.expected)
        loss, total = 0.0, 0
        for group in buckets(self._dev.lengths, 4096, None):
            batch = self._dev.batch(group)
            answers = network.answers(**moved(batch.feeds, place_of(network)))
            answers = {name: tensor.cpu() for name, tensor in answers.items()}
            for index, answer in zip(group, self._read(answers, batch), strict=True):
                found[index] = answer
            for name, targets in (("probabilities", batch.steps), ("text_probabilities", batch.text)):
                if targets is not None:
                    part = answers.get(name, answers["probabilities"]).flatten(0, -2)
                    some, count = _surprise(part, targets.flatten())
                    loss, total = loss + some, total + count
        return found, loss / max(total, 1)

    def _read(self, answers: dict[str, Tensor], batch: Batch) -> list[ExampleLabels]:
        """The labels of each column of a batch."""
        steps: list[tuple[str, ...]] = [()] * len(batch.feeds["lengths"])
        text: list[str | None] = [None] * len(steps)
        if batch.steps is not None:
            best = answers["path"] if "path" in answers else answers["probabilities"].argmax(-1)  # (T, B)
            lengths = batch.feeds["lengths"].tolist()
            steps = [
                tuple(self._of_steps[number] for number in column[:length])
                for column, length in zip(best.T.tolist(), lengths, strict=True)
            ]
        if batch.text is not None:
            name = "probabilities" if batch.steps is None else "text_probabilities"
            text = [self._of_text[number] for number in answers[name].argmax(-1).tolist()]
        return [ExampleLabels(steps=a, text=b) for a, b in zip(steps, text, strict=True)]


def _beside(logits: Tensor, weights: Tensor | None) -> Tensor | None:
    """Weights of labels where the logits are."""
    return None if weights is None else weights.to(logits.device)


def _some(encoded: "_Encoded", share: float, random: np.random.Generator, below: int = 0) -> list[int]:
    """The lengths of the examples, those that an epoch leaves out as 0; all of `below` steps and more are drawn."""
    if share == 1:
        return encoded.lengths
    drawn = random.random(len(encoded.lengths)) < share
    if below:
        drawn |= np.asarray(encoded.lengths) >= below
    lengths: list[int] = np.where(drawn, encoded.lengths, 0).tolist()
    return lengths if any(lengths) else encoded.lengths  # of a few examples none may be drawn


def _surprise(probabilities: Tensor, targets: Tensor) -> tuple[float, int]:
    """The sum of -log p over the targets that training knows, and how many targets there are at all."""
    counted = targets != IGNORED
    known = counted & (targets < probabilities.shape[-1])
    picked = probabilities[known].gather(-1, targets[known][:, None]).clamp(min=1e-12)
    return float(-picked.log().sum()), int(counted.sum())


def _balance(counts: Tensor) -> Tensor | None:
    """A weight for each class, such that all classes weigh the same together and the mean weight is 1."""
    if not len(counts):
        return None
    return counts.sum() / (len(counts) * counts.clamp(min=1))


class _Encoded:
    """Examples encoded once: feeds and targets are only collated for each batch."""

    def __init__(
        self, codec: Codec, steps: Sequence[str], text: Sequence[str], examples: Sequence[SequenceExample]
    ) -> None:
        self._codec = codec
        self.items: list[Any] = [codec.encode(inputs_of(example)) for example in examples]
        # A label that training never saw cannot be predicted: it counts as an error, under a number of its own.
        index = {label: number for number, label in enumerate(steps)}
        self._steps = [torch.tensor([index.get(tag, len(steps)) for tag in tags_of(example)]) for example in examples]
        index = {label: number for number, label in enumerate(text)}
        numbers = [index.get(label_of(example) or "", len(text)) for example in examples]
        self._text = torch.tensor(numbers, dtype=torch.long)
        self._with_steps, self._with_text = bool(steps), bool(text)
        self.lengths: list[int] = [item.length for item in self.items]
        every = torch.cat(self._steps) if self._with_steps and self._steps else torch.zeros(0, dtype=torch.long)
        self.step_counts = torch.bincount(every, minlength=len(steps))[: len(steps)].float()
        self.text_counts = torch.bincount(self._text, minlength=len(text))[: len(text)].float()

    def batch(self, group: Sequence[int]) -> Batch:
        steps, text = None, None
        if self._with_steps:
            steps = nn.utils.rnn.pad_sequence([self._steps[index] for index in group], padding_value=IGNORED)  # (T, B)
        if self._with_text:
            text = self._text[list(group)]
        feeds = tensors(self._codec.collate([self.items[index] for index in group]))
        return Batch(feeds=feeds, steps=steps, text=text)
