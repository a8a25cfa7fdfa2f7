"""Recurrent state: rows of arrays."""

import numpy as np
import pytest
from numpy.typing import NDArray

from models import state
from models.manifest import StateTensor

TENSORS = (StateTensor(input="h", output="h_next", width=3), StateTensor(input="c", output="c_next", width=2))


def numbered(rows: int) -> state.State:
    """Return a state whose row i holds i."""
    return tuple(
        np.repeat(np.arange(rows, dtype=np.float32)[:, None], tensor.width, axis=1).copy() for tensor in TENSORS
    )


def rows_of(rows: state.State) -> list[list[float]]:
    """Return the number of each row, once for each array."""
    return [[float(row[0]) for row in array] for array in rows]


def test_zeros() -> None:
    rows = state.zeros(TENSORS, 2)
    assert [(array.shape, array.dtype) for array in rows] == [((2, 3), np.float32), ((2, 2), np.float32)]
    assert not any(array.any() for array in rows)


def test_join_concatenates_rows() -> None:
    assert rows_of(state.join([numbered(2), numbered(1), numbered(3)])) == [[0, 1, 0, 0, 1, 2]] * 2


def test_take_copies_rows_in_order() -> None:
    rows = numbered(4)
    taken = state.take(rows, [3, 1])
    assert rows_of(taken) == [[3, 1]] * 2
    taken[0][:] = 9
    assert rows_of(rows) == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize(("row", "left"), [(0, [3, 1, 2]), (1, [0, 3, 2]), (3, [0, 1, 2])])
def test_drop_moves_the_last_row(row: int, left: list[float]) -> None:
    assert rows_of(state.drop(numbered(4), row)) == [left] * 2


def test_drop_the_only_row() -> None:
    assert rows_of(state.drop(numbered(1), 0)) == [[], []]


def test_join_of_one_state_does_not_copy() -> None:
    rows: tuple[NDArray[np.float32], ...] = numbered(1)
    assert state.join([rows]) is rows


def test_append_in_place() -> None:
    base = np.zeros((4, 2), np.float32)
    rows = state.append((base[:0],), (np.ones((2, 2), np.float32),))
    assert rows[0].base is base
    rows = state.append(state.drop(rows, 0), (np.full((3, 2), 5, np.float32),))
    assert rows[0].base is base
    assert rows[0][:, 0].tolist() == [1, 5, 5, 5]
    grown = state.append(rows, (np.zeros((1, 2), np.float32),))
    assert grown[0].base is None
    assert grown[0][:, 0].tolist() == [1, 5, 5, 5, 0]


def test_append_copies_if_the_view_has_an_offset() -> None:
    base = np.zeros((4, 2), np.float32)
    (grown,) = state.append((base[1:2],), (np.ones((1, 2), np.float32),))
    assert grown[:, 0].tolist() == [0, 1]
    assert not base.any()


def test_unpack_reverses_pack() -> None:
    rows = state.take(numbered(3), [2])
    data = state.pack(rows)
    assert len(data) == state.packed_size(TENSORS)
    found = state.unpack(b"--" + data, TENSORS, offset=2)
    assert all(map(np.array_equal, found, rows))
    assert all(array.flags.writeable for array in found)


@pytest.mark.parametrize("change", [1, -1])
def test_unpack_refuses_another_size(change: int) -> None:
    size = state.packed_size(TENSORS)
    with pytest.raises(ValueError, match=str(size)):
        state.unpack(b"0" * (size + change), TENSORS)
