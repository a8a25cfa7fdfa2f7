"""The linear-chain conditional random field (Lafferty et al. 2001), which decides the labels of a sequence jointly.

A path y of labels has the score first[y_0] + Σ_t emissions[t, y_t] + Σ_t transitions[y_{t-1}, y_t] + last[y_{L-1}], in
nats, and the probability exp(score) / Z. Z is the sum over all paths, computed by the forward algorithm with the
scaling of Rabiner 1989: products of exponentials, normalized at every step. A step is one matrix product instead of K²
exponentials. Marginals are the gradient of log Z by the emissions. Sums are in float64, also under autocast: a step can
make a label improbable by hundreds of nats that the rest of the sequence demands.

T steps, B batch, K labels.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from training.nn.recurrent import reverse

# An emission counts as at most this many nats below the best one of its step. Two such factors and a transition still
# lie within float64, so the sum over a step is never zero.
LARGEST_GAP = 300.0


class CRFScores(NamedTuple):
    """The scores of a CRF without its emissions, in nats in float64; -inf where forbidden."""

    transitions: Tensor  # (K, K), [from, to]
    first: Tensor  # (K,)
    last: Tensor  # (K,)


class LinearChainCRF(nn.Module):
    """Learned transitions between labels, for a network that computes the emissions.

    `forbidden` (K + 1, K) bool, [from, to], is True where no path may go. Its last row is the start. It is part of the
    state dict, so a checkpoint brings its own mask.
    """

    def __init__(self, labels: int, forbidden: Tensor | None) -> None:
        super().__init__()
        if forbidden is None:
            forbidden = torch.zeros(labels + 1, labels, dtype=torch.bool)
        if forbidden.shape != (labels + 1, labels):
            shape = tuple(forbidden.shape)
            raise ValueError(f"forbidden has shape {shape}, but {labels} labels need {(labels + 1, labels)}")
        if (dead := forbidden.all(dim=1)).any():
            row = int(dead.nonzero()[0])
            after = "at the start" if row == labels else f"after label {row}"
            raise ValueError(f"all {labels} labels are forbidden {after}: allow one, or leave `forbidden` out")
        self.transitions = nn.Parameter(torch.zeros(labels, labels))
        self.first = nn.Parameter(torch.zeros(labels))
        self.last = nn.Parameter(torch.zeros(labels))
        self.register_buffer("forbidden", forbidden)

    def scores(self) -> CRFScores:
        """Return all scores but the emissions, with -inf where forbidden."""
        transitions = self.transitions.double().masked_fill(self.forbidden[:-1], -torch.inf)
        first = self.first.double().masked_fill(self.forbidden[-1], -torch.inf)
        return CRFScores(transitions, first, self.last.double())

    def loss(self, emissions: Tensor, tags: Tensor, lengths: Tensor) -> Tensor:
        """Return the negative log-likelihood (Lafferty et al. 2001) in nats per step, a scalar: batch sum / Σ lengths.

        emissions (T, B, K), tags (T, B) with any value where t >= length, lengths (B,) >= 1. Infinite for tags with a
        forbidden transition: check them with `is_valid_iob2` first.
        """
        scores, emissions = self.scores(), emissions.double()
        log_likelihood = _path_score(emissions, scores, tags, lengths) - _log_partition(emissions, scores, lengths)
        return (-log_likelihood.sum() / lengths.sum()).to(self.transitions.dtype)

    def marginals(self, emissions: Tensor, lengths: Tensor) -> Tensor:
        """Return the probability (T, B, K) of each label at each step, given the whole sequence; 0 where t >= length.

        emissions (T, B, K), lengths (B,). Computed as the gradient of log Z (Eisner 2016). Carries no gradient itself.
        """
        with torch.enable_grad():
            emissions = emissions.detach().double().requires_grad_()
            scores = CRFScores(*(score.detach() for score in self.scores()))
            (gradient,) = torch.autograd.grad(_log_partition(emissions, scores, lengths).sum(), emissions)
        return gradient.to(self.transitions.dtype)

    @torch.no_grad()
    def decode(self, emissions: Tensor, lengths: Tensor) -> Tensor:
        """Return the most probable path (T, B) int64 (Viterbi 1967); undefined where t >= length.

        emissions (T, B, K), lengths (B,).
        """
        transitions, first, last = self.scores()
        best = [first + emissions[0].double()]  # (B, K): score of the best path that ends in each label
        for emission in emissions[1:].double():
            best.append((best[-1][:, None, :] + transitions.T).amax(dim=2) + emission)
        onwards, path = last.expand_as(best[0]), []
        for scores in reverse(torch.stack(best), lengths):  # trace back from each column's own end
            path.append((scores + onwards).argmax(dim=1))
            onwards = transitions.T[path[-1]]
        return reverse(torch.stack(path)[:, :, None], lengths)[:, :, 0]


def _log_partition(emissions: Tensor, scores: CRFScores, lengths: Tensor) -> Tensor:
    """Return log Z (B,) for emissions (T, B, K) in float64."""
    peaks = emissions.detach().amax(dim=2, keepdim=True)  # (T, B, 1)
    below = emissions - peaks
    # The gradient ignores the clamp, so that marginals sum to 1 also for labels beyond LARGEST_GAP.
    weights = (below + (below.clamp(min=-LARGEST_GAP) - below).detach()).exp()  # (T, B, K), the highest of a step is 1
    highest = [part.detach().max() for part in scores]
    pairs, first, last = ((part - high).exp() for part, high in zip(scores, highest, strict=True))
    message, forwards, sums = first, [], []
    for weight in weights:
        product = message * weight  # (B, K)
        sums.append(product.sum(dim=1, keepdim=True))
        forwards.append(product / sums[-1])
        message = forwards[-1] @ pairs
    # Add back what was divided out: the sum and the peak of every step, and the highest scores.
    log_sums = torch.cat(sums, dim=1).T.log() + peaks[:, :, 0] + highest[0]  # (T, B)
    valid = torch.arange(len(log_sums), device=lengths.device)[:, None] < lengths  # (T, B)
    within = torch.where(valid, log_sums, 0.0).sum(dim=0) - highest[0]
    index = (lengths - 1)[None, :, None].expand(1, -1, len(first))
    final = torch.stack(forwards).gather(0, index)[0]  # (B, K)
    return within + (final * last).sum(dim=1).log() + highest[1] + highest[2]


def _path_score(emissions: Tensor, scores: CRFScores, tags: Tensor, lengths: Tensor) -> Tensor:
    """Return the score (B,) of the paths `tags` (T, B)."""
    valid = torch.arange(len(tags), device=lengths.device)[:, None] < lengths  # (T, B)
    tags = tags.where(valid, 0)  # the padding need not be a label
    steps = emissions.gather(2, tags[:, :, None])[:, :, 0]  # (T, B)
    moves = scores.transitions[tags[:-1], tags[1:]]  # (T - 1, B)
    within = torch.where(valid, steps, 0.0).sum(dim=0) + torch.where(valid[1:], moves, 0.0).sum(dim=0)
    return within + scores.first[tags[0]] + scores.last[tags.gather(0, lengths[None] - 1)[0]]


def may_follow(before: str | None, after: str) -> bool:
    """Return whether IOB2 (Tjong Kim Sang and Veenstra 1999) allows `after` to follow `before` (None: the start)."""
    return not after.startswith("I-") or before in (f"B-{after[2:]}", after)


def is_valid_iob2(sequences: Iterable[Sequence[str]]) -> bool:
    """Return whether all sequences of tags follow IOB2. Data in which an I-x opens an entity does not."""
    return all(may_follow(*pair) for tags in sequences for pair in itertools.pairwise([None, *tags]))


def forbidden_transitions(labels: Sequence[str]) -> Tensor | None:
    """Return the mask (K + 1, K) of the transitions that IOB2 forbids, for LinearChainCRF; None if it forbids none.

    Labels are IOB2 if each is O, B-x or I-x, and every I-x has its B-x. The training tags must follow IOB2 too, or the
    loss is infinite.
    """
    inside = {f"I-{label[2:]}" for label in labels if label.startswith("B-")}
    is_iob2 = all(label == "O" or label.startswith("B-") or label in inside for label in labels)
    mask = torch.tensor([[not may_follow(before, after) for after in labels] for before in [*labels, None]])
    return mask if is_iob2 and bool(mask.any()) else None
