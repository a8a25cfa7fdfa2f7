"""Translation: pairs of a source and a target, with teacher forcing.

S source steps, T target steps, B batch, E embedding, V pieces.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.codecs import Codec, ImageCodec
from models.codecs.pieces import END, PiecesCodec
from training import metrics, translations
from training.data.examples import PairExample, Splits
from training.nn.encoders import FrameEncoder
from training.nn.networks import Network, fit_standardization
from training.nn.translator import EncoderDecoder
from training.objectives import Batch, LengthBuckets, bucket_by_length, to_device, to_tensors
from training.recipe import Recipe
from training.translations import AttendedTranslation

IGNORED = -100  # cross_entropy's default ignore_index, the target of padding
FEWEST_TOKENS = 128  # in a batch that `fewest_steps` makes smaller
EVALUATION_TOKENS = 8192  # padded tokens in a batch


@dataclass(frozen=True, kw_only=True)
class PairBatch(Batch):
    """Padded pairs: the feeds of the sources, the rows before each step (T, B), and those to be written (T, B)."""

    written: Tensor
    targets: Tensor


class TranslationObjective(LengthBuckets):
    """The cross entropy of each piece of the target, after the pieces before it, with label smoothing.

    With scheduled sampling, a growing share of the pieces before a step are the network's own (Bengio et al. 2015).
    They come from a pass without gradients over the true ones (Mihaylova and Martins 2019).
    """

    metric = metrics.BLEU

    def __init__(
        self, recipe: Recipe, source: Codec, codec: PiecesCodec, network: EncoderDecoder, examples: Splits[PairExample]
    ) -> None:
        self.network: Network = network
        self._codec, self._source = codec, source
        self._dev = examples.choosing
        self._train_pairs = _EncodedPairs(source, codec, examples.train)
        self._dev_pairs = _EncodedPairs(source, codec, self._dev)
        if isinstance(network.encoder, FrameEncoder):
            fit_standardization(network.encoder, [example.source for example in examples.train])
        super().__init__(recipe.training, self._train_pairs.lengths, FEWEST_TOKENS)
        self._smoothing = recipe.training.label_smoothing
        self._sampled = 0.0  # share of the pieces that are the network's own, in this epoch

    def batches(self, epoch: int, rank: int = 0, world: int = 1) -> Iterator[PairBatch | None]:
        self._sampled = self._training.scheduled_sampling * epoch / max(1, self._training.epochs - 1)
        yield from super().batches(epoch, rank, world)

    def _batch(self, epoch: int, group: Sequence[int]) -> PairBatch:
        return self._train_pairs.collate(group)

    def weight(self, batch: PairBatch) -> int:
        return int((batch.targets != IGNORED).sum())

    def loss(self, batch: PairBatch) -> Tensor:
        batch = batch.to_device(self.network)
        if self._sampled:
            batch = self._with_own_pieces(batch)
        return self._cross_entropy(self.network, batch, self._smoothing)

    def _cross_entropy(self, network: nn.Module, batch: PairBatch, smoothing: float = 0.0) -> Tensor:
        counted = batch.targets != IGNORED
        output = network(batch.written, **batch.feeds)[counted]  # (targets, E)
        return cross_entropy(network.logits(output), batch.targets[counted], label_smoothing=smoothing)

    @torch.no_grad()
    def _with_own_pieces(self, batch: PairBatch) -> PairBatch:
        """Return the batch with some of the pieces before a step replaced by the most probable ones."""
        own = self.network.logits(self.network(batch.written, **batch.feeds)).argmax(-1)  # (T, B)
        shifted = torch.cat([batch.written[:1], own[:-1]])
        chosen = torch.rand(own.shape, device=own.device) < self._sampled
        return replace(batch, written=torch.where(chosen, shifted, batch.written))

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        loss, total = 0.0, 0
        for group in bucket_by_length(self._dev_pairs.lengths, EVALUATION_TOKENS, None):
            batch = self._dev_pairs.collate(group).to_device(network)
            count = self.weight(batch)
            loss, total = loss + float(self._cross_entropy(network, batch)) * count, total + count
        scores = translations.score(self.predict(network), [example.target for example in self._dev])
        return {**scores, "loss": loss / total}

    @torch.no_grad()
    def predict(self, network: nn.Module) -> list[str]:
        """Return the greedy translation of each example that chooses the epoch."""
        found = [""] * len(self._dev)
        for group in bucket_by_length(self._dev_pairs.lengths, EVALUATION_TOKENS, None):
            feeds = to_device(self._dev_pairs.collate(group).feeds, network)
            most = translations.most_pieces(int(feeds["lengths"].max()))
            rows = network.greedy(most, **feeds)  # (T, B)
            for index, column in zip(group, rows.T.tolist(), strict=True):
                found[index] = self._codec.decode(column)
        return found

    @torch.no_grad()
    def attend(self, network: nn.Module, source: Any) -> AttendedTranslation:
        """Return the greedy translation of one source, and its attention."""
        item = translations.encode_source(self._source, source)
        feeds = to_device(to_tensors(dict(self._source.collate([item]))), network)
        memory, h = network.read(**feeds)
        rows, weights = [END], []
        for _ in range(translations.most_pieces(item.length)):
            scores, h, attention = network.step(torch.tensor(rows[-1:], device=h.device), h, memory)
            weights.append(attention[:, 0].cpu().numpy())
            rows.append(int(scores.argmax()))
            if rows[-1] == END:
                break
        tokens = item.tokens if item.text is not None else [str(number) for number in range(1, item.length + 1)]
        return AttendedTranslation(
            source=tuple(tokens),
            target=tuple(self._codec.pieces[row] for row in rows[1:]),
            weights=np.array(weights),
            picture=self._source.read(source) if isinstance(self._source, ImageCodec) else None,
        )


class _EncodedPairs:
    """Pairs that are encoded once, so that a batch is only collated. A target ends with END, and so does a text."""

    def __init__(self, source: Codec, codec: PiecesCodec, examples: Sequence[PairExample]) -> None:
        self._source = source
        self._items: list[Any] = [translations.encode_source(source, example.source) for example in examples]
        self._targets = [np.append(codec.encode(example.target).rows, np.int32(END)) for example in examples]
        self.lengths = [item.length + len(rows) for item, rows in zip(self._items, self._targets, strict=True)]

    def collate(self, group: Sequence[int]) -> PairBatch:
        targets = [torch.from_numpy(self._targets[index]).long() for index in group]
        padded = nn.utils.rnn.pad_sequence(targets, padding_value=IGNORED)  # (T, B)
        written = torch.cat([torch.full_like(padded[:1], END), padded[:-1]])
        feeds = to_tensors(self._source.collate([self._items[index] for index in group]))
        return PairBatch(feeds=feeds, written=written.clamp(min=END), targets=padded)
