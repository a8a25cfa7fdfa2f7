"""What all codecs share: table rows, padding and input errors.

T steps, B batch, F features of a frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]

# Rows of every embedding table: padding, entries without a row of their own, and the first entry of the vocabulary.
PADDING, UNKNOWN, FIRST = 0, 1, 2
QUOTED_CHARACTERS = 40  # of a rejected value in an error message


class InputError(ValueError):
    """An input that a codec cannot read. `value` is what was found and `limit` what is allowed, where they exist."""

    def __init__(self, message: str, *, value: object = None, limit: int | None = None) -> None:
        super().__init__(message)
        self.value, self.limit = value, limit


class TooLong(InputError):
    """An input of more than `limit` steps."""


def quoted(value: object) -> str:
    """Return the repr of a value, shortened for an error message."""
    text = repr(value)
    return text if len(text) <= QUOTED_CHARACTERS else text[:QUOTED_CHARACTERS] + "…"


def pad(rows: Sequence[NDArray[Any]], *, min_steps: int = 1) -> tuple[NDArray[Any], Ints]:
    """Pad rows (T,) or (T, F) with zeros to the longest one.

    Returns (padded (T, B) or (T, B, F), lengths (B,)), C-contiguous. T is at least `min_steps`, because ONNX graphs do
    not take an axis of length zero.
    """
    lengths = list(map(len, rows))
    padded = np.zeros((max([min_steps, *lengths]), len(rows), *rows[0].shape[1:]), rows[0].dtype)
    for column, row, length in zip(padded.swapaxes(0, 1), rows, lengths, strict=True):
        column[:length] = row
    return padded, np.array(lengths, np.int32)


class NumericCodec:
    """A codec of numbers, without vocabularies and tables."""

    @property
    def vocabularies(self) -> dict[str, tuple[str, ...]]:
        return {}

    @property
    def tables(self) -> dict[str, int]:
        return {}


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedSteps:
    """One encoded input whose offsets count steps."""

    rows: NDArray[Any]  # (T,) or (T, F)

    @property
    def length(self) -> int:
        return len(self.rows)

    @property
    def extra(self) -> int:
        """Work in addition to the steps: none."""
        return 0

    @property
    def starts(self) -> Sequence[int]:
        return range(self.length)

    @property
    def ends(self) -> Sequence[int]:
        return range(1, self.length + 1)
