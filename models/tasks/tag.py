"""Tagging: one label per step.

T steps, B batch, K labels.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models import state as states
from models.codecs import Codec
from models.codecs.frames import EncodedFrames, FramesCodec
from models.manifest import StateTensor
from models.state import State
from models.tasks.types import StreamChunk, TaggedInput, unwrap

SCORE_DECIMALS = 6

Span = tuple[str, int, int, float]  # label, first step, one past the last step, mean score


class TagRow(NamedTuple):
    """The result of one input: the label number and the score of each step."""

    labels: list[int]
    scores: list[float]
    state: State = ()  # after a StreamChunk: arrays (1, width)


EMPTY_ROW = TagRow([], [])


class Tagging:
    """A tagger. One with `state` reads forward only and also takes sequences in chunks.

    With a `delay`, the graph labels a frame after it has read `delay` more frames. After the end, the last frame is
    repeated. A stream therefore keeps it, in addition to the state.
    """

    empty_row = EMPTY_ROW  # the result of an input without steps, which is never run

    def __init__(
        self, codec: Codec, labels: Sequence[str], scheme: str | None = None, state: Sequence[StateTensor] = ()
    ) -> None:
        self.codec, self.labels, self.scheme, self.state = codec, tuple(labels), scheme, tuple(state)
        self._frames = codec.spec if isinstance(codec, FramesCodec) else None
        self.delay = self._frames.delay if self._frames else 0
        # What a stream keeps: arrays of these widths.
        self.stream_state = self.state
        if self._frames and self.delay:
            self.stream_state += (StateTensor(input="last", output="last", width=self._frames.features),)
        self._zeros = states.zeros(self.state, 1)

    def encode(self, raw: Any, *, limit: int | None = None) -> Any:
        """Encode one input with the codec, which may raise InputError."""
        return self.codec.encode(raw, limit=limit)

    def start(self) -> State:
        """Return what a stream keeps before its first step: arrays (1, width)."""
        return states.zeros(self.stream_state, 1)

    def last_chunk(self, item: Any, kept: State) -> Any:
        """Return the last chunk of a stream with the repeated frames that the delay needs. `item` is None for none."""
        return EncodedFrames(rows=kept[-1].repeat(self.delay, axis=0)) if item is None else item.extended(self.delay)

    def check_frame_rate(self, aggregation: str | None) -> str:
        """Return why a request cannot have a frame rate; "" if it can."""
        if self._frames is None:
            return "is for frames, and this model reads text; leave it out"
        merges = self.scheme if aggregation is None else aggregation == "simple"
        return "" if merges else "is for merged frames; set aggregation_strategy to simple"

    def collate(self, items: Sequence[Any]) -> dict[str, NDArray[Any]]:
        """Return the feeds of the graph. Whole sequences start from zeros, chunks from their state."""
        if not self.state:
            return self.codec.collate(items)
        count = len(self.state)
        state = states.join([item.state[:count] if isinstance(item, StreamChunk) else self._zeros for item in items])
        if self.delay:
            items = [item if isinstance(item, StreamChunk) else item.extended(self.delay) for item in items]
        return self.codec.collate(unwrap(items)) | {
            tensor.input: rows for tensor, rows in zip(self.state, state, strict=True)
        }

    def decode(self, items: Sequence[Any], outputs: Mapping[str, NDArray[Any]]) -> list[TagRow]:
        """Split outputs["probabilities"] (T, B, K) into one row per item, without the padding.

        The labels are those of outputs["path"] (T, B), where the graph decodes them jointly, else the most likely label
        of each step. Either way a score is the probability of the label at its step. With a delay, the rows of a chunk
        begin with the labels of earlier frames.
        """
        probabilities, path = outputs["probabilities"], outputs.get("path")
        K = probabilities.shape[2]
        if path is None:
            labels = index = probabilities.argmax(axis=2)  # (T, B)
        else:
            # Clip, because the padding of a path is undefined and must not fail the batch.
            labels, index = path, np.clip(path, 0, K - 1)
        # Cells of the flat array: a maximum over the labels takes five times as long.
        best = probabilities.take(index + K * np.arange(index.size).reshape(index.shape))  # (T, B)
        scores = best.T.astype(np.float64).round(SCORE_DECIMALS).tolist()
        firsts = (
            [0 if isinstance(item, StreamChunk) else self.delay for item in items] if self.delay else [0] * len(items)
        )
        rows = [
            TagRow(chosen[first : first + item.length], score[first : first + item.length])
            for item, first, chosen, score in zip(items, firsts, labels.T.tolist(), scores, strict=True)
        ]
        if self.state:
            after = tuple(outputs[tensor.output] for tensor in self.state)
            for place, item in enumerate(items):
                if isinstance(item, StreamChunk):
                    kept = states.take(after, [place])
                    if self.delay:
                        kept += (item.item.rows[-1:].copy(),)
                    rows[place] = rows[place]._replace(state=kept)
        return rows

    def answer(
        self, item: Any, row: TagRow, *, aggregation: str | None = None, frame_rate: float | None = None
    ) -> TaggedInput:
        """Return the entities of one input.

        `aggregation` "simple" merges spans if the bundle has a span scheme, and frames with equal neighboring labels.
        "none" lists every token. None means "simple" if the bundle has a span scheme. Merged frames begin and end at
        seconds if there is a `frame_rate`, in frames per second, here or in the bundle.
        """
        if self.scheme if aggregation is None else aggregation == "simple" and (self.scheme or self._frames):
            entities = [
                (
                    label,
                    round(score, SCORE_DECIMALS),
                    item.span_text(first, end),
                    item.starts[first],
                    item.ends[end - 1],
                )
                for label, first, end, score in self.spans(row)
            ]
            columns: Any = zip(*entities, strict=True)
            if self._frames and frame_rate is None:
                frame_rate = self._frames.frame_rate
            return TaggedInput(*columns, are_spans=True, frame_rate=frame_rate)
        labels = list(map(self.labels.__getitem__, row.labels))
        return TaggedInput(labels, row.scores, item.tokens, item.starts, item.ends)

    def spans(self, row: TagRow) -> list[Span]:
        """Return the spans of one input, or the runs of equal labels without a scheme, each with its mean score."""
        labels = [self.labels[label] for label in row.labels]
        found = find_spans(labels) if self.scheme else _find_runs(labels)
        return [(kind, first, end, sum(row.scores[first:end]) / (end - first)) for kind, first, end in found]


def _find_runs(labels: Sequence[str]) -> list[tuple[str, int, int]]:
    """Merge equal neighboring labels into runs (label, first step, one past the last step)."""
    starts = [place for place, label in enumerate(labels) if not place or labels[place - 1] != label]
    return [(labels[first], first, end) for first, end in pairwise([*starts, len(labels)])]


def find_spans(labels: Sequence[str]) -> list[tuple[str, int, int]]:
    """Merge IOB2 labels into spans (kind, first step, one past the last step).

    An I- label without a B- label opens a span, as in conlleval (CoNLL-2000).
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
