"""Scores of the words that a filler puts into gaps, and the baselines that it must beat.

G gaps, V words.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.codecs.base import UNKNOWN, Ints
from models.codecs.words import tokenize
from training import metrics

FREQUENCIES, TRIGRAM = "frequencies of words, and of last words", "trigram with back-off"
BEST = 5  # words of which one must be right
DISCOUNT = 0.75  # of counts in the trigram model (Ney, Essen and Kneser 1994)
RARE_ENDS = 0.1  # share of the words that never end a text, in the distribution of last words
START = -1  # stands for the words before a text
GAP_MARK = "[MASK]"


def is_word(token: str) -> bool:
    """Return whether a token is a word or a number, not punctuation."""
    return any(character.isalnum() for character in token)


def without_last_word(text: str, tokenizer: str) -> str | None:
    """Return a text with a gap instead of its last word; None for a text without words."""
    tokens, starts, ends = tokenize(text, tokenizer)
    last = next((place for place in reversed(range(len(tokens))) if is_word(tokens[place])), None)
    return None if last is None else f"{text[: starts[last]]}{GAP_MARK}{text[ends[last] :]}"


@dataclass(frozen=True, kw_only=True)
class Gaps:
    """The words of one text that are left out one at a time: all of them, punctuation excepted."""

    steps: Ints  # (G,)
    rows: Ints  # (G,) of the words that belong there

    @classmethod
    def of(cls, tokens: Sequence[str], rows: Ints) -> "Gaps":
        steps = np.array([step for step, token in enumerate(tokens) if is_word(token)], np.int32)
        return cls(steps=steps, rows=rows[steps])


@dataclass(kw_only=True)
class GapScores:
    """Sums over gaps. A word that training never saw counts as wrong, and not in the perplexity."""

    ranks: list[int] = field(default_factory=list)  # of the right word among all words, from 0
    last_ranks: list[int] = field(default_factory=list)  # the same for the last word of each text
    nats: float = 0.0
    known: int = 0

    def add(self, gaps: Gaps, ranks: Sequence[int], nats: Sequence[float]) -> None:
        """Add the gaps of one text with the rank and -ln p of each right word."""
        if not len(gaps.steps):
            return
        found = [rank if row != UNKNOWN else BEST for rank, row in zip(ranks, gaps.rows, strict=True)]
        self.ranks += found
        self.last_ranks.append(found[-1])
        self.nats += sum(each for each, row in zip(nats, gaps.rows, strict=True) if row != UNKNOWN)
        self.known += int((gaps.rows != UNKNOWN).sum())

    def scores(self) -> dict[str, float]:
        """Return the scores by metric: shares in percent, and the perplexity."""
        return {
            metrics.TOP1: _share(self.ranks, 1),
            metrics.TOP5: _share(self.ranks, BEST),
            metrics.LAST_TOP1: _share(self.last_ranks, 1),
            metrics.LAST_TOP5: _share(self.last_ranks, BEST),
            metrics.PERPLEXITY: math.exp(min(self.nats / max(self.known, 1), 700.0)),
        }


def _share(ranks: Sequence[int], best: int) -> float:
    return 100 * sum(rank < best for rank in ranks) / max(len(ranks), 1)


def baselines(train: Sequence[Any], dev: Sequence[Any], words: int) -> dict[str, dict[str, float]]:
    """Return the scores of each baseline on encoded texts, by the baseline's name. `words` is V, the table rows.

    Both are distributions over the words with a row, punctuation included, as a network's answers are. The perplexities
    can therefore be compared.
    """
    ends = [gaps.rows[-1] for item in train if len((gaps := Gaps.of(item.tokens, item.rows)).rows)]
    model = Trigrams([item.rows for item in train], ends, words, _words_of(train))
    found = {FREQUENCIES: GapScores(), TRIGRAM: GapScores()}
    for item in dev:
        gaps = Gaps.of(item.tokens, item.rows)
        if not len(gaps.steps):
            continue
        for name, distributions in ((FREQUENCIES, model.without_context), (TRIGRAM, model.before)):
            ranked = [_rank(p, row) for p, row in zip(distributions(item.rows, gaps.steps), gaps.rows, strict=True)]
            ranks, nats = zip(*ranked, strict=True)
            found[name].add(gaps, ranks, nats)
    return {name: scores.scores() for name, scores in found.items()}


def _words_of(items: Sequence[Any]) -> set[int]:
    """Return the rows of words. The baselines do not answer with punctuation, which is never right."""
    return {row for item in items for token, row in zip(item.tokens, item.rows.tolist(), strict=True) if is_word(token)}


def _rank(probabilities: Any, row: int) -> tuple[int, float]:
    p = probabilities[row]
    return int((probabilities > p).sum()), -math.log(p) if p > 0 else math.inf


class Trigrams:
    """The word after two words: interpolated back-off with absolute discounting (Ney, Essen and Kneser 1994).

    With h' the context h without its first word: p(w | h) = (max(count(h w) - D, 0) + D types(h) p(w | h')) / count(h)
    """

    def __init__(self, texts: Sequence[Ints], ends: Sequence[int], words: int, answers: set[int]) -> None:
        counts = np.zeros(words)
        self._after: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for rows in texts:
            padded = [START, START, *rows.tolist()]
            for first, second, word in zip(padded, padded[1:], padded[2:], strict=False):
                counts[word] += 1
                self._after[second,][word] += 1
                self._after[first, second][word] += 1
        self._allowed = np.zeros(words)
        self._allowed[sorted(answers - {UNKNOWN})] = 1.0
        self._unigram = counts / counts.sum()
        ends_p = np.bincount(ends, minlength=words) / max(len(ends), 1)
        self._last = (1 - RARE_ENDS) * ends_p + RARE_ENDS * self._unigram

    def _answers(self, p: Any) -> Any:
        """Return the distribution (V,) without unknown words, and without answers that are never right."""
        return p * self._allowed / (1 - p[UNKNOWN])

    def without_context(self, rows: Ints, steps: Ints) -> Iterator[Any]:
        """Yield the distribution (V,) of any word for each step, and at the last one that of last words."""
        del rows
        for _ in steps[1:]:
            yield self._answers(self._unigram)
        yield self._answers(self._last)

    def before(self, rows: Ints, steps: Ints) -> Iterator[Any]:
        """Yield the distribution (V,) of the word at each step, given the two words before it."""
        padded = [START, START, *rows.tolist()]
        for step in steps.tolist():
            first, second = padded[step : step + 2]
            p = self._unigram
            for context in ((second,), (first, second)):
                following = self._after.get(context)
                if following:
                    total = following.total()
                    p = p * (DISCOUNT * len(following) / total)
                    places = np.fromiter(following, np.int64, len(following))
                    p[places] += (np.fromiter(following.values(), np.float64, len(following)) - DISCOUNT) / total
            yield self._answers(p)
