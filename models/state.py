"""Recurrent state as rows: one row a running sequence, a few arrays (B, width) for a batch.

Knows nothing of the cells that write it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.manifest import StateTensor

State = tuple[NDArray[Any], ...]


def zeros(tensors: Sequence[StateTensor], rows: int) -> State:
    """The state before the first step: arrays (rows, width)."""
    return tuple(np.zeros((rows, tensor.width), tensor.dtype) for tensor in tensors)


def join(states: Sequence[State]) -> State:
    """Rows of several states below one another."""
    return states[0] if len(states) == 1 else tuple(np.concatenate(parts) for parts in zip(*states, strict=True))


def append(state: State, more: State) -> State:
    """Rows below those of a state: in place where its arrays are the first rows of larger ones, else in new arrays.

    What lies behind the rows of a view, as `drop` leaves it, is nobody's and may be overwritten.
    """
    rows, count = len(state[0]), len(more[0])
    bases = [_beginning_of(array) for array in state]
    roomy = tuple(base for base in bases if base is not None and len(base) >= rows + count)
    if len(roomy) < len(state):
        return join([state, more])
    for base, new in zip(roomy, more, strict=True):
        base[rows : rows + count] = new
    return tuple(base[: rows + count] for base in roomy)


def _beginning_of(array: NDArray[Any]) -> NDArray[Any] | None:
    """The array whose first rows are a view, if it is one."""
    base = array.base
    if base is None or base.shape[1:] != array.shape[1:] or base.ctypes.data != array.ctypes.data:
        return None
    return base


def take(state: State, rows: Sequence[int]) -> State:
    """A copy of some rows, in the order given."""
    index = np.asarray(rows, np.intp)
    return tuple(array[index] for array in state)


def drop(state: State, row: int) -> State:
    """Without one row, whose place the last row takes: one row is copied, whatever the size of the table.

    Writes into the arrays that it is given and returns views of them.
    """
    last = len(state[0]) - 1
    for array in state:
        if row != last:
            array[row] = array[last]
    return tuple(array[:last] for array in state)


def pack(state: State) -> bytes:
    """The arrays one behind the other, little-endian."""
    return b"".join(array.astype(array.dtype.newbyteorder("<")).tobytes() for array in state)


def packed_size(tensors: Sequence[StateTensor]) -> int:
    """Bytes of a packed row."""
    return sum(np.dtype(tensor.dtype).itemsize * tensor.width for tensor in tensors)


def unpack(data: bytes, tensors: Sequence[StateTensor], place: int = 0) -> State:
    """The row that was packed, from `place` to the end of `data`; raises ValueError for anything of another size."""
    if len(data) - place != packed_size(tensors):
        raise ValueError(f"{len(data) - place} bytes are no state of {packed_size(tensors)}")
    rows = []
    for tensor in tensors:
        row = np.frombuffer(data, np.dtype(tensor.dtype).newbyteorder("<"), tensor.width, place)
        rows.append(row.astype(tensor.dtype)[None])  # a copy, which may be written to
        place += row.nbytes
    return tuple(rows)
