"""Translations: scores by sacreBLEU (Post 2018), and the baselines that a translator must beat.

S source steps, N links of a source word and a target word.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.codecs import Codec
from models.codecs.pieces import END, END_PIECE, EncodedPieces
from models.codecs.words import tokenize
from training import metrics
from training.data import scenes
from training.data.examples import PairExample

LONGEST_RATIO, LONGEST_EXTRA = 2, 10  # pieces of a translation at most: 2 S + 10
NGRAM = 4  # words of the longest n-grams of BLEU
ITERATIONS = 5  # of expectation maximization
NO_WORD = ""  # the source of target words without a counterpart
COPY, WORD_BY_WORD, FREQUENT = "the source as it is", "word by word (IBM model 1)", "the most frequent target"


@dataclass(frozen=True, kw_only=True)
class AttendedTranslation:
    """One translation, and how much each of its pieces attended to each piece of the source, or patch of a picture."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    weights: NDArray[np.float32]  # (target, source)
    picture: NDArray[np.uint8] | None = None  # (height, width, 3)


def most_pieces(length: int) -> int:
    """Return the most pieces that are written for a source of this length."""
    return LONGEST_RATIO * length + LONGEST_EXTRA


def encode_source(codec: Codec, source: Any) -> Any:
    """Encode what is read. A text ends with the end symbol, so that an empty one has a step, too."""
    item = codec.encode(source)
    if not isinstance(item, EncodedPieces):
        return item
    end = len(item.text)
    return replace(
        item,
        rows=np.append(item.rows, np.int32(END)),
        tokens=[*item.tokens, END_PIECE],
        spans=[*item.spans, (end, end)],
    )


def score(translations: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return BLEU (13a, cased) and chrF2 in percent. References without any 4-gram count only shorter n-grams.

    References that describe generated scenes also give the percentage of those that are described right.
    """
    bleu, chrf = _metrics(references)
    columns = list(translations), [list(references)]
    scores = {metrics.BLEU: bleu.corpus_score(*columns).score, metrics.CHRF: chrf.corpus_score(*columns).score}
    if all(map(scenes.meaning, references)):
        scores[metrics.SCENES] = scenes.share_described(translations, references)
    return scores


def signatures(references: Sequence[str]) -> dict[str, str]:
    """Return sacreBLEU's description of how each metric is computed, for reports."""
    found = {}
    for name, metric in zip((metrics.BLEU, metrics.CHRF), _metrics(references), strict=True):
        metric.corpus_score(list(references), [list(references)])  # the signature counts the references
        found[name] = str(metric.get_signature())
    return found


def _metrics(references: Sequence[str]) -> tuple[Any, Any]:
    from sacrebleu.metrics import BLEU, CHRF  # slow to import

    are_short = all(len(words_of(text)) < NGRAM for text in references)
    return BLEU(effective_order=are_short), CHRF()


def baselines(train: Sequence[PairExample], dev: Sequence[PairExample]) -> dict[str, dict[str, float]]:
    """Return the scores of each baseline on `dev`, by the baseline's name."""
    sources, targets = [example.source for example in dev], [example.target for example in dev]
    if not all(isinstance(source, str) for source in sources):
        most, _ = Counter(example.target for example in train).most_common(1)[0]
        return {FREQUENT: score([most] * len(dev), targets)}
    words = WordTranslations(train)
    return {
        COPY: score([str(source) for source in sources], targets),
        WORD_BY_WORD: score([words.translate(str(source)) for source in sources], targets),
    }


class WordTranslations:
    """The most probable translation of each word by IBM model 1 (Brown et al. 1993), without regard to the order."""

    def __init__(self, pairs: Sequence[PairExample]) -> None:
        tokens = [(words_of(str(pair.source)), words_of(pair.target)) for pair in pairs]
        sources, targets = ({word: None for pair in tokens for word in pair[side]} for side in (0, 1))
        rows = {word: row for row, word in enumerate([NO_WORD, *sources])}
        columns = {word: column for column, word in enumerate(targets)}
        links: list[NDArray[np.int64]] = []  # (3, N): row, column, number of the target word
        count = 0
        for read, written in tokens:
            row = np.array([0, *(rows[word] for word in read)])
            column = np.array([columns[word] for word in written])
            numbers = count + np.arange(len(column))
            links.append(
                np.stack([np.tile(row, len(column)), *(np.repeat(part, len(row)) for part in (column, numbers))])
            )
            count += len(column)
        self._best = dict(zip(rows, _best(links, list(columns)), strict=True))

    def translate(self, text: str) -> str:
        """Return the translation of each word. Unknown words stay as they are."""
        found: list[str] = []
        for word in words_of(text):
            target = self._best.get(word, word)
            joined = found and not any(map(str.isalnum, target))
            found[-1:] = [found[-1] + target] if joined else [*found[-1:], target]
        return " ".join(found)


def words_of(text: str) -> list[str]:
    return tokenize(text, "words")[0]


def _best(links: Sequence[NDArray[np.int64]], words: Sequence[str]) -> list[str]:
    """Return the most probable target word of each row, after expectation maximization over all links."""
    row, column, number = np.concatenate(links, axis=1)
    cells, cell = np.unique(row * len(words) + column, return_inverse=True)
    rows, columns = np.divmod(cells, len(words))
    probability = np.ones(len(cells))
    for _ in range(ITERATIONS):
        share = probability[cell]
        share /= np.bincount(number, share)[number]
        counts = np.bincount(cell, share)
        probability = counts / np.bincount(rows, counts)[rows]
    order = np.lexsort((columns, -probability, rows))
    first = order[np.unique(rows[order], return_index=True)[1]]
    return [words[column] for column in columns[first]]
