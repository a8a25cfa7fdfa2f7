"""Padding."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.codecs.base import pad


@given(rows=st.lists(st.lists(st.integers(1, 99), max_size=9), min_size=1, max_size=9))
def test_pad_keeps_rows_and_fills_with_zeros(rows: list[list[int]]) -> None:
    padded, lengths = pad([np.array(row, np.int32) for row in rows])
    assert padded.shape == (max(1, *map(len, rows)) if len(rows) > 1 else max(1, len(rows[0])), len(rows))
    assert lengths.tolist() == [len(row) for row in rows]
    for column, row in enumerate(rows):
        assert padded[: len(row), column].tolist() == row
        assert not padded[len(row) :, column].any()


def test_pad_returns_contiguous_int32() -> None:
    padded, lengths = pad([np.array([1, 2], np.int32), np.array([], np.int32)], min_steps=4)
    assert (padded.shape, padded.dtype, lengths.dtype) == ((4, 2), np.int32, np.int32)
    assert padded.flags.c_contiguous


def test_pad_frames() -> None:
    rows = [np.array([[1, 2], [3, 4]], np.float32), np.zeros((0, 2), np.float32), np.array([[5, 6]], np.float32)]
    padded, lengths = pad(rows, min_steps=3)
    assert (padded.shape, padded.dtype, padded.flags.c_contiguous) == ((3, 3, 2), np.float32, True)
    assert (lengths.tolist(), lengths.dtype) == ([2, 0, 1], np.int32)
    assert padded[:, 0].tolist() == [[1, 2], [3, 4], [0, 0]]
    assert padded[:, 2].tolist() == [[5, 6], [0, 0], [0, 0]]
