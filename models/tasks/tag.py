"""Synced many-to-many: a label for every step.  T steps, B batch, K labels."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.codecs.words import Words, WordsCodec

SCORE_DECIMALS = 6

Span = tuple[str, int, int, float]  # label, first token, one past the last token, mean score


class TagRow(NamedTuple):
    """What the network says of one input: the best label of each step and its probability."""

    labels: list[int]
    scores: list[float]


class Tagging:
    """Encodes, collates and decodes for a tagger."""

    def __init__(self, codec: WordsCodec, labels: Sequence[str], scheme: str | None = None) -> None:
        self.codec, self.labels, self.scheme = codec, tuple(labels), scheme

    def encode(self, raw: str | Sequence[str], *, limit: int | None = None) -> Words:
        """`limit`: see WordsCodec.encode."""
        return self.codec.encode(raw, limit=limit)

    def collate(self, items: Sequence[Words]) -> dict[str, NDArray[np.int32]]:
        return self.codec.collate(items)

    def decode(self, items: Sequence[Words], outputs: Mapping[str, NDArray[np.float32]]) -> list[TagRow]:
        """outputs["probabilities"] (T, B, K) to a row an item; the padding is cut off."""
        probabilities = outputs["probabilities"]
        labels = probabilities.argmax(axis=2).T.tolist()  # (B, T)
        scores = np.maximum.reduce(probabilities, axis=2).T.astype(np.float64).round(SCORE_DECIMALS).tolist()
        return [
            TagRow(best[: item.length], score[: item.length])
            for item, best, score in zip(items, labels, scores, strict=True)
        ]

    def answer(self, item: Words, row: TagRow, *, aggregation: str | None = None) -> list[dict[str, Any]]:
        """The entities of one input, in the shape of API.md.

        `aggregation` "simple" merges spans where the bundle has a span scheme, "none" lists every token;
        None means "simple" where it is possible.
        """
        if self.scheme and aggregation != "none":
            return [
                {
                    "entity_group": label,
                    "score": round(score, SCORE_DECIMALS),
                    "word": _words(item, first, last),
                    "start": item.starts[first],
                    "end": item.ends[last - 1],
                }
                for label, first, last, score in self.spans(row)
            ]
        names = self.labels
        return [
            {"entity": names[label], "score": score, "word": token, "start": start, "end": end}
            for label, score, token, start, end in zip(
                row.labels, row.scores, item.tokens, item.starts, item.ends, strict=True
            )
        ]

    def spans(self, row: TagRow) -> list[Span]:
        """Merge IOB2 labels. An I- without its beginning opens a span, as conlleval reads it."""
        found: list[Span] = []
        opened: tuple[str, int] | None = None
        names = [self.labels[label] for label in row.labels] + ["O"]
        for place, name in enumerate(names):
            prefix, _, kind = name.partition("-")
            if opened and (prefix != "I" or kind != opened[0]):
                scores = row.scores[opened[1] : place]
                found.append((opened[0], opened[1], place, sum(scores) / len(scores)))
                opened = None
            if prefix in ("B", "I") and kind and opened is None:
                opened = (kind, place)
        return found


def _words(item: Words, first: int, last: int) -> str:
    if item.text is not None:
        return item.text[item.starts[first] : item.ends[last - 1]]
    return " ".join(item.tokens[first:last])
