"""Ragged rows to one padded, time-major array and back.  T steps, B batch, F numbers of a frame.

Knows nothing of what the numbers mean.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def pad(rows: Sequence[NDArray[np.int32]], *, min_steps: int = 1) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Pad 1-D rows with zeros to the longest.

    Returns (padded (T, B), lengths (B,)), both int32 and C-contiguous. T is at least `min_steps`: an ONNX
    graph cannot be handed an axis of length zero.
    """
    lengths = list(map(len, rows))
    padded = np.zeros((max([min_steps, *lengths]), len(rows)), np.int32)  # (T, B)
    for column, row, length in zip(padded.T, rows, lengths, strict=True):
        column[:length] = row
    return padded, np.array(lengths, np.int32)


def pad_frames(
    rows: Sequence[NDArray[np.float32]], *, min_steps: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """As `pad`, for rows (T, F) that are all as wide: returns (padded (T, B, F) float32, lengths (B,) int32)."""
    lengths = list(map(len, rows))
    padded = np.zeros((max([min_steps, *lengths]), len(rows), rows[0].shape[1]), np.float32)  # (T, B, F)
    for column, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        padded[:length, column] = row
    return padded, np.array(lengths, np.int32)
