"""One stream of a causal tagger as it stands between two pieces, and as bytes. Knows no network and no HTTP."""

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
    """Mutable: a piece that was answered leaves its state and its steps here; one that failed leaves all as it was."""

    model: str
    memory: State  # arrays (1, width): of this size however long the stream is
    steps: int = 0

    def pack(self) -> bytes:
        """Steps, then the rows of the state."""
        return STEPS.pack(self.steps) + states.pack(self.memory)

    @classmethod
    def unpack(cls, model: str, payload: bytes, tensors: Sequence[StateTensor]) -> Self:
        """What `pack` packed. Raises ValueError for anything of another size."""
        if len(payload) != size(tensors):
            raise ValueError(f"{len(payload)} bytes are no state of {size(tensors)}")
        (steps,) = STEPS.unpack_from(payload)
        return cls(model=model, memory=states.unpack(payload, tensors, STEPS.size), steps=steps)


def size(tensors: Sequence[StateTensor]) -> int:
    """Bytes of a packed stream."""
    return STEPS.size + states.packed_size(tensors)
