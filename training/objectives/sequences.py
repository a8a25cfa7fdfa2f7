"""Tagging, classification and joint tasks: padded batches of encoded sequences, bucketed by length.

T steps, B batch, K step labels, L text labels (labels of whole sequences).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot, pad

from models.codecs import Codec, FramesCodec
from training import metrics
from training.data.augmentation import make_augmenter
from training.data.examples import SequenceExample, Splits, inputs_of, label_names, label_of, tags_of
from training.metrics import ExampleLabels
from training.nn.crf import is_valid_iob2
from training.nn.encoders import FrameEncoder, WordEncoder
from training.nn.networks import Network, SequenceNetwork, fit_standardization
from training.objectives import Batch, LengthBuckets, bucket_by_length, sample_lengths, to_device, to_tensors
from training.options import ClassWeights
from training.recipe import Recipe

AUGMENTATION = 1  # separates the random numbers of augmentation from those of batches
IGNORED = -100  # cross_entropy's default ignore_index, the target of padding
THRESHOLDS = [nats / 5 for nats in range(-10, 11)]  # nats that may be added to the score of O
FEWEST_TOKENS = 32  # in a batch that `fewest_steps` makes smaller
EVALUATION_TOKENS = 4096  # padded tokens in a batch


@dataclass(frozen=True, kw_only=True)
class SequenceBatch(Batch):
    """Padded sequences: a codec's feeds, step targets (T, B) and text targets (B,), as far as the task has them."""

    steps: Tensor | None
    text: Tensor | None
    auxiliary: bool = False  # whether the step targets are those of the auxiliary task


