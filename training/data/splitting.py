"""Holding out development data, the same for the same seed. Knows nothing of what a row is."""

import random
from collections.abc import Sequence
from typing import TypeVar

from training.data.errors import DataError

Row = TypeVar("Row")


def split(rows: Sequence[Row], *, dev_share: float = 0.1, seed: int) -> tuple[list[Row], list[Row]]:
    """Train and dev rows, drawn at random but always the same for a seed; both keep the order of `rows`."""
    dev_count = _dev_count(len(rows), dev_share, "rows")
    draws = random.Random(seed)
    shuffled = sorted(range(len(rows)), key=lambda _: draws.random())  # random() is stable across versions
    held_out = set(shuffled[:dev_count])
    train = [row for i, row in enumerate(rows) if i not in held_out]
    return train, [rows[i] for i in sorted(held_out)]


def split_text(text: str, *, dev_share: float = 0.1) -> tuple[str, str]:
    """The text without the last `dev_share` of its characters, and that last part."""
    cut = len(text) - _dev_count(len(text), dev_share, "characters")
    return text[:cut], text[cut:]


def _dev_count(count: int, dev_share: float, unit: str) -> int:
    if not 0 < dev_share < 1:
        raise DataError(f"dev_share is {dev_share}; it must lie between 0 and 1, e.g. 0.1")
    dev_count = round(count * dev_share)
    if not 0 < dev_count < count:
        raise DataError(
            f"{count} {unit} are too few to hold out {dev_share:.0%} for development; "
            "give more data, change dev_share, or give a development file of your own"
        )
    return dev_count
