"""Many-to-one: a distribution over the labels for the whole input.  B batch, K labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.codecs import Codec

SCORE_DECIMALS = 6


class Classification:
    """Encodes, collates and decodes for a classifier."""

    nothing: Sequence[float] = ()  # the row of an input without a step, which no network sees

    def __init__(self, codec: Codec, labels: Sequence[str]) -> None:
        self.codec, self.labels = codec, tuple(labels)

    def encode(self, raw: Any, *, limit: int | None = None) -> Any:
        """One input as its codec takes it; `limit` and what may be raised: see there."""
        return self.codec.encode(raw, limit=limit)

    def collate(self, items: Sequence[Any]) -> dict[str, NDArray[Any]]:
        return self.codec.collate(items)

    def decode(
        self, items: Sequence[Any], outputs: Mapping[str, NDArray[Any]], *, output: str = "probabilities"
    ) -> list[list[float]]:
        """outputs[`output`] (B, K) to the K probabilities of each item."""
        del items  # nothing to cut off: the sequence has already been summed up
        rounded: list[list[float]] = outputs[output].astype(np.float64).round(SCORE_DECIMALS).tolist()
        return rounded

    def answer(self, item: Any, row: Sequence[float], *, top_k: int | None = None) -> list[dict[str, Any]]:
        """Labels with their scores, best first (ties in label order); an empty input has an empty answer."""
        if not item.length:
            return []
        order = sorted(range(len(row)), key=lambda label: -row[label])[:top_k]
        return [{"label": self.labels[label], "score": row[label]} for label in order]
