"""Filling: the words that belong in the gaps of a text.

T steps, B batch, P gaps of a batch, G gaps of one text, X targets, R best words, V table rows.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.codecs.base import FIRST, UNKNOWN, InputError, Ints, pad, quoted
from models.codecs.words import WordsCodec
from models.tasks.types import FilledGap

GAP = re.compile(r"\[MASK\]|<mask>")  # as BERT and RoBERTa write it
MOST_GAPS = 32  # of one text
MOST_TARGETS = 100
DEFAULT_WORDS = 5  # of an answer
SCORE_DECIMALS = 8
NO_TARGETS: Ints = np.zeros(0, np.int32)

FillAnswer = list[FilledGap] | list[list[FilledGap]]  # the words of the only gap, or those of each gap


@dataclass(frozen=True, kw_only=True)
class EncodedGaps:
    """One encoded text. At a gap, `rows` has the row of unknown words, and `tokens` the mark of the gap."""

    text: str
    tokens: Sequence[str] = ()
    rows: Ints  # (T,)
    steps: Ints  # (G,)
    spans: Sequence[tuple[int, int]] = ()  # start and end of each gap in the text
    targets: Ints  # (X,) rows of the only words that may be answered; all words if empty

    @property
    def length(self) -> int:
        return len(self.rows)

    @property
    def extra(self) -> int:
        """Work in addition to the steps: a distribution over all words for each gap."""
        return len(self.steps)


class FillRow(NamedTuple):
    """The output of the graph for one text: the best words with their scores (G, R), and the scores of targets."""

    scores: NDArray[np.float32]  # (G, R)
    words: Ints  # (G, R)
    target_scores: NDArray[np.float32]  # (G, ≥ X)


class Filling:
    """A filler: one run of the graph fills all gaps of a text. `most` is R, the words that it can answer for a gap."""

    empty_row = None  # the result of an empty text, which is never run

    def __init__(self, codec: WordsCodec, most: int) -> None:
        self.codec, self.most = codec, most
        self._words = (*codec.words, *codec.stems)

    def encode(self, raw: Any, *, limit: int | None = None) -> EncodedGaps:
        """Encode a text with gaps. At most `limit` + 1 words are encoded. An empty text needs no gap.

        Raises InputError for another type, for no gap or too many, and for a gap inside a word.
        """
        if not isinstance(raw, str):
            raise InputError(f"the input is {quoted(raw)}; send a string", value=raw)
        spans = [match.span() for match in islice(GAP.finditer(raw), MOST_GAPS + 1)]
        if len(spans) > MOST_GAPS:
            raise InputError(f"more than {MOST_GAPS} gaps; split it", value=len(spans), limit=MOST_GAPS)
        for start, end in spans:
            around = raw[max(start - 1, 0) : end + 1]
            if raw[start - 1 : start].isalnum() or raw[end : end + 1].isalnum():
                raise InputError(f"{quoted(around)} is a gap inside a word; put spaces around it", value=around)
        rows: list[Ints] = []
        tokens: list[str] = []
        steps: list[int] = []
        length = before = 0
        for start, end in [*spans, (len(raw), len(raw))]:
            left = None if limit is None else max(limit - length, 0)
            words = self.codec.encode(raw[before:start], limit=left)
            rows.append(words.rows)
            tokens += words.tokens
            length += words.length
            if end > start and (limit is None or length <= limit):
                steps.append(length)
                rows.append(np.array([UNKNOWN], np.int32))
                tokens.append(raw[start:end])
                length += 1
            if limit is not None and length > limit:
                break
            before = end
        if length and not spans and (limit is None or length <= limit):
            raise InputError("no gap; put [MASK] where a word is missing")
        return EncodedGaps(
            text=raw,
            tokens=tokens,
            rows=np.concatenate(rows),
            steps=np.array(steps, np.int32),
            spans=spans,
            targets=NO_TARGETS,
        )

    def rows_of(self, targets: Sequence[str]) -> Ints:
        """Return the row (X,) of each target. Raises InputError for an unknown or repeated word, or too many."""
        if len(targets) > MOST_TARGETS:
            message = f"{len(targets)} targets; the limit is {MOST_TARGETS}; send several requests"
            raise InputError(message, value=len(targets), limit=MOST_TARGETS)
        found = [self.codec.encode([target]).rows[0] for target in targets]
        if unknown := [target for target, row in zip(targets, found, strict=True) if row < FIRST]:
            names = ", ".join(map(quoted, unknown))
            raise InputError(f"the model has no word {names}; choose others", value=unknown)
        if len(set(found)) < len(found):
            again = next(target for place, target in enumerate(targets) if found[place] in found[:place])
            raise InputError(f"{quoted(again)} is there twice; send each word once", value=again)
        return np.array(found, np.int32)

    def with_targets(self, item: EncodedGaps, targets: Ints) -> EncodedGaps:
        """Return the item with the rows (X,) of the only words that may be answered."""
        return replace(item, targets=targets)

    def check_top_k(self, top_k: int | None) -> InputError | None:
        """Return an error unless the bundle answers so many words for a gap."""
        if top_k is None or 1 <= top_k <= self.most:
            return None
        return InputError(f"{top_k} is out of range; send 1 to {self.most}", value=top_k, limit=self.most)

    def count(self, item: EncodedGaps, top_k: int | None) -> int:
        """Return the words that are answered for each gap: DEFAULT_WORDS or all targets, unless `top_k` is given."""
        available = len(item.targets) or self.most
        return min(top_k or (available if len(item.targets) else DEFAULT_WORDS), available)

    def collate(self, items: Sequence[EncodedGaps]) -> dict[str, NDArray[Any]]:
        """Return the feeds: words (T, B), lengths (B,), gap_steps and gap_inputs (P,), and targets (P, X), X >= 1."""
        words, lengths = pad([item.rows for item in items], min_steps=1)
        counts = [len(item.steps) for item in items]
        targets, _ = pad([item.targets for item in items], min_steps=1)  # (X, B)
        return {
            "words": words,
            "lengths": lengths,
            "gap_steps": np.concatenate([item.steps for item in items]),
            "gap_inputs": np.repeat(np.arange(len(items), dtype=np.int32), counts),
            "targets": np.repeat(targets.T, counts, axis=0),
        }

    def decode(self, items: Sequence[EncodedGaps], outputs: Mapping[str, NDArray[Any]]) -> list[FillRow]:
        """Return a row for each item from best_scores and best_words (P, R), and target_scores (P, X)."""
        ends = np.cumsum([len(item.steps) for item in items])[:-1]
        columns = (np.split(outputs[name], ends) for name in ("best_scores", "best_words", "target_scores"))
        return list(map(FillRow, *columns))

    def answer(self, item: EncodedGaps, row: FillRow | None, *, top_k: int | None = None) -> FillAnswer:
        """Return the words of the gap, best first; for several gaps the words of each. An empty text has none."""
        if row is None:
            return []
        gaps, count = [], self.count(item, top_k)
        for place, (start, end) in enumerate(item.spans):
            words, scores = row.words[place], row.scores[place]
            if len(item.targets):
                target_scores = row.target_scores[place, : len(item.targets)]
                order = np.argsort(-target_scores, kind="stable")
                words, scores = item.targets[order], target_scores[order]
            rounded = scores[:count].astype(np.float64).round(SCORE_DECIMALS).tolist()
            before, after = item.text[:start], item.text[end:]
            gaps.append(
                [
                    FilledGap(score, word, token := self._words[word - FIRST], f"{before}{token}{after}")
                    for score, word in zip(rounded, words[:count].tolist(), strict=True)
                ]
            )
        return gaps[0] if len(gaps) == 1 else gaps
