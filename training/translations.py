"""Scores of translations by sacreBLEU (Post 2018), and how sources are encoded.

S source steps, T target steps.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from models.codecs import Codec
from models.codecs.pieces import END, END_PIECE, EncodedPieces
from training import metrics

LONGEST_RATIO, LONGEST_EXTRA = 2, 10  # pieces of a translation at most: 2 S + 10


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
    """Return BLEU (13a, cased) and chrF2 in percent."""
    from sacrebleu.metrics import BLEU, CHRF

    columns = list(translations), [list(references)]
    return {metrics.BLEU: BLEU().corpus_score(*columns).score, metrics.CHRF: CHRF().corpus_score(*columns).score}


def signatures() -> dict[str, str]:
    """Return sacreBLEU's description of how each metric is computed, for reports."""
    from sacrebleu.metrics import BLEU, CHRF

    found = {}
    for name, metric in ((metrics.BLEU, BLEU()), (metrics.CHRF, CHRF())):
        metric.corpus_score([""], [[""]])  # the signature counts the references
        found[name] = str(metric.get_signature())
    return found
