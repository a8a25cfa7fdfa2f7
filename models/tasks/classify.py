"""Many-to-one: a distribution over the labels for the whole input.  B batch, K labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.codecs import Codec
from models.tasks.answers import LabelScore
from models.tasks.request_types import EmbeddingInput, unwrap

SCORE_DECIMALS = 6


class Classification:
    """Encodes, collates and decodes for a classifier; `embeds`: its graph also gives the vector of the whole."""

    empty_row: Sequence[float] = ()  # the row of an input without a step, which no network sees

    def __init__(self, codec: Codec, labels: Sequence[str], *, embeds: bool = False) -> None:
        self.codec, self.labels, self.embeds = codec, tuple(labels), embeds

    def encode(self, raw: Any, *, limit: int | None = None) -> Any:
        """One input as its codec takes it; `limit` and what may be raised: see there."""
        return self.codec.encode(raw, limit=limit)

    def collate(self, items: Sequence[Any]) -> dict[str, NDArray[Any]]:
        return self.codec.collate(unwrap(items) if self.embeds else items)

    def decode(
        self, items: Sequence[Any], outputs: Mapping[str, NDArray[Any]], *, output: str = "probabilities"
    ) -> list[Any]:
        """outputs[`output`] (B, K) to the K probabilities of each item; for a Whole its vector, see `vectors`."""
        rounded: list[list[float]] = outputs[output].astype(np.float64).round(SCORE_DECIMALS).tolist()
        return vectors(items, rounded, outputs) if self.embeds else rounded

    def answer(self, item: Any, row: Sequence[float], *, top_k: int | None = None) -> list[LabelScore]:
        """Labels with their scores, best first (ties in label order); an empty input has an empty answer."""
        if not item.length:
            return []
        order = sorted(range(len(row)), key=lambda label: -row[label])[:top_k]
        return [LabelScore(self.labels[label], row[label]) for label in order]


def vectors(items: Sequence[Any], rows: Sequence[Any], outputs: Mapping[str, NDArray[Any]]) -> list[Any]:
    """The rows, in the place of each Whole its row of outputs["embedding"] (B, W): an array (W,)."""
    embedding = outputs["embedding"]
    return [
        embedding[place].copy() if isinstance(item, EmbeddingInput) else row
        for place, (item, row) in enumerate(zip(items, rows, strict=True))
    ]
