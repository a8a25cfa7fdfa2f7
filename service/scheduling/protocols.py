"""What is handed a ticket, wherever it is run: a scheduler here, or what stands for one in another process."""

from typing import Any, Protocol

from service.errors import Overloaded
from service.scheduling.job import Job


class Waker(Protocol):
    """Sees to it that what was submitted is run."""

    def wake(self) -> None: ...


class Queue(Protocol):
    """Takes a ticket with its parts, or refuses it at once."""

    def submit(self, ticket: Job, parts: Any, /) -> None:
        """Raise Overloaded, Unavailable or DeadlinePassed, or see to it that the ticket is settled."""
        ...

    def drop_the_gone(self) -> None:
        """Make room: nobody keeps a place for a client that has gone."""
        ...

    def close(self) -> None:
        """Accept nothing more."""
        ...


class Roomy(Queue, Protocol):
    """One that can be asked for room before the work on a request is done."""

    def check_room(self, items: int, tokens: int = 0) -> None:
        """Raise Overloaded or Unavailable if so much more is not taken."""
        ...

    def is_full(self, items: int, tokens: int = 0) -> bool:
        """Whether so much more does not fit."""
        ...

    def overload(self) -> Overloaded:
        """What is said when it is full."""
        ...
