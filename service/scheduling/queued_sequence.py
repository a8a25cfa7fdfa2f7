"""One sequence of one request while it waits for its batch. Knows its length and its place, nothing of the others."""

from typing import Protocol

from service.scheduling.job import Job


class Sized(Protocol):
    @property
    def length(self) -> int: ...
    @property
    def extra(self) -> int:
        """What is done for it beside its steps, see CostModel."""
        ...


class Entry:
    """One sequence of one ticket, waiting. Sorted by (length, order of arrival)."""

    __slots__ = ("extra", "index", "item", "key", "length", "ticket", "waits")

    def __init__(self, ticket: Job, index: int, item: Sized, number: int) -> None:
        self.ticket, self.index, self.item = ticket, index, item
        self.length, self.extra = item.length, item.extra
        self.key = (self.length, number)
        self.waits = True
