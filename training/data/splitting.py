"""Held-out data and folds, the same for the same seed.

scikit-learn's splitters would give other splits, and published scores refer to these.
"""

import random
from collections.abc import Sequence
from typing import TypeVar

from training.data.examples import DataError

T = TypeVar("T")


def split(
    rows: Sequence[T], *, dev_share: float = 0.1, seed: int, labels: Sequence[str] | None = None
) -> tuple[list[T], list[T]]:
    """Return random train and dev rows, each in the order of `rows`.

    With `labels`, one for each row, the split is stratified to within about one row. Every label keeps a row in train,
    unless train has fewer rows than there are labels.
    """
    dev_count = _dev_count(len(rows), dev_share, "rows")
    order = _shuffled(len(rows), seed)
    held_out = set(order[:dev_count] if labels is None else _spread(order, dev_count, labels))
    train = [row for i, row in enumerate(rows) if i not in held_out]
    return train, [rows[i] for i in sorted(held_out)]


def folds(rows: Sequence[T], k: int, seed: int, labels: Sequence[str] | None = None) -> list[tuple[list[T], list[T]]]:
    """Return `k` pairs of train and dev rows for cross-validation. Every row is in one dev part.

    The sizes of the dev parts differ by at most one; with `labels`, so do the counts of each label in them.
    """
    if not 2 <= k <= len(rows):
        raise DataError(f"{k} folds of {len(rows)} rows; ask for 2 to {len(rows)}, or give more data")
    order = _shuffled(len(rows), seed)
    if labels is not None:
        order.sort(key=labels.__getitem__)  # a stable sort: by label, and random within a label
    fold_of = {row: position % k for position, row in enumerate(order)}
    return [
        (
            [row for i, row in enumerate(rows) if fold_of[i] != fold],
            [row for i, row in enumerate(rows) if fold_of[i] == fold],
        )
        for fold in range(k)
    ]


def split_text(text: str, *, dev_share: float = 0.1) -> tuple[str, str]:
    """Return a text without its last part, and that part: `dev_share` of its characters."""
    cut = len(text) - _dev_count(len(text), dev_share, "characters")
    return text[:cut], text[cut:]


def _shuffled(count: int, seed: int) -> list[int]:
    generator = random.Random(seed)
    return sorted(range(count), key=lambda _: generator.random())  # random() is stable across versions of Python


def _spread(order: list[int], dev_count: int, labels: Sequence[str]) -> list[int]:
    """Choose `dev_count` of the shuffled rows at even distances in label order, but never a label's first row."""
    first = {labels[row]: row for row in reversed(order)}
    candidates = [row for row in order if first[labels[row]] != row]
    if len(candidates) < dev_count:
        return order[:dev_count]
    candidates.sort(key=labels.__getitem__)
    return [candidates[(2 * position + 1) * len(candidates) // (2 * dev_count)] for position in range(dev_count)]


def _dev_count(count: int, dev_share: float, unit: str) -> int:
    if not 0 < dev_share < 1:
        raise DataError(f"dev_share is {dev_share}; give a number between 0 and 1, e.g. 0.1")
    dev_count = round(count * dev_share)
    if not 0 < dev_count < count:
        raise DataError(
            f"{count} {unit} are too few to hold out {dev_share:.0%}; give more data, hold out more (--set "
            "data.dev_share=0.3), or give development data (--dev FILE)"
        )
    return dev_count
