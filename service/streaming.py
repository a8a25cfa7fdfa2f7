"""One stream of a causal tagger between two chunks of input, in memory and as bytes."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from models import state as states
from models.manifest import StateTensor
from models.state import State

STEPS = struct.Struct("<Q")


@dataclass(slots=True, kw_only=True)
class TaggingStream:
    """The state of a stream. A successful chunk updates it; a failed chunk leaves it unchanged."""

    model: str
    state: State  # arrays (1, width): this size however long the stream is
    steps: int = 0

    def pack(self) -> bytes:
        """Return the steps and the state as bytes."""
        return STEPS.pack(self.steps) + states.pack(self.state)

    @classmethod
    def unpack(cls, model: str, payload: bytes, tensors: Sequence[StateTensor]) -> Self:
        """Return the stream that was packed. Raises ValueError for a payload of another size."""
        if len(payload) != packed_size(tensors):
            raise ValueError(f"a packed stream has {packed_size(tensors)} bytes, not {len(payload)}")
        (steps,) = STEPS.unpack_from(payload)
        return cls(model=model, state=states.unpack(payload, tensors, STEPS.size), steps=steps)


def packed_size(tensors: Sequence[StateTensor]) -> int:
    """Return the bytes of a packed stream."""
    return STEPS.size + states.packed_size(tensors)
