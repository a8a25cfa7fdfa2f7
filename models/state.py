"""Recurrent state: a tuple of arrays (B, width), one row per sequence, for any kind of cell."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.manifest import StateTensor

State = tuple[NDArray[Any], ...]


def zeros(tensors: Sequence[StateTensor], rows: int) -> State:
    """Return the state before the first step: arrays (rows, width)."""
    return tuple(np.zeros((rows, tensor.width), tensor.dtype) for tensor in tensors)


def join(states: Sequence[State]) -> State:
    """Concatenate the rows of several states."""
    return states[0] if len(states) == 1 else tuple(np.concatenate(parts) for parts in zip(*states, strict=True))


def append(state: State, more: State) -> State:
    """Append rows to a state.

    The state is extended in place if its arrays are the first rows of larger arrays, and copied otherwise. In place,
    the rows behind it are overwritten, such as those that `drop` freed.
    """
    rows, count = len(state[0]), len(more[0])
    bases = [_base_array(array) for array in state]
    large_enough = tuple(base for base in bases if base is not None and len(base) >= rows + count)
    if len(large_enough) < len(state):
        return join([state, more])
    for base, new in zip(large_enough, more, strict=True):
        base[rows : rows + count] = new
    return tuple(base[: rows + count] for base in large_enough)


def _base_array(array: NDArray[Any]) -> NDArray[Any] | None:
    """Return the array whose first rows a view is, if it is such a view."""
    base = array.base
    if base is None or base.shape[1:] != array.shape[1:] or base.ctypes.data != array.ctypes.data:
        return None
    return base


def take(state: State, rows: Sequence[int]) -> State:
    """Return a copy of some rows, in the given order."""
    index = np.asarray(rows, np.intp)
    return tuple(array[index] for array in state)


def drop(state: State, row: int) -> State:
    """Remove one row and move the last row into its place. Writes to the arrays and returns views of them."""
    last = len(state[0]) - 1
    for array in state:
        if row != last:
            array[row] = array[last]
    return tuple(array[:last] for array in state)


def pack(state: State) -> bytes:
    """Return the bytes of all arrays in order, little-endian."""
    return b"".join(array.astype(array.dtype.newbyteorder("<")).tobytes() for array in state)


def packed_size(tensors: Sequence[StateTensor]) -> int:
    """Return the number of bytes of one packed row."""
    return sum(np.dtype(tensor.dtype).itemsize * tensor.width for tensor in tensors)


def unpack(data: bytes, tensors: Sequence[StateTensor], offset: int = 0) -> State:
    """Read one packed row from data[offset:]. Raises ValueError for another size."""
    if len(data) - offset != packed_size(tensors):
        raise ValueError(f"the state has {len(data) - offset} bytes, but this model needs {packed_size(tensors)}")
    rows = []
    for tensor in tensors:
        row = np.frombuffer(data, np.dtype(tensor.dtype).newbyteorder("<"), tensor.width, offset)
        rows.append(row.astype(tensor.dtype)[None])  # (1, width), a writable copy
        offset += row.nbytes
    return tuple(rows)
