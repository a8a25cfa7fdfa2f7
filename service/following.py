"""One stream of a causal tagger as it stands between two pieces, and as bytes. Knows no network and no HTTP."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from models.manifest import StateTensor
from models.state import State

STEPS = struct.Struct("<Q")
NUMBER = np.dtype("<f4")


@dataclass(slots=True, kw_only=True)
class Following:
    """Mutable: a piece that was answered leaves its state and its steps here; one that failed leaves all as it was."""

    model: str
    memory: State  # arrays (1, width): of this size however long the stream is
    steps: int = 0

    def pack(self) -> bytes:
        """Steps, then the rows of the state as float32, little-endian."""
        return STEPS.pack(self.steps) + b"".join(part.astype(NUMBER).tobytes() for part in self.memory)

    @classmethod
    def unpack(cls, model: str, payload: bytes, tensors: Sequence[StateTensor]) -> Self:
        """What `pack` packed. Raises ValueError for anything of another size."""
        if len(payload) != size(tensors):
            raise ValueError(f"{len(payload)} bytes are no state of {size(tensors)}")
        (steps,), memory, place = STEPS.unpack_from(payload), [], STEPS.size
        for tensor in tensors:
            row = np.frombuffer(payload, NUMBER, tensor.width, place)
            memory.append(row.astype(np.float32).reshape(1, tensor.width))
            place += row.nbytes
        return cls(model=model, memory=tuple(memory), steps=steps)


def size(tensors: Sequence[StateTensor]) -> int:
    """Bytes of a packed stream."""
    return STEPS.size + sum(tensor.width for tensor in tensors) * NUMBER.itemsize
