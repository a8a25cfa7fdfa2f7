"""Scores of predicted labels, the same for a network in training and for a bundle that is served.

scikit-learn scores labels and seqeval scores spans. Like conlleval, an I- that follows no span of its kind opens one.
Both are imported on use, because they take a second and commands that only read files need neither. All scores are
percentages.  K labels.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from models.tasks.tag import find_spans
from training.data.examples import SequenceExample, label_of, tags_of
from training.data.tag_schemes import are_iob2

NATS = "nats_per_character"
MSE, MAE, COVERAGE = "mse", "mae", "coverage_80"  # of forecasts
BLEU, CHRF, GREEDY_BLEU = "bleu", "chrf", "greedy_bleu"  # of translations
SCENES = "scenes"  # of captions of generated scenes
TOP1, TOP5, PERPLEXITY = "top1", "top5", "perplexity"  # of gaps at any word
LAST_TOP1, LAST_TOP5 = "last_top1", "last_top5"  # of gaps at the last word of each text
UNITS = {
    "accuracy": "accuracy, %",
    "f1": "span F1, %",
    "exact": "exact match, %",
    "macro_f1": "mean F1 of the labels, %",
    NATS: "nats per character",
    MSE: "mean squared error",
    MAE: "mean absolute error",
    BLEU: "BLEU",
    CHRF: "chrF2",
    GREEDY_BLEU: "BLEU, greedy",
    SCENES: "scenes described right, %",
    COVERAGE: "values in the 80% interval, %",
    TOP1: "any word, first answer right, %",
    TOP5: "any word, one of 5 right, %",
    LAST_TOP1: "last word, first answer right, %",
    LAST_TOP5: "last word, one of 5 right, %",
}
PERFECT = {"accuracy": 100.0, "f1": 100.0, "exact": 100.0}  # scores that cannot improve
Z = 1.96  # of the normal distribution, for an interval of 95%
MOST_CONFUSED = 24  # rows of a confusion matrix: a picture of more is unreadable


History = list[dict[str, float]]  # of a run, one entry per epoch


@dataclass(frozen=True, kw_only=True)
class ExampleLabels:
    """The expected or predicted labels of one example: of its steps, of the whole sequence, or both.

    Predicted labels can have scores: their probabilities.
    """

    steps: tuple[str, ...] = ()
    text: str | None = None
    step_scores: tuple[float, ...] = field(default=(), compare=False)
    text_score: float = field(default=0.0, compare=False)

    @classmethod
    def of(cls, example: SequenceExample) -> Self:
        return cls(steps=tags_of(example), text=label_of(example))


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReport:
    """The scores of one label or one kind of span. `support` counts how often it is expected."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """How often each expected label (row) was predicted as each label (column). The last may stand for many labels."""

    labels: tuple[str, ...]
    counts: NDArray[np.int64]  # (K, K)


def metric_of(task: str, labels: Sequence[str]) -> str:
    """Return the metric that chooses the best epoch. `labels` are those of the manifest."""
    if task == "generate":
        return NATS
    if task == "forecast":
        return MSE
    if task in ("translate", "caption"):
        return BLEU
    if task == "fill":
        return TOP1
    if task == "joint":
        return "exact"
    return "f1" if task == "tag" and are_iob2(labels) else "accuracy"


def score_labels(
    task: str, labels: Sequence[str], expected: Sequence[ExampleLabels], predicted: Sequence[ExampleLabels]
) -> dict[str, float]:
    """Return the scores of a task by metric.

    tag: "accuracy" of the steps, and "f1" of the spans for IOB2 tags, else "macro_f1" (mean over the labels). classify:
    "accuracy". joint: "exact" (steps and label right), "accuracy" of the labels, and "f1" of the spans, else
    "step_accuracy".
    """
    scores: dict[str, float] = {}
    if task in ("tag", "joint"):
        if are_iob2(labels):
            scores["f1"] = span_f1([e.steps for e in expected], [p.steps for p in predicted])
        if task == "tag" or not scores:
            steps = [[label for each in part for label in each.steps] for part in (expected, predicted)]
            scores["accuracy" if task == "tag" else "step_accuracy"] = accuracy(*steps)
            if task == "tag" and not are_iob2(labels):
                scores["macro_f1"] = statistics.fmean(row.f1 for row in label_reports(*steps)) if steps[0] else 0.0
    if task in ("classify", "joint"):
        scores["accuracy"] = accuracy([e.text for e in expected], [p.text for p in predicted])
    if task == "joint":
        scores["exact"] = accuracy(expected, predicted)
    return scores


def report_labels(
    task: str, expected: Sequence[ExampleLabels], predicted: Sequence[ExampleLabels]
) -> dict[str, list[LabelReport]]:
    """Return a report for every kind of span ("spans"; none for "classify"), and for every label ("labels").

    The labels of a joint task are those of the whole sequence.
    """
    reports = {}
    if task != "classify":
        reports["spans"] = span_reports([e.steps for e in expected], [p.steps for p in predicted])
    return reports | {"labels": label_reports(*label_lists(task, expected, predicted))}


def label_lists(
    task: str, expected: Sequence[ExampleLabels], predicted: Sequence[ExampleLabels]
) -> tuple[list[str], list[str]]:
    """Return the expected and the predicted labels: of the sequences, or for "tag" of all steps."""
    if task in ("classify", "joint"):
        return [str(each.text) for each in expected], [str(each.text) for each in predicted]
    return [label for each in expected for label in each.steps], [label for each in predicted for label in each.steps]


def accuracy(expected: Sequence[object], predicted: Sequence[object]) -> float:
    """Return the share of equal items; 0 of none."""
    return 100 * sum(e == p for e, p in zip(expected, predicted, strict=True)) / max(len(expected), 1)


def interval(
    metric: str, expected: Sequence[ExampleLabels], predicted: Sequence[ExampleLabels]
) -> tuple[float, float] | None:
    """Return the 95% interval of accuracy, exact match or F1 on new examples like these; None for other metrics.

    It is Wilson's interval (1927), which has a width at 100% too. The steps of an example are not independent. The
    sample size is therefore the one that gives the variance between examples (Korn and Graubard 1998), or the number of
    examples if they are all alike.
    """
    if metric not in PERFECT or not expected:
        return None
    pairs = np.array([_ratio(metric, e, p) for e, p in zip(expected, predicted, strict=True)], np.float64)  # (N, 2)
    right, of = pairs.sum(0)
    share = right / of if of else 0.0
    variance = float(((pairs[:, 0] - share * pairs[:, 1]) ** 2).sum()) / max(of, 1.0) ** 2
    size = share * (1 - share) / variance if variance else len(expected)
    center, spread = share + Z**2 / (2 * size), Z * math.sqrt(share * (1 - share) / size + (Z / (2 * size)) ** 2)
    low, high = (max(0.0, min(1.0, (center + side * spread) / (1 + Z**2 / size))) for side in (-1, 1))
    return 100 * low, 100 * high


def _ratio(metric: str, expected: ExampleLabels, predicted: ExampleLabels) -> tuple[int, int]:
    """Return the part of one example in the metric, a ratio of two sums over the examples."""
    if metric == "f1":
        spans = [{*find_spans(each.steps)} for each in (expected, predicted)]
        return 2 * len(spans[0] & spans[1]), len(spans[0]) + len(spans[1])
    if metric == "accuracy" and expected.text is None:
        return sum(e == p for e, p in zip(expected.steps, predicted.steps, strict=True)), len(expected.steps)
    return int(expected.text == predicted.text if metric == "accuracy" else expected == predicted), 1


def span_f1(expected: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """Return the F1 of all spans. A span is right if its kind, first and last step are."""
    from seqeval.metrics import f1_score

    return 100 * float(f1_score(_lists(expected), _lists(predicted), zero_division=0))


def span_reports(expected: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> list[LabelReport]:
    """Return a report for every kind of span in alphabetical order; [] for tags that are not IOB2."""
    from seqeval.metrics import classification_report

    tags = {tag for part in (expected, predicted) for sentence in part for tag in sentence}
    if not are_iob2(tags):
        return []
    report = classification_report(_lists(expected), _lists(predicted), output_dict=True, zero_division=0)
    return [_report(kind, *row.values()) for kind, row in report.items() if not kind.endswith(" avg")]


def label_reports(expected: Sequence[str], predicted: Sequence[str]) -> list[LabelReport]:
    """Return a report for every expected or predicted label in alphabetical order. 0/0 counts as 0."""
    from sklearn.metrics import precision_recall_fscore_support

    labels = sorted({*expected, *predicted})
    columns = precision_recall_fscore_support(expected, predicted, labels=labels, zero_division=0)
    return [_report(*row) for row in zip(labels, *columns, strict=True)]


def _report(label: str, precision: Any, recall: Any, f1: Any, support: Any) -> LabelReport:
    shares = {"precision": precision, "recall": recall, "f1": f1}
    percentages = {name: 100 * float(share) for name, share in shares.items()}
    return LabelReport(label=label, support=int(support), **percentages)


def confusion(expected: Sequence[str], predicted: Sequence[str], *, most: int = MOST_CONFUSED) -> Confusion:
    """Count pairs of labels. Of more than `most` labels, those with most errors stay and the others become one."""
    from sklearn.metrics import confusion_matrix

    labels = sorted({*expected, *predicted})
    if len(labels) == 1:  # scikit-learn warns
        return Confusion(labels=tuple(labels), counts=np.array([[len(expected)]]))
    counts: NDArray[np.int64] = confusion_matrix(expected, predicted, labels=labels)  # (K, K)
    if len(labels) <= most:
        return Confusion(labels=tuple(labels), counts=counts)
    errors = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    kept = sorted(np.argsort(-errors, kind="stable")[: most - 1].tolist())
    others = [index for index in range(len(labels)) if index not in set(kept)]
    groups = [[index] for index in kept] + [others]
    merged = np.array([[counts[np.ix_(row, column)].sum() for column in groups] for row in groups])
    return Confusion(labels=(*(labels[index] for index in kept), f"{len(others)} others"), counts=merged)


def higher_is_better(metric: str) -> bool:
    return metric not in (NATS, MSE, PERPLEXITY)


def better(metric: str, new: float, old: float) -> bool:
    return new > old if higher_is_better(metric) else new < old


def best_epoch(history: History, metric: str) -> int:
    """Return the epoch, from 1, with the best score. Ties go to the lower loss, then to the earlier epoch."""
    sign = 1 if higher_is_better(metric) else -1
    scores = [(sign * entry[metric], -entry["dev_loss"]) for entry in history]
    return 1 + scores.index(max(scores))


def epochs_without_improvement(history: History, metric: str) -> int:
    """Return the epochs since the best score was first reached. A lower loss with the same score does not count."""
    scores = [entry[metric] for entry in history]
    best = max(scores) if higher_is_better(metric) else min(scores)
    return len(scores) - 1 - scores.index(best)


def loses_little(metric: str, exact: float, quantized: float) -> bool:
    """Return whether an int8 variant may be the default: at most 0.3 points or 0.01 nats worse than fp32."""
    if metric == NATS:
        return math.isfinite(quantized) and round(quantized - exact, 6) <= 0.01
    return round(exact - quantized, 6) <= 0.3


def _lists(sentences: Sequence[Sequence[str]]) -> list[list[Any]]:
    """Return lists, because seqeval accepts nothing else."""
    return [list(sentence) for sentence in sentences]
