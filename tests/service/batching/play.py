"""Anything may happen to a scheduler in any order: what is the same for every kind of them."""

from collections.abc import Sequence
from typing import Any

from tests.service.batching.fakes import Waiter


class Play:
    """A scheduler with its surroundings (a Desk), who was accepted, and what each of them is owed."""

    def __init__(self, desk: Any) -> None:
        self.desk = desk
        self.accepted: list[tuple[Waiter, Any]] = []
        self.work: Any = None

    def run(self, actions: Sequence[tuple[Any, ...]]) -> None:
        """Each action is a method's name with its arguments; then everything is brought to its end."""
        for action, *details in actions:
            getattr(self, action)(*details)
        self.end()

    def end(self) -> None:
        self.settle()
        self.desk.work()

    def leave(self, number: int) -> None:
        if self.accepted:
            self.accepted[number % len(self.accepted)][0].connected = False

    def take(self) -> None:
        self.work = self.work or self.desk.scheduler.take()

    def settle(self) -> None:
        if self.work is not None:
            self.work.run()
            self.work.settle()
            self.work = None

    def close(self) -> None:
        self.desk.scheduler.close()


def check_end(waiter: Waiter, *, failed: bool) -> None:
    """It was told once, and an error only for its reason; `failed`: something has gone wrong that is its affair."""
    assert waiter.settled == 1
    if waiter.error == "ClientGone":
        assert not waiter.connected
    elif waiter.error == "DeadlinePassed":
        assert waiter.request.deadline_s < 1e6
    elif waiter.error is not None:
        assert waiter.error == "InternalError"
        assert failed