class SequenceObjective(LengthBuckets):
    """Labels of steps, of whole sequences, or of both."""

    def __init__(
        self,
        recipe: Recipe,
        codec: Codec,
        network: SequenceNetwork,
        examples: Splits[SequenceExample],
        auxiliary: Sequence[SequenceExample] = (),
    ) -> None:
        train, dev = examples.train, examples.choosing
        self.network: Network = network
        self._task, self._auxiliary = recipe.task, recipe.auxiliary
        labels, text_labels = label_names(recipe.task, train)
        steps, text = ((), labels) if recipe.task == "classify" else (labels, text_labels)
        self._step_labels, self._text_labels = steps, tuple(recipe.merge) or text
        self._outside = steps.index("O") if "O" in steps else None
        self._examples, self._encode = train, partial(_EncodedExamples, codec, steps, text)
        self._augmenter = make_augmenter(recipe.variation, train) if recipe.variation else None
        self._augmented: tuple[int, _EncodedExamples] | None = None  # the latest epoch and its examples
        self._train = self._encode(train)
        self._dev = _EncodedExamples(codec, steps, self._text_labels, dev)
        self._auxiliary_train = _EncodedExamples(codec, label_names("tag", auxiliary)[0], (), auxiliary)
        self.expected = [ExampleLabels.of(example) for example in dev]
        self.metric = metrics.metric_of(recipe.task, steps)
        super().__init__(recipe.training, self._train.lengths, FEWEST_TOKENS)
        self._mean_length = float(np.mean(self._train.lengths)) if len(train) else 1.0
        self._step_weights = _class_weights(recipe.training.class_weights, self._train.step_counts)
        self._text_weights = _class_weights(recipe.training.class_weights, self._train.text_counts)
        # What a network takes from its training data without learning:
        if isinstance(network.encoder, FrameEncoder):
            fit_standardization(network.encoder, [example.frames for example in train])
        if isinstance(network.encoder, WordEncoder):
            rows = [item.rows for encoded in (self._train, self._auxiliary_train) for item in encoded.items]
            network.encoder.count_words(torch.from_numpy(np.concatenate(rows)).long())
        if network.crf is not None and not is_valid_iob2(tags_of(example) for example in train):
            network.crf.forbidden.fill_(False)

    def _batch(self, epoch: int, group: tuple[list[int], bool]) -> SequenceBatch:
        indices, auxiliary = group
        examples = self._auxiliary_train if auxiliary else self._encoded_for(epoch)
        return replace(examples.collate(indices), auxiliary=auxiliary)

    def _encoded_for(self, epoch: int) -> "_EncodedExamples":
        """Return the training examples of an epoch, which augmentation may have changed."""
        if self._augmenter is None:
            return self._train
        if self._augmented is None or self._augmented[0] != epoch:
            random = np.random.default_rng([self._training.seed, epoch, AUGMENTATION])
            examples = self._augmenter.augment(self._examples, random)
            self._augmented = epoch, self._encode(examples)
        return self._augmented[1]

    def _groups(self, epoch: int) -> list[tuple[list[int], bool]]:
        """Return the example indices of each batch, and whether they index the auxiliary task."""
        random = np.random.default_rng([self._training.seed, epoch])
        groups = [(group, False) for group in self._buckets(self._encoded_for(epoch).lengths, random)]
        if self._auxiliary is None:
            return groups
        lengths = sample_lengths(self._auxiliary_train.lengths, self._auxiliary.share, random)
        groups += [(group, True) for group in bucket_by_length(lengths, self._batch_tokens, random)]
        return [groups[number] for number in random.permutation(len(groups))]

    def weight(self, batch: SequenceBatch) -> float:
        """Return the divisor of the mean loss: the number of targets, or the sum of their class weights.

        In a joint task the targets are texts, also for the auxiliary task.
        """
        if batch.auxiliary and self._task == "joint":
            return len(batch.feeds["lengths"])
        weights = self._step_weights if batch.text is None else self._text_weights
        targets = batch.steps if batch.text is None else batch.text
        counted = targets[targets != IGNORED]
        return len(counted) if weights is None or batch.auxiliary else float(weights[counted].sum())

    def loss(self, batch: SequenceBatch) -> Tensor:
        batch = batch.to_device(self.network)
        logits = self.network(**batch.feeds)
        if batch.auxiliary:
            auxiliary = logits["auxiliary"].float().flatten(0, 1)
            return self._auxiliary.weight * cross_entropy(auxiliary, batch.steps.flatten(), ignore_index=IGNORED)
        loss = torch.zeros((), device=batch.feeds["lengths"].device)
        if batch.steps is not None:
            loss = loss + self._step_loss(logits["steps"].float(), batch)
        if batch.text is not None:
            weights = _on_device_of(logits["text"], self._text_weights)
            smoothing = self._training.label_smoothing
            loss = loss + cross_entropy(logits["text"].float(), batch.text, weights, label_smoothing=smoothing)
        return loss

    def _step_loss(self, logits: Tensor, batch: SequenceBatch) -> Tensor:
        """Return the mean loss over steps; in a joint task over texts of mean length, so that texts are the targets.

        logits (T, B, K).
        """
        if self.network.crf is not None:
            targets = batch.steps.clamp(min=0)
            if self._training.margin and self._outside is not None:
                # Softmax-margin (Gimpel and Smith 2010): a wrong O costs `margin` nats more.
                missed = (targets != self._outside).float() * self._training.margin  # (T, B)
                outside = one_hot(torch.tensor(self._outside, device=logits.device), logits.shape[2])  # (K,)
                logits = logits + missed[:, :, None] * outside
            mean = self.network.crf.loss(logits, targets, batch.feeds["lengths"])
        else:
            mean = cross_entropy(
                logits.flatten(0, 1),
                batch.steps.flatten(),
                _on_device_of(logits, self._step_weights),
                ignore_index=IGNORED,
                label_smoothing=self._training.label_smoothing,
            )
        if batch.text is None:
            return mean
        return mean * batch.feeds["lengths"].sum() / (len(batch.text) * self._mean_length)

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        predictions, loss = self.predict(network)
        return {**metrics.score_labels(self._task, self._step_labels, self.expected, predictions), "loss": loss}

    @torch.no_grad()
    def predict(self, network: nn.Module) -> tuple[list[ExampleLabels], float]:
        """Return the predicted labels of the development data, and the loss in nats per target.

        The loss leaves out labels that training does not know, but counts them as targets.
        """
        predictions = [ExampleLabels()] * len(self.expected)
        loss, total = 0.0, 0
        for group in bucket_by_length(self._dev.lengths, EVALUATION_TOKENS, None):
            batch = self._dev.collate(group)
            answers = network.answers(**to_device(batch.feeds, network))
            answers = {name: tensor.cpu() for name, tensor in answers.items()}
            for index, labels in zip(group, self._labels_of(answers, batch), strict=True):
                predictions[index] = labels
            for name, targets in (("probabilities", batch.steps), ("text_probabilities", batch.text)):
                if targets is None:
                    continue
                probabilities, targets = answers.get(name, answers["probabilities"]).flatten(0, -2), targets.flatten()
                counted = targets != IGNORED
                known = counted & (targets < probabilities.shape[-1])
                picked = probabilities[known].gather(-1, targets[known][:, None]).clamp(min=1e-12)
                loss, total = loss - float(picked.log().sum()), total + int(counted.sum())
        return predictions, loss / max(total, 1)

    def set_threshold(self, network: SequenceNetwork) -> float:
        """Add nats to the score of O so that the F1 on the development data is good, and return them.

        The smallest change counts whose F1 is within one standard error of the best (Breiman et al. 1984), because
        F1 as a function of the threshold is flat and noisy. Returns 0 and changes nothing if the tags are not IOB2.
        """
        if self._outside is None or self.metric != "f1":
            return 0.0
        scores, initial = dict[float, float](), network.step_head.bias.detach().clone()
        for nats in sorted(THRESHOLDS, key=abs):
            network.add_to_score(self._outside, nats)
            scores[nats] = self.evaluate(network)["f1"]
            network.step_head.bias.data.copy_(initial)
        highest, spans = max(scores.values()), sum(tag[:2] == "B-" for each in self.expected for tag in each.steps)
        error = (highest * (100 - highest) / max(spans, 1)) ** 0.5  # in points, of a share of the spans
        chosen = next(nats for nats, score in scores.items() if score >= highest - error)
        network.add_to_score(self._outside, chosen)
        return chosen

    def _labels_of(self, answers: dict[str, Tensor], batch: SequenceBatch) -> list[ExampleLabels]:
        """Return the labels of each column of a batch, with their probabilities."""
        lengths, delay = batch.feeds["lengths"].tolist(), self._dev.delay
        found = [ExampleLabels()] * len(lengths)
        if batch.steps is not None:
            probabilities = answers["probabilities"]  # (T, B, K)
            best = answers["path"].long() if "path" in answers else probabilities.argmax(-1)  # (T, B)
            scores = probabilities.gather(-1, best[:, :, None]).squeeze(-1)  # (T, B)
            columns = zip(best.T.tolist(), scores.T.tolist(), lengths, strict=True)
            found = [
                ExampleLabels(
                    steps=tuple(self._step_labels[number] for number in column[delay:length]),
                    step_scores=tuple(score[delay:length]),
                )
                for column, score, length in columns
            ]
        if batch.text is not None:
            name = "probabilities" if batch.steps is None else "text_probabilities"
            scores, numbers = answers[name].max(-1)  # (B,)
            texts = zip(found, numbers.tolist(), scores.tolist(), strict=True)
            found = [replace(each, text=self._text_labels[n], text_score=score) for each, n, score in texts]
        return found


