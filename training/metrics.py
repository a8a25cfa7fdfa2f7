"""From labels expected and found to scores, the same for a network in training and for a bundle that is served.

Knows names of metrics and which way is better. Does not know networks, bundles or text.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from training.data.examples import SequenceExample, label_of, tags_of
from training.report import accuracy, span_f1

NATS = "nats_per_character"
UNITS = {
    "accuracy": "accuracy, %",
    "f1": "F1 of the spans, %",
    "exact": "inputs right as a whole, %",
    NATS: "nats per character",
}


@dataclass(frozen=True, kw_only=True)
class ExampleLabels:
    """What is expected of one example, or found: the labels of the steps, the label of the whole, or both."""

    steps: tuple[str, ...] = ()
    text: str | None = None

    @classmethod
    def of(cls, example: SequenceExample) -> Self:
        return cls(steps=tags_of(example), text=label_of(example))


def in_spans(labels: Sequence[str]) -> bool:
    """Whether labels of steps are those of IOB2 spans."""
    return "O" in labels and all(label == "O" or label[:2] in ("B-", "I-") for label in labels)


def metric_of(task: str, labels: Sequence[str]) -> str:
    """The score that decides: which epoch is the best, what is quoted first. `labels` are those of the manifest."""
    if task == "generate":
        return NATS
    if task == "joint":
        return "exact"
    return "f1" if task == "tag" and in_spans(labels) else "accuracy"


def rate(
    task: str, labels: Sequence[str], expected: Sequence[ExampleLabels], found: Sequence[ExampleLabels]
) -> dict[str, float]:
    """Percentages.

    tag: "accuracy" of the steps and, where labels are spans, their "f1". classify: "accuracy" of the wholes. joint:
    "exact", both right; "accuracy" of the wholes; "f1" of the spans, else "step_accuracy".
    """
    scores: dict[str, float] = {}
    if task in ("tag", "joint"):
        if in_spans(labels):
            scores["f1"] = span_f1([e.steps for e in expected], [f.steps for f in found])
        if task == "tag" or not scores:
            ours, theirs = ([label for one in answers for label in one.steps] for answers in (expected, found))
            scores["accuracy" if task == "tag" else "step_accuracy"] = accuracy(ours, theirs)
    if task in ("classify", "joint"):
        scores["accuracy"] = accuracy([e.text for e in expected], [f.text for f in found])
    if task == "joint":
        scores["exact"] = accuracy(expected, found)
    return scores


def higher_is_better(metric: str) -> bool:
    return metric != NATS


def better(metric: str, new: float, old: float) -> bool:
    return new > old if higher_is_better(metric) else new < old


def loses_little(metric: str, exact: float, quantised: float) -> bool:
    """Whether a variant may be the default: at most 0.3 points or 0.01 nats worse than fp32."""
    if metric == NATS:
        return math.isfinite(quantised) and round(quantised - exact, 6) <= 0.01
    return round(exact - quantised, 6) <= 0.3
