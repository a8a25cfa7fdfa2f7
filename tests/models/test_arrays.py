"""Padding and recurrent state: rows of arrays, whatever they mean."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models import state
from models.manifest import StateTensor
from models.padding import pad, pad_frames

TENSORS = (StateTensor(input="h", output="h_next", width=3), StateTensor(input="c", output="c_next", width=2))


@given(rows=st.lists(st.lists(st.integers(1, 99), max_size=9), min_size=1, max_size=9))
def test_padding_keeps_every_row_and_fills_with_zeros(rows: list[list[int]]) -> None:
    padded, lengths = pad([np.array(row, np.int32) for row in rows])
    assert padded.shape == (max(1, *map(len, rows)) if len(rows) > 1 else max(1, len(rows[0])), len(rows))
    assert lengths.tolist() == [len(row) for row in rows]
    for column, row in enumerate(rows):
        assert padded[: len(row), column].tolist() == row
        assert not padded[len(row) :, column].any()


def test_padded_arrays_are_what_a_graph_takes() -> None:
    padded, lengths = pad([np.array([1, 2], np.int32), np.array([], np.int32)], min_steps=4)
    assert (padded.shape, padded.dtype, lengths.dtype) == ((4, 2), np.int32, np.int32)
    assert padded.flags.c_contiguous


def test_frames_are_padded_as_rows_are() -> None:
    rows = [np.array([[1, 2], [3, 4]], np.float32), np.zeros((0, 2), np.float32), np.array([[5, 6]], np.float32)]
    padded, lengths = pad_frames(rows, min_steps=3)
    assert (padded.shape, padded.dtype, padded.flags.c_contiguous) == ((3, 3, 2), np.float32, True)
    assert (lengths.tolist(), lengths.dtype) == ([2, 0, 1], np.int32)
    assert padded[:, 0].tolist() == [[1, 2], [3, 4], [0, 0]]
    assert padded[:, 2].tolist() == [[5, 6], [0, 0], [0, 0]]


def numbered(rows: int) -> state.State:
    """A state whose row i holds i."""
    return tuple(
        np.repeat(np.arange(rows, dtype=np.float32)[:, None], tensor.width, axis=1).copy() for tensor in TENSORS
    )


def rows_of(memory: state.State) -> list[list[float]]:
    """The number of each row, once for each array."""
    return [[float(row[0]) for row in array] for array in memory]


def test_a_text_starts_from_zeros() -> None:
    memory = state.zeros(TENSORS, 2)
    assert [(array.shape, array.dtype) for array in memory] == [((2, 3), np.float32), ((2, 2), np.float32)]
    assert not any(array.any() for array in memory)


def test_joining_puts_rows_below_one_another() -> None:
    assert rows_of(state.join([numbered(2), numbered(1), numbered(3)])) == [[0, 1, 0, 0, 1, 2]] * 2


def test_taking_copies_rows_in_the_order_given() -> None:
    memory = numbered(4)
    taken = state.take(memory, [3, 1])
    assert rows_of(taken) == [[3, 1]] * 2
    taken[0][:] = 9
    assert rows_of(memory) == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize(("row", "left"), [(0, [3, 1, 2]), (1, [0, 3, 2]), (3, [0, 1, 2])])
def test_the_last_row_takes_the_place_of_a_dropped_one(row: int, left: list[float]) -> None:
    assert rows_of(state.drop(numbered(4), row)) == [left] * 2


def test_the_last_row_of_all_can_be_dropped() -> None:
    assert rows_of(state.drop(numbered(1), 0)) == [[], []]


def test_joining_one_state_costs_nothing() -> None:
    memory: tuple[NDArray[np.float32], ...] = numbered(1)
    assert state.join([memory]) is memory


def test_rows_are_appended_in_place_where_there_is_room() -> None:
    base = np.zeros((4, 2), np.float32)
    rows = state.append((base[:0],), (np.ones((2, 2), np.float32),))
    assert rows[0].base is base
    rows = state.append(state.drop(rows, 0), (np.full((3, 2), 5, np.float32),))
    assert rows[0].base is base
    assert rows[0][:, 0].tolist() == [1, 5, 5, 5]
    grown = state.append(rows, (np.zeros((1, 2), np.float32),))
    assert grown[0].base is None
    assert grown[0][:, 0].tolist() == [1, 5, 5, 5, 0]


def test_rows_are_not_appended_into_an_array_that_begins_elsewhere() -> None:
    base = np.zeros((4, 2), np.float32)
    (grown,) = state.append((base[1:2],), (np.ones((1, 2), np.float32),))
    assert grown[:, 0].tolist() == [0, 1]
    assert not base.any()
