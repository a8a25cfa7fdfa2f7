"""Beam search: how one source becomes its best targets, one piece at a time.

A beam of one is greedy decoding. The scores of the next pieces come from outside, for all hypotheses of a batch at
once. C candidates of a row, S steps of the source, V pieces.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.codecs.pieces import END
from models.tasks.types import FinishReason

CANDIDATES = 16  # pieces of each hypothesis that a step considers, at most: so many beams are offered
PENALTY_OFFSET = 5  # of the length penalty


@dataclass(frozen=True, kw_only=True, slots=True)
class TranslateOptions:
    """The options of one translation."""

    max_new_tokens: int = 100  # pieces after the prefix
    num_beams: int = 1
    num_return_sequences: int = 1  # at most num_beams
    length_penalty: float = 0.6
    prefix: tuple[int, ...] = ()  # pieces that every target begins with
    details: bool = False  # record log-probabilities and attention


class StepOutputs(NamedTuple):
    """What the model says about the next piece of each row. Equal scores: the lower piece first."""

    best_scores: NDArray[np.float32]  # (B, C) log-probabilities, best first
    best_pieces: NDArray[np.int32]  # (B, C)
    attention: NDArray[np.float32] | None = None  # (B, S)
    log_probabilities: NDArray[np.float32] | None = None  # (B, V)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hypothesis:
    """One target. `score` is the sum of the log-probabilities over the length penalty."""

    pieces: list[int]  # without the end
    log_probabilities: list[float]  # of the pieces and, unless the length ended it, of the end
    attention: list[NDArray[np.float32]] = field(default_factory=list)  # (S,) of each piece, if it was recorded
    score: float
    finish_reason: FinishReason


class _Node(NamedTuple):
    """The newest piece of a hypothesis, and the rest of it."""

    before: "_Node | None"  # None: it has no pieces
    piece: int
    log_probability: float
    attention: NDArray[np.float32] | None


_NOTHING = _Node(None, END, 0.0, None)


def length_penalty(pieces: int, alpha: float) -> float:
    """Return the divisor of the score of a target with so many pieces (Wu et al. 2016, equation 14)."""
    return float(((PENALTY_OFFSET + pieces) / (PENALTY_OFFSET + 1)) ** alpha)


class BeamSearch:
    """The search for the targets of one source.

    `pieces` are the next inputs of its rows. It starts with one row and the end symbol. Then it can have up to
    `num_beams` rows, one fewer for each finished target. It ends when no unfinished target can become one of the best
    `num_return_sequences`.
    """

    def __init__(self, options: TranslateOptions) -> None:
        self.options = options
        self.pieces: list[int] = [END]
        self.finish_reason: FinishReason | None = None  # of the best target, once the search is over
        self.finished: list[Hypothesis] = []  # best first, once the search is over
        self.tokens: list[int] = []  # the target so far, of greedy decoding
        self.log_probabilities: list[float] = []  # of these pieces
        self._live: list[_Node] = [_NOTHING]
        self._scores: list[float] = [0.0]  # of the live hypotheses, best first
        self._length = 0
        self._longest = len(options.prefix) + options.max_new_tokens

    @property
    def rows(self) -> int:
        """Rows of the batch in the next step."""
        return len(self.pieces)

    @property
    def is_forced(self) -> bool:
        """Whether the next piece is one of the prefix. It needs the log-probabilities of all pieces."""
        return self._length < len(self.options.prefix)

    def advance(self, step: StepOutputs, first: int) -> list[int]:
        """Choose the next piece of each row. The rows of this search begin at `first`.

        Returns the row that each new row continues; none if the search is over. Raises ValueError if no piece has a
        finite score, or if a score is NaN.
        """
        if self.is_forced:
            assert step.log_probabilities is not None
            piece = self.options.prefix[self._length]
            chosen = [(0, piece, float(step.log_probabilities[first, piece]))]
        elif self.options.num_beams == 1:
            chosen = [(0, int(step.best_pieces[first, 0]), float(step.best_scores[first, 0]))]
        else:
            chosen = self._best(step, first)
        if not (chosen and math.isfinite(chosen[0][2])):
            raise ValueError("the model gives no piece a finite score")
        self._length += 1
        live: list[_Node] = []
        scores: list[float] = []
        parents: list[int] = []
        for parent, piece, log_probability in chosen:
            # Another search of the batch may have asked for the attention.
            attention = (
                step.attention[first + parent].copy() if self.options.details and step.attention is not None else None
            )
            node = _Node(self._live[parent], piece, log_probability, attention)
            score = self._scores[parent] + log_probability
            if piece == END:
                self._finish(node, score, "eos")
            else:
                live.append(node)
                scores.append(score)
                parents.append(first + parent)
        self._live, self._scores, self.pieces = live, scores, [node.piece for node in live]
        if self.options.num_beams == 1 and live:
            self.tokens.append(live[0].piece)
            self.log_probabilities.append(live[0].log_probability)
        if self._length == self._longest:
            for node, score in zip(live, scores, strict=True):
                self._finish(node, score, "length")
        if live and self._length < self._longest and not self._cannot_improve():
            return parents
        self._end()
        return []

    def _best(self, step: StepOutputs, first: int) -> list[tuple[int, int, float]]:
        """Return the row, the piece and the log-probability of the best candidates, by score, row, and piece."""
        width = self.options.num_beams - len(self.finished)
        last = first + len(self.pieces)
        found = step.best_scores[first:last].astype(np.float64)  # (rows, C)
        if np.isnan(found).any():  # sorted last, they would drop a hypothesis in silence
            raise ValueError("the model gives the score NaN, which is not finite")
        total = (np.array(self._scores)[:, None] + found).ravel()
        order = np.argsort(-total, kind="stable")[:width]  # a row has its lower pieces first
        chosen = order[np.isfinite(total[order])]
        if not len(chosen):
            return []
        rows, columns = np.divmod(chosen, found.shape[1])
        pieces = step.best_pieces[first + rows, columns]
        return list(zip(rows.tolist(), pieces.tolist(), found[rows, columns].tolist(), strict=True))

    def _cannot_improve(self) -> bool:
        """Return whether the worst target that will be returned beats the best that a live hypothesis can become.

        Scores only sink, so a hypothesis is best if it ends now or, with a high length penalty, if it is longest.
        """
        count, alpha = self.options.num_return_sequences, self.options.length_penalty
        if len(self.finished) < count:
            return False
        largest = max(length_penalty(self._length + 1, alpha), length_penalty(self._longest, alpha))
        worst = sorted((each.score for each in self.finished), reverse=True)[count - 1]
        return worst >= self._scores[0] / largest

    def _finish(self, node: _Node, score: float, reason: FinishReason) -> None:
        pieces, log_probabilities, attention = [], [], []
        while node.before is not None:
            pieces.append(node.piece)
            log_probabilities.append(node.log_probability)
            if node.attention is not None:
                attention.append(node.attention)
            node = node.before
        score /= length_penalty(len(pieces), self.options.length_penalty)
        end = int(reason == "eos")
        self.finished.append(
            Hypothesis(
                pieces=pieces[end:][::-1],
                log_probabilities=log_probabilities[::-1],
                attention=attention[end:][::-1],
                score=score,
                finish_reason=reason,
            )
        )

    def _end(self) -> None:
        self.pieces = []
        self.finished.sort(key=lambda each: -each.score)  # stable: of equal ones, the first that was finished
        del self.finished[self.options.num_return_sequences :]
        self.finish_reason = self.finished[0].finish_reason
