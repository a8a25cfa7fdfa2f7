"""The answers of the tasks as tensors of the Open Inference Protocol V2.

Knows what the engine answers. Knows neither requests nor how tensors travel.
N inputs, K labels, M entities of all inputs together.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from service.api.oip_tensors import Tensor, of_array, of_texts

# The outputs of each kind of answer; "text" is the label of the whole, of a bundle that tags as well.
OUTPUTS: dict[str, tuple[str, ...]] = {
    "tag": ("label", "score", "word", "start", "end", "offsets"),
    "classify": ("label", "score"),
    "text": ("text_label", "text_score"),
    "generate": ("text",),
}


def answered(kind: str, rows: Sequence[Any], labels: int | None) -> list[Tensor]:
    """The tensors of the engine's answers, one an input. `labels`: how many the task has."""
    if kind == "tag":
        return _entities(rows)
    if kind == "generate":
        return [of_texts("text", [row["generated_text"] for row in rows])]
    return _labels(rows, labels or 0, *OUTPUTS[kind])


def _entities(rows: Sequence[Sequence[dict[str, Any]]]) -> list[Tensor]:
    """Of all inputs in one row (M,); those of input i are [offsets[i], offsets[i + 1])."""
    flat = [entity for row in rows for entity in row]
    return [
        of_texts("label", [entity.get("entity_group") or entity["entity"] for entity in flat]),
        of_array("score", np.array([entity["score"] for entity in flat], np.float32)),
        of_texts("word", [entity["word"] for entity in flat]),
        of_array("start", np.array([entity["start"] for entity in flat], np.int32)),
        of_array("end", np.array([entity["end"] for entity in flat], np.int32)),
        of_array("offsets", np.array([0, *accumulate(map(len, rows))], np.int32)),
    ]


def _labels(rows: Sequence[Sequence[dict[str, Any]]], labels: int, label: str, score: str) -> list[Tensor]:
    """(N, K), best first. An input without a step has no labels: its row is filled with "" and 0."""
    width = max(map(len, rows), default=labels) or labels
    filled = [[*row, *[{"label": "", "score": 0.0}] * (width - len(row))] for row in rows]
    shape = (len(rows), width)
    scores = np.array([each["score"] for row in filled for each in row], np.float32)
    return [
        of_texts(label, [each["label"] for row in filled for each in row], shape),
        of_array(score, scores.reshape(shape)),
    ]
