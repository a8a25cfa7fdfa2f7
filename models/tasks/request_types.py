"""What an item may ask of its run beyond the ordinary answer: to go on from a state, or the vector of the whole.

Both stand in a batch among plain items. Knows no codec and no network.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from models.state import State


class StreamChunk(NamedTuple):
    """Steps of a sequence that goes on: its row comes with the state after it. For taggers that have a state."""

    item: Any
    state: State  # arrays (1, width)

    @property
    def length(self) -> int:
        return int(self.item.length)

    @property
    def extra(self) -> int:
        return int(self.item.extra)


class EmbeddingInput(NamedTuple):
    """A sequence of which the vector is asked, not the labels. For bundles that have the output `embedding`."""

    item: Any

    @property
    def length(self) -> int:
        return int(self.item.length)

    @property
    def extra(self) -> int:
        return int(self.item.extra)


def unwrap(items: Sequence[Any]) -> list[Any]:
    """The items as their codec made them."""
    return [item.item if isinstance(item, StreamChunk | EmbeddingInput) else item for item in items]
