"""Classification: a distribution over labels for the whole input, alone or together with tags.

T steps, B batch, K labels, L labels of the whole input, W embedding width.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.codecs import Codec
from models.tasks.tag import EMPTY_ROW, SCORE_DECIMALS, Tagging, TagRow
from models.tasks.types import EmbeddingInput, JointAnswer, LabelScore, TaggedInput, unwrap


class Classification:
    """A classifier. With `embeds` its graph also returns an embedding of the input."""

    empty_row: Sequence[float] = ()  # the result of an input without steps, which is never run

    def __init__(self, codec: Codec, labels: Sequence[str], *, embeds: bool = False) -> None:
        self.codec, self.labels, self.embeds = codec, tuple(labels), embeds

    def encode(self, raw: Any, *, limit: int | None = None) -> Any:
        """Encode one input with the codec, which may raise InputError."""
        return self.codec.encode(raw, limit=limit)

    def collate(self, items: Sequence[Any]) -> dict[str, NDArray[Any]]:
        return self.codec.collate(unwrap(items) if self.embeds else items)

    def decode(
        self, items: Sequence[Any], outputs: Mapping[str, NDArray[Any]], *, output: str = "probabilities"
    ) -> list[Any]:
        """Return the K probabilities of each item from outputs[`output`] (B, K), or the vector of an EmbeddingInput."""
        rounded: list[list[float]] = outputs[output].astype(np.float64).round(SCORE_DECIMALS).tolist()
        return _with_embeddings(items, rounded, outputs) if self.embeds else rounded

    def answer(self, item: Any, row: Sequence[float], *, top_k: int | None = None) -> list[LabelScore]:
        """Return labels with scores, best first and ties in label order. An empty input has no labels."""
        if not item.length:
            return []
        order = sorted(range(len(row)), key=lambda label: -row[label])[:top_k]
        return [LabelScore(self.labels[label], row[label]) for label in order]


def _with_embeddings(items: Sequence[Any], rows: Sequence[Any], outputs: Mapping[str, NDArray[Any]]) -> list[Any]:
    """Replace the row of each EmbeddingInput with its row (W,) of outputs["embedding"] (B, W)."""
    embedding = outputs["embedding"]
    return [
        embedding[place].copy() if isinstance(item, EmbeddingInput) else row
        for place, (item, row) in enumerate(zip(items, rows, strict=True))
    ]


class JointRow(NamedTuple):
    """The result of one input: its steps, and the probabilities of the whole."""

    tags: TagRow
    text: Sequence[float]


class Joint:
    """A tagger and a classifier in one network, both answered by one run."""

    empty_row = JointRow(EMPTY_ROW, ())  # the result of an input without steps, which is never run

    def __init__(
        self,
        codec: Codec,
        labels: Sequence[str],
        text_labels: Sequence[str],
        scheme: str | None,
        *,
        embeds: bool = False,
    ) -> None:
        self.codec, self.embeds = codec, embeds
        self.tagging = Tagging(codec, labels, scheme)
        self.classification = Classification(codec, text_labels)

    def encode(self, raw: Any, *, limit: int | None = None) -> Any:
        """Encode one input with the codec, which may raise InputError."""
        return self.codec.encode(raw, limit=limit)

    def collate(self, items: Sequence[Any]) -> dict[str, NDArray[Any]]:
        return self.codec.collate(unwrap(items) if self.embeds else items)

    def decode(self, items: Sequence[Any], outputs: Mapping[str, NDArray[Any]]) -> list[Any]:
        """Decode the tags, and outputs["text_probabilities"] (B, L); an EmbeddingInput gives its vector."""
        tags = self.tagging.decode(items, outputs)
        texts = self.classification.decode(items, outputs, output="text_probabilities")
        rows = list(map(JointRow, tags, texts))
        return _with_embeddings(items, rows, outputs) if self.embeds else rows

    def tags(self, item: Any, row: JointRow, *, aggregation: str | None = None) -> TaggedInput:
        return self.tagging.answer(item, row.tags, aggregation=aggregation)

    def labels(self, item: Any, row: JointRow, *, top_k: int | None = None) -> list[LabelScore]:
        return self.classification.answer(item, row.text, top_k=top_k)

    def answer(
        self, item: Any, row: JointRow, *, aggregation: str | None = None, top_k: int | None = None
    ) -> JointAnswer:
        """Return both answers, as the examples of a manifest record them."""
        return JointAnswer(
            tags=self.tags(item, row, aggregation=aggregation), labels=self.labels(item, row, top_k=top_k)
        )
