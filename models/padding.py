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
    lengths = np.fromiter((len(row) for row in rows), np.int32, len(rows))
    steps = max(int(lengths.max(initial=0)), min_steps)
    padded = np.zeros((len(rows), steps), np.int32)  # (B, T): rows are written contiguously
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return np.ascontiguousarray(padded.T), lengths