def _on_device_of(logits: Tensor, weights: Tensor | None) -> Tensor | None:
    return None if weights is None else weights.to(logits.device)


def _class_weights(option: ClassWeights, counts: Tensor) -> Tensor | None:
    """Return class weights with mean 1 over the targets. "balanced" gives all classes the same total weight."""
    if option == "none" or not len(counts):
        return None
    weights = counts.clamp(min=1) ** -(1.0 if option == "balanced" else option)
    return weights * counts.sum() / (weights * counts).sum()


class _EncodedExamples:
    """Examples that are encoded once, so that a batch is only collated.

    A label that training never saw cannot be predicted. It counts as an error under the number K or L. With a delay of
    the codec, the target of step t + delay is the label of frame t, and the first steps have no target.
    """

    def __init__(
        self, codec: Codec, steps: Sequence[str], text: Sequence[str], examples: Sequence[SequenceExample]
    ) -> None:
        self._codec, self.delay = codec, codec.spec.delay if isinstance(codec, FramesCodec) else 0
        self.items: list[Any] = [codec.encode(inputs_of(example)) for example in examples]
        if self.delay:
            self.items = [item.extended(self.delay) for item in self.items]
        self.lengths: list[int] = [item.length for item in self.items]
        index = {label: number for number, label in enumerate(steps)}
        self._steps = [torch.tensor([index.get(tag, len(steps)) for tag in tags_of(example)]) for example in examples]
        index = {label: number for number, label in enumerate(text)}
        numbers = [index.get(label_of(example) or "", len(text)) for example in examples]
        self._text = torch.tensor(numbers, dtype=torch.long)
        self._with_steps, self._with_text = bool(steps), bool(text)
        every = torch.cat(self._steps) if self._with_steps and self._steps else torch.zeros(0, dtype=torch.long)
        self.step_counts = torch.bincount(every, minlength=len(steps))[: len(steps)].float()  # (K,)
        self.text_counts = torch.bincount(self._text, minlength=len(text))[: len(text)].float()  # (L,)

    def collate(self, group: Sequence[int]) -> SequenceBatch:
        steps, text = None, None
        if self._with_steps:
            steps = nn.utils.rnn.pad_sequence([self._steps[index] for index in group], padding_value=IGNORED)  # (T, B)
            steps = pad(steps, (0, 0, self.delay, 0), value=IGNORED)
        if self._with_text:
            text = self._text[list(group)]  # (B,)
        feeds = to_tensors(self._codec.collate([self.items[index] for index in group]))
        return SequenceBatch(feeds=feeds, steps=steps, text=text)
