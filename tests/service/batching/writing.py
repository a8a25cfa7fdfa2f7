"""A step scheduler with its surroundings: a clock, an author and an observer that are not real."""

from typing import Any

from service.scheduling.cost_model import CostModel
from service.scheduling.decoding import Limits, Prefill, Steps, StepScheduler
from tests.service.batching.fakes import CODEC, Author, Clock, Observer, Waiter, expected, following, text


class Desk:
    """A scheduler with its surroundings; each dispatch is one step, unless `dispatch_s` says otherwise."""

    def __init__(self, *, dispatch_s: float = 0.0, **limits: int) -> None:
        self.clock, self.observer = Clock(), Observer()
        self.author = Author(self.clock)
        limits_of = Limits(dispatch_s=dispatch_s, **limits)
        self.cost = CostModel()
        self.scheduler = StepScheduler(
            self.author, limits=limits_of, clock=self.clock, observer=self.observer, cost=self.cost
        )

    def ask(self, *prompts: str, timeout_s: float = 1e9, **asked: Any) -> Waiter:
        waiter = Waiter(self.clock, len(prompts), timeout_s=timeout_s)
        self.scheduler.submit(waiter.ticket, [text(prompt, **asked) for prompt in prompts])
        return waiter

    def turn(self) -> Prefill | Steps | None:
        work = self.scheduler.take()
        if work is not None:
            work.run()
            work.settle()
        return work

    def work(self) -> None:
        while self.turn() is not None:
            pass
        assert self.scheduler.idle


def texts(waiter: Waiter) -> list[str]:
    return [continuation.text for continuation in waiter.ticket.results]


def state_after(prompt: str, tokens: int) -> int:
    """The model's state once it has read the prompt and so many of its own tokens."""
    number = 0
    for letter in prompt + expected(prompt, tokens):
        number = following(number, int(CODEC.encode(letter).rows[0]))
    return number
