"""What all codecs share: table rows, padding and input errors.

T steps, B batch, F features of a frame.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]

# Rows of every embedding table: padding, whatever has no row of its own, and the first entry of the vocabulary.
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


def pad(rows: Sequence[Ints], *, min_steps: int = 1) -> tuple[Ints, Ints]:
    """Pad 1-D rows with zeros to the longest one.

    Returns (padded (T, B), lengths (B,)), C-contiguous. T is at least `min_steps`, because ONNX graphs do not take
    an axis of length zero.
    """
    lengths = list(map(len, rows))
    padded = np.zeros((max([min_steps, *lengths]), len(rows)), np.int32)  # (T, B)
    for column, row, length in zip(padded.T, rows, lengths, strict=True):
        column[:length] = row
    return padded, np.array(lengths, np.int32)


def pad_frames(rows: Sequence[NDArray[np.float32]], *, min_steps: int = 1) -> tuple[NDArray[np.float32], Ints]:
    """Pad arrays (T, F) to (padded (T, B, F) float32, lengths (B,))."""
    lengths = list(map(len, rows))
    padded = np.zeros((max([min_steps, *lengths]), len(rows), rows[0].shape[1]), np.float32)  # (T, B, F)
    for column, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        padded[:length, column] = row
    return padded, np.array(lengths, np.int32)
