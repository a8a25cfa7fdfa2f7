"""Holding out development data, the same for the same seed. Knows nothing of what a row is."""

import random
from collections.abc import Sequence
from typing import TypeVar

from training.data.examples import DataError

T = TypeVar("Row")


def split(
    rows: Sequence[T], *, dev_share: float = 0.1, seed: int, labels: Sequence[str] | None = None
) -> tuple[list[T], list[T]]:
    """Train and dev rows, drawn at random but always the same for a seed; both keep the order of `rows`.

    With `labels`, one a row, every label has its share of the dev rows to within about one row, and an example in
    train (unless there are fewer rows to train on than labels).
    """
    dev_count = _dev_count(len(rows), dev_share, "rows")
    order = _shuffled(len(rows), seed)
    held_out = set(order[:dev_count] if labels is None else _spread(order, dev_count, labels))
    train = [row for i, row in enumerate(rows) if i not in held_out]
    return train, [rows[i] for i in sorted(held_out)]


def folds(rows: Sequence[T], k: int, seed: int, labels: Sequence[str] | None = None) -> list[tuple[list[T], list[T]]]:
    """`k` pairs of train and dev rows for cross-validation: every row is in one dev part, the same for a seed.

    Sizes of the dev parts differ by at most one; with `labels`, so do the rows of each label in them.
    """
    if not 2 <= k <= len(rows):
        raise DataError(f"{len(rows)} rows cannot make {k} folds: ask for 2 to {len(rows)}, or give more data")
    order = _shuffled(len(rows), seed)
    if labels is not None:
        order.sort(key=labels.__getitem__)  # a stable sort: by label, and within a label still at random
    fold_of = {row: place % k for place, row in enumerate(order)}  # dealt out in turn, like cards
    return [
        (
            [row for i, row in enumerate(rows) if fold_of[i] != fold],
            [row for i, row in enumerate(rows) if fold_of[i] == fold],
        )
        for fold in range(k)
    ]


def split_text(text: str, *, dev_share: float = 0.1) -> tuple[str, str]:
    """The text without the last `dev_share` of its characters, and that last part."""
    cut = len(text) - _dev_count(len(text), dev_share, "characters")
    return text[:cut], text[cut:]


def _shuffled(count: int, seed: int) -> list[int]:
    draws = random.Random(seed)
    return sorted(range(count), key=lambda _: draws.random())  # random() is stable across versions of Python


def _spread(order: list[int], dev_count: int, labels: Sequence[str]) -> list[int]:
    """`dev_count` of the shuffled rows, at even distances where they stand label by label, but no label's first."""
    first = {labels[row]: row for row in reversed(order)}
    candidates = [row for row in order if first[labels[row]] != row]
    if len(candidates) < dev_count:
        return order[:dev_count]
    candidates.sort(key=labels.__getitem__)
    return [candidates[(2 * place + 1) * len(candidates) // (2 * dev_count)] for place in range(dev_count)]


def _dev_count(count: int, dev_share: float, unit: str) -> int:
    if not 0 < dev_share < 1:
        raise DataError(f"dev_share is {dev_share}; it must lie between 0 and 1, e.g. 0.1")
    dev_count = round(count * dev_share)
    if not 0 < dev_count < count:
        raise DataError(
            f"{count} {unit} are too few to hold out {dev_share:.0%} for development; "
            "give more data, hold out more (--set data.dev_share=0.3), or give a development file (--dev FILE)"
        )
    return dev_count
