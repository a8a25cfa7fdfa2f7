"""Ragged rows to one padded, time-major array and back.  T steps, B batch.

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
    padded = np.zeros((len(rows), max(min_steps, *lengths)), np.int32)  # (B, T): rows are written contiguously
    for line, row, length in zip(padded, rows, lengths, strict=True):
        line[:length] = row
    return np.ascontiguousarray(padded.T), np.array(lengths, np.int32)
