"""Many-to-one: a distribution over the labels for the whole input.  B batch, K labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.codecs.words import Words, WordsCodec

SCORE_DECIMALS = 6


class Classification:
    """Encodes, collates and decodes for a classifier."""

    def __init__(self, codec: WordsCodec, labels: Sequence[str]) -> None:
        self.codec, self.labels = codec, tuple(labels)

    def encode(self, raw: str | Sequence[str], *, limit: int | None = None) -> Words:
        """`limit`: see WordsCodec.encode."""
        return self.codec.encode(raw, limit=limit)

    def collate(self, items: Sequence[Words]) -> dict[str, NDArray[np.int32]]:
        return self.codec.collate(items)

    def decode(self, items: Sequence[Words], outputs: Mapping[str, NDArray[np.float32]]) -> list[list[float]]:
        """outputs["probabilities"] (B, K) to the K probabilities of each item."""
        del items  # nothing to cut off: the sequence has already been summed up
        rounded: list[list[float]] = outputs["probabilities"].astype(np.float64).round(SCORE_DECIMALS).tolist()
        return rounded

    def answer(self, item: Words, row: Sequence[float], *, top_k: int | None = None) -> list[dict[str, Any]]:
        """Labels with their scores, best first (ties in label order); an empty input has an empty answer."""
        if not item.length:
            return []
        order = sorted(range(len(row)), key=lambda label: -row[label])[:top_k]
        return [{"label": self.labels[label], "score": row[label]} for label in order]
