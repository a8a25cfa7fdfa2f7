"""Where a text stands: all that is needed to go on with it as if it had never stopped, as a value of fixed size.

Knows no graph and no signature: whoever hands it out sees to it that it comes back as it was.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.manifest import StateTensor
from models.state import State

HEAD = struct.Struct("<iQQH")  # token, seed, drawn, bytes of the tail
TAIL_CHARACTERS = 255  # one less than the longest stop string that a client may send
BYTES_A_CHARACTER = 4  # in UTF-8, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """`rows` are arrays (1, width) that have read all but the newest `token`."""

    rows: State
    token: int
    seed: int
    drawn: int  # numbers of the stream `seed` that are used up
    tail: str = ""  # of the text, for stop strings that span the cut

    def pack(self) -> bytes:
        """The same as bytes, of which `size` is the most."""
        tail = self.tail.encode("utf-8", "surrogatepass")
        head = HEAD.pack(self.token, self.seed, self.drawn, len(tail))
        return b"".join([head, tail, *(row.astype(row.dtype.newbyteorder("<")).tobytes() for row in self.rows)])

    @classmethod
    def unpack(cls, data: bytes, tensors: Sequence[StateTensor]) -> "Memory":
        """What was packed, for a model with these state tensors."""
        token, seed, drawn, length = HEAD.unpack_from(data)
        place = HEAD.size + length
        tail, rows = data[HEAD.size : place].decode("utf-8", "surrogatepass"), []
        for tensor in tensors:
            dtype = np.dtype(tensor.dtype).newbyteorder("<")
            row = np.frombuffer(data, dtype, tensor.width, place)
            rows.append(row.astype(tensor.dtype)[None])  # a copy, which may be written to
            place += row.nbytes
        if place != len(data):
            raise ValueError(f"{len(data)} bytes, where a text of this model comes to {place}")
        return cls(rows=tuple(rows), token=token, seed=seed, drawn=drawn, tail=tail)


def size(tensors: Sequence[StateTensor]) -> int:
    """Bytes of a packed Memory, at most."""
    rows = sum(np.dtype(tensor.dtype).itemsize * tensor.width for tensor in tensors)
    return HEAD.size + TAIL_CHARACTERS * BYTES_A_CHARACTER + rows
