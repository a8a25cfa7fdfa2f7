"""A sequence scheduler with its surroundings: a clock, a network and an observer that are not real."""

from typing import Any

from service.scheduling.cost_model import CostModel
from service.scheduling.sequences import Limits, SequenceScheduler
from tests.service.batching.fakes import Clock, Echo, Item, Observer, Waiter


class Desk:
    """A scheduler with its surroundings."""

    def __init__(self, *, cost: CostModel | None = None, **limits: Any) -> None:
        self.clock, self.observer = Clock(), Observer()
        self.network = Echo(self.clock)
        self.scheduler = SequenceScheduler(
            self.network, limits=Limits(**limits), cost=cost or CostModel(), clock=self.clock, observer=self.observer
        )

    def ask(self, *items: Item, **asked: Any) -> Waiter:
        waiter = Waiter(self.clock, len(items), **asked)
        self.scheduler.submit(waiter.ticket, items)
        return waiter

    def turn(self) -> bool:
        """Run one batch, False if there is none."""
        batch = self.scheduler.take()
        if batch is not None:
            batch.run()
            batch.settle()
        return batch is not None

    def work(self) -> None:
        while self.turn():
            pass
        assert self.scheduler.idle


def answers(*items: Item) -> list[str]:
    return [f"answer to {item.name}" for item in items]
