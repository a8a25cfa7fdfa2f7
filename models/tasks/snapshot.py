"""Where a text stands: all that is needed to go on with it as if it had never stopped, as a value of fixed size.

Knows no graph and no signature: whoever hands it out sees to it that it comes back as it was.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from models import state as states
from models.manifest import StateTensor
from models.state import State

HEAD = struct.Struct("<iQQH")  # token, seed, sampled, bytes of the tail
TAIL_CHARACTERS = 255  # one less than the longest stop string that a client may send
BYTES_A_CHARACTER = 4  # in UTF-8, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSnapshot:
    """`state` are arrays (1, width) that have read all but the newest `token`."""

    state: State
    token: int
    seed: int
    sampled: int  # numbers of the stream `seed` that are used up
    tail: str = ""  # of the text, for stop strings that span the cut

    def pack(self) -> bytes:
        """The same as bytes, of which `size` is the most."""
        tail = self.tail.encode("utf-8", "surrogatepass")
        head = HEAD.pack(self.token, self.seed, self.sampled, len(tail))
        return head + tail + states.pack(self.state)

    @classmethod
    def unpack(cls, data: bytes, tensors: Sequence[StateTensor]) -> "GenerationSnapshot":
        """What was packed, for a model with these state tensors."""
        token, seed, sampled, length = HEAD.unpack_from(data)
        place = HEAD.size + length
        tail = data[HEAD.size : place].decode("utf-8", "surrogatepass")
        state = states.unpack(data, tensors, place)
        return cls(state=state, token=token, seed=seed, sampled=sampled, tail=tail)


def size(tensors: Sequence[StateTensor]) -> int:
    """Bytes of a packed GenerationSnapshot, at most."""
    return HEAD.size + TAIL_CHARACTERS * BYTES_A_CHARACTER + states.packed_size(tensors)
