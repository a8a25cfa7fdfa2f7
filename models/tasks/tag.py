"""Synced many-to-many: a label for every step.  T steps, B batch, K labels."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models import state as states
from models.codecs import Codec
from models.manifest import StateTensor
from models.state import State
from models.tasks.answers import Entity, EntitySpan
from models.tasks.request_types import StreamChunk, unwrap

SCORE_DECIMALS = 6

Span = tuple[str, int, int, float]  # label, first token, one past the last token, mean score


class TagRow(NamedTuple):
    """What the network says of one input: the best label of each step and its probability; the state after a piece."""

    labels: list[int]
    scores: list[float]
    state: State = ()  # arrays (1, width)


NOTHING = TagRow([], [])
_make_entity = partial(tuple.__new__, Entity)  # as Entity._make, in half the time: it is called for every token


class Tagging:
    """Encodes, collates and decodes for a tagger; with `state` for one that reads forwards only, in pieces if asked.

    Whole sequences begin from zeros, a Piece from the state that it brings.
    """

    empty_row = NOTHING  # the row of an input without a step, which no network sees

    def __init__(
        self, codec: Codec, labels: Sequence[str], scheme: str | None = None, state: Sequence[StateTensor] = ()
    ) -> None:
        self.codec, self.labels, self.scheme, self.state = codec, tuple(labels), scheme, tuple(state)
        self._begin = states.zeros(self.state, 1)

    def encode(self, raw: Any, *, limit: int | None = None) -> Any:
        """One input as its codec takes it; `limit` and what may be raised: see there."""
        return self.codec.encode(raw, limit=limit)

    def start(self) -> State:
        """The state before the first step of a stream: arrays (1, width)."""
        return self._begin

    def collate(self, items: Sequence[Any]) -> dict[str, NDArray[Any]]:
        if not self.state:
            return self.codec.collate(items)
        state = states.join([item.state if isinstance(item, StreamChunk) else self._begin for item in items])
        return self.codec.collate(unwrap(items)) | {
            tensor.input: rows for tensor, rows in zip(self.state, state, strict=True)
        }

    def decode(self, items: Sequence[Any], outputs: Mapping[str, NDArray[Any]]) -> list[TagRow]:
        """outputs["probabilities"] (T, B, K) to a row an item; the padding is cut off.

        With outputs["path"] (T, B), labels that were decoded together, these are the labels; else the likeliest of
        each step. A score is the probability of the label at its step, either way. The row of a Piece has the state
        after it.
        """
        probabilities, path = outputs["probabilities"], outputs.get("path")
        if path is None:
            labels = probabilities.argmax(axis=2)  # (T, B)
            best = np.maximum.reduce(probabilities, axis=2)
        else:
            labels = path
            # Clipped: what a graph leaves in the padding of a path means nothing, and must not stop the batch.
            index = np.clip(path, 0, probabilities.shape[2] - 1)[:, :, None]
            best = np.take_along_axis(probabilities, index, axis=2)[:, :, 0]
        scores = best.T.astype(np.float64).round(SCORE_DECIMALS).tolist()
        rows = [
            TagRow(chosen[: item.length], score[: item.length])
            for item, chosen, score in zip(items, labels.T.tolist(), scores, strict=True)
        ]
        if self.state:
            after = tuple(outputs[tensor.output] for tensor in self.state)
            for place, item in enumerate(items):
                if isinstance(item, StreamChunk):
                    rows[place] = rows[place]._replace(state=states.take(after, [place]))
        return rows

    def answer(self, item: Any, row: TagRow, *, aggregation: str | None = None) -> list[Entity] | list[EntitySpan]:
        """Return the entities of one input.

        `aggregation` "simple" merges spans where the bundle has a span scheme, "none" lists every token;
        None means "simple" where it is possible.
        """
        if self.scheme and aggregation != "none":
            return [
                EntitySpan(
                    entity_group=label,
                    score=round(score, SCORE_DECIMALS),
                    word=item.between(first, last),
                    start=item.starts[first],
                    end=item.ends[last - 1],
                )
                for label, first, last, score in self.spans(row)
            ]
        names = [self.labels[label] for label in row.labels]
        return list(map(_make_entity, zip(names, row.scores, item.tokens, item.starts, item.ends, strict=True)))

    def spans(self, row: TagRow) -> list[Span]:
        """The spans of one input, each with the mean score of its steps."""
        found = find_spans([self.labels[label] for label in row.labels])
        return [(kind, first, end, sum(row.scores[first:end]) / (end - first)) for kind, first, end in found]


def find_spans(labels: Sequence[str]) -> list[tuple[str, int, int]]:
    """IOB2 labels merged: (kind, first step, one past the last step).

    An I- without its beginning opens a span, as conlleval (CoNLL-2000) reads it.
    """
    found: list[tuple[str, int, int]] = []
    opened: tuple[str, int] | None = None
    for place, label in enumerate([*labels, "O"]):
        prefix, _, kind = label.partition("-")
        if opened and (prefix != "I" or kind != opened[0]):
            found.append((*opened, place))
            opened = None
        if prefix in ("B", "I") and kind and opened is None:
            opened = (kind, place)
    return found
