"""From labels expected and labels found to scores, a table by label and a picture of what is taken for what.

Everything here is a function of two sequences of labels. Knows no network, no bundle and no data set. Percentages
throughout.  K labels.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.tasks.tag import find_spans

MOST_DRAWN = 24  # rows and columns of a picture: more are too small to read on a screen
GAMMA = 0.4  # of the colours: one in a hundred is already seen, though most of the rest lies on the diagonal
LONGEST_NAME = 22  # characters of a label beside the picture


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReport:
    """How well one label (or one kind of span) is found; `support` is how often it is expected."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """How often each label (row) was taken for each (column); what is left of many labels is the last of them."""

    labels: tuple[str, ...]
    counts: NDArray[np.int64]  # (K, K)


def accuracy(expected: Sequence[object], found: Sequence[object]) -> float:
    """The share of labels, or of whole answers, that are right; 0 of none."""
    return 100 * sum(e == f for e, f in zip(expected, found, strict=True)) / max(len(expected), 1)


def per_label(expected: Sequence[str], found: Sequence[str]) -> list[LabelReport]:
    """A row for every label that is expected or found, in alphabetical order. What would be 0/0 is 0."""
    right = Counter(e for e, f in zip(expected, found, strict=True) if e == f)
    return _rows(right, Counter(expected), Counter(found))


def macro_f1(expected: Sequence[str], found: Sequence[str]) -> float:
    """The mean F1 of all labels that are expected or found, each of the same weight."""
    rows = per_label(expected, found)
    return sum(row.f1 for row in rows) / max(len(rows), 1)


def span_f1(expected: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> float:
    """F1 of all spans of all sentences: one is right if its kind, first and last step are (conlleval's FB1)."""
    right, wanted, given = (sum(counts.values()) for counts in _span_counts(expected, found))
    return _f1(right, wanted, given)


def per_kind(expected: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> list[LabelReport]:
    """A row for every kind of span."""
    return _rows(*_span_counts(expected, found))


def confusion(expected: Sequence[str], found: Sequence[str], *, most: int = MOST_DRAWN) -> Confusion:
    """Counts of (expected, found). Of more than `most` labels those in the most errors are kept, the rest are one."""
    from sklearn.metrics import confusion_matrix  # takes a second to import, which only a report needs

    labels = sorted({*expected, *found})
    counts: NDArray[np.int64] = confusion_matrix(expected, found, labels=labels)  # (K, K)
    if len(labels) <= most:
        return Confusion(labels=tuple(labels), counts=counts)
    errors = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    kept = sorted(np.argsort(-errors, kind="stable")[: most - 1].tolist())
    others = [place for place in range(len(labels)) if place not in set(kept)]
    groups = [[place] for place in kept] + [others]
    folded = np.array([[counts[np.ix_(row, column)].sum() for column in groups] for row in groups])
    named = (*(labels[place] for place in kept), f"{len(others)} others")
    return Confusion(labels=named, counts=folded)


def draw(matrix: Confusion, path: Path, title: str) -> None:
    """The matrix as a picture (PNG): a row says what became of the steps or texts that have its label."""
    from matplotlib.colors import PowerNorm  # as above
    from matplotlib.figure import Figure  # by itself, it leaves the global state of pyplot alone

    size = len(matrix.labels)
    names = [_shown(label) for label in matrix.labels]
    shares = matrix.counts / np.maximum(matrix.counts.sum(1, keepdims=True), 1)  # (K, K)
    side = 2.5 + 0.34 * max(size, 4)
    figure = Figure(figsize=(side + 1, side), dpi=120, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(100 * shares, cmap="Blues", norm=PowerNorm(GAMMA, vmin=0, vmax=100))
    axes.set_xticks(range(size), names, rotation=90, fontsize=8)
    axes.set_yticks(range(size), names, fontsize=8)
    axes.set_xlabel("found")
    axes.set_ylabel("expected")
    axes.set_title(title.replace("$", r"\$"), fontsize=10)
    figure.colorbar(image, ax=axes, label="% of the row", shrink=0.7, ticks=[0, 1, 5, 20, 50, 100])
    _write_counts(axes, matrix.counts, shares)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # labels of any script; a box is drawn instead
        figure.savefig(path)


def _write_counts(axes: Any, counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.25 else "black"
            axes.text(column, row, f"{count}", ha="center", va="center", fontsize=6, color=colour)


def _shown(label: str) -> str:
    short = label if len(label) <= LONGEST_NAME else label[: LONGEST_NAME - 1] + "…"
    return short.replace("$", r"\$")  # matplotlib reads what stands between two of them as a formula


def _span_counts(
    expected: Sequence[Sequence[str]], found: Sequence[Sequence[str]]
) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Spans by kind: those that are right, those expected, those found."""
    right, wanted, given = Counter[str](), Counter[str](), Counter[str]()
    for e, f in zip(expected, found, strict=True):
        of_e, of_f = find_spans(e), find_spans(f)
        right.update(kind for kind, _, _ in set(of_e) & set(of_f))
        wanted.update(kind for kind, _, _ in of_e)
        given.update(kind for kind, _, _ in of_f)
    return right, wanted, given


def _rows(right: Counter[str], wanted: Counter[str], given: Counter[str]) -> list[LabelReport]:
    return [
        LabelReport(
            label=label,
            precision=100 * right[label] / max(given[label], 1),
            recall=100 * right[label] / max(wanted[label], 1),
            f1=_f1(right[label], wanted[label], given[label]),
            support=wanted[label],
        )
        for label in sorted(wanted.keys() | given.keys())
    ]


def _f1(right: int, wanted: int, given: int) -> float:
    return 100 * 2 * right / max(wanted + given, 1)
