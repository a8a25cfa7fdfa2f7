"""Filling: every word of a text is a gap in turn, and all gaps of a batch are trained at once.

T steps, B batch, P gaps, V table rows, C candidates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from models.codecs.base import FIRST, UNKNOWN
from models.codecs.words import WordsCodec
from training import metrics
from training.data.examples import Splits, TextExample, inputs_of
from training.missing_words import Gaps, GapScores
from training.nn.networks import Filler, Network
from training.objectives import Batch, LengthBuckets, bucket_by_length, to_device, to_tensors
from training.recipe import Recipe

EVALUATION_TOKENS = 1024  # padded tokens in a batch, each with V logits


@dataclass(frozen=True, kw_only=True)
class GapBatch(Batch):
    """Padded texts with their gaps: feeds of a Filler, and the row (P,) of the word at each gap."""

    rows: Tensor


class FillObjective(LengthBuckets):
    """The word at each gap, among all words or among candidates. Words without a row are read but not trained."""

    metric = metrics.TOP1

    def __init__(self, recipe: Recipe, codec: WordsCodec, network: Filler, examples: Splits[TextExample]) -> None:
        self.network: Network = network
        self._codec = codec
        self._train = [codec.encode(inputs_of(example)) for example in examples.train]
        self._dev = [codec.encode(inputs_of(example)) for example in examples.choosing]
        lengths = [item.length for item in self._train]
        super().__init__(recipe.training, lengths, max(lengths, default=1))

    def _batch(self, epoch: int, group: Sequence[int]) -> GapBatch:
        feeds = to_tensors(self._codec.collate([self._train[index] for index in group]))
        rows = feeds["words"]  # (T, B)
        steps, inputs = (rows > UNKNOWN).nonzero(as_tuple=True)
        return GapBatch(feeds={**feeds, "gap_steps": steps, "gap_inputs": inputs}, rows=rows[steps, inputs])

    def weight(self, batch: GapBatch) -> float:
        return len(batch.rows)

    def loss(self, batch: GapBatch) -> Tensor:
        network, batch = self.network, batch.to_device(self.network)
        vectors, rows = network.contexts(**batch.feeds), batch.rows  # (P, E), (P,)
        table, bias = network.embedding.weight, network.bias
        if not self._training.candidates:
            return cross_entropy(linear(vectors, table, bias)[:, FIRST:].float(), rows - FIRST)
        chosen, correction = self._choose(rows, len(table))
        place = torch.zeros(len(table), dtype=torch.long, device=rows.device)
        place[chosen] = torch.arange(len(chosen), device=rows.device)
        return cross_entropy(linear(vectors, table[chosen], bias[chosen]).float() + correction, place[rows])

    def _choose(self, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return the rows (C,) of the candidates, and what is added to their logits (C,).

        The words of the batch and the most frequent words count fully. Those that are drawn from the rest stand for all
        of the rest, so that the sum over all words has the right mean.
        """
        half = self._training.candidates // 2
        fixed = torch.zeros(count, dtype=torch.bool, device=rows.device)
        fixed[: FIRST + half] = True  # the vocabulary is sorted by frequency
        fixed[rows] = True
        rest = (~fixed).nonzero().flatten()
        fixed[:FIRST] = False
        drawn = rest[torch.randperm(len(rest), device=rows.device)[:half]]
        kept = fixed.nonzero().flatten()
        share = math.log(len(rest) / len(drawn)) if len(drawn) else 0.0
        correction = torch.cat([torch.zeros(len(kept)), torch.full((len(drawn),), share)])
        return torch.cat([kept, drawn]), correction.to(rows.device)

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        found = GapScores()
        for group in bucket_by_length([item.length for item in self._dev], EVALUATION_TOKENS, None):
            items = [self._dev[index] for index in group]
            gaps = [Gaps.of(item.tokens, item.rows) for item in items]
            counts = [len(each.steps) for each in gaps]
            if not sum(counts):
                continue
            feeds = to_tensors(self._codec.collate(items))
            feeds["gap_steps"] = torch.from_numpy(np.concatenate([each.steps for each in gaps])).long()
            feeds["gap_inputs"] = torch.arange(len(items)).repeat_interleave(torch.tensor(counts))
            logits = network(**to_device(feeds, network)).float()  # (P, V)
            rows = torch.from_numpy(np.concatenate([each.rows for each in gaps])).long().to(logits.device)
            right = logits.gather(1, rows[:, None])
            ranks = (logits > right).sum(1).tolist()
            nats = cross_entropy(logits, rows, reduction="none").tolist()
            start = 0
            for each, count in zip(gaps, counts, strict=True):
                found.add(each, ranks[start : start + count], nats[start : start + count])
                start += count
        scores = found.scores()
        return {**scores, "loss": math.log(scores[metrics.PERPLEXITY])}
