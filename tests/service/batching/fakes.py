"""A clock that only moves when it is told to, requests, and networks whose answers say whom they are for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.codecs.characters import CharactersCodec
from models.manifest import CharactersSpec
from models.sampling import SamplingOptions
from models.state import State
from models.tasks.generate import GeneratedText, GenerateOptions
from service.scheduling.job import InferenceRequest, Job


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Waiter:
    """A request: whether its client is there, and what it was told, and how often."""

    def __init__(self, clock: Clock, size: int = 1, *, timeout_s: float = inf) -> None:
        self.connected = True
        self.settled = self.told = 0
        self.at_the_end: Callable[[], None] | None = None
        self.request = InferenceRequest(
            request_id="r", route="/v1/x", deadline_s=clock() + timeout_s, is_disconnected=lambda: not self.connected
        )
        self.ticket = Job(self.request, size, self._settle, clock())

    def follow(self) -> None:
        """Be told from now on whenever its texts have grown."""
        self.ticket.follow = self._tell

    def _tell(self) -> None:
        self.told += 1

    def _settle(self, ticket: Job) -> None:
        assert ticket is self.ticket
        self.settled += 1
        if self.at_the_end is not None:
            self.at_the_end()

    @property
    def error(self) -> str | None:
        """The type of the error that it was told."""
        return type(self.ticket.error).__name__ if self.ticket.error else None


@dataclass
class Observer:
    """What the schedulers told, by method."""

    told: dict[str, list[Any]] = field(default_factory=dict)

    def batch(self, **figures: Any) -> None:
        self.told.setdefault("batch", []).append(figures)

    def queue_depth(self, items: int) -> None:
        self.told.setdefault("queue_depth", []).append(items)

    def steps(self, **figures: Any) -> None:
        self.told.setdefault("steps", []).append(figures)

    def prefill(self, **figures: Any) -> None:
        self.told.setdefault("prefill", []).append(figures)

    def first_token(self, seconds: float) -> None:
        self.told.setdefault("first_token", []).append(seconds)

    def waited(self, seconds: float) -> None:
        self.told.setdefault("waited", []).append(seconds)

    def tokens(self, **figures: Any) -> None:
        self.told.setdefault("tokens", []).append(figures)

    def table(self, **figures: Any) -> None:
        self.told.setdefault("table", []).append(figures)


@dataclass(frozen=True)
class Item:
    """A sequence with an identity."""

    name: str
    length: int = 5
    bad: bool = False
    extra: int = 0


class Echo:
    """A network that answers with the names of its items, and raises when one of them is bad."""

    def __init__(self, clock: Clock, seconds: float = 0.001) -> None:
        self.clock, self.seconds = clock, seconds
        self.batches: list[list[str]] = []
        self.spare = 0  # results too many, or too few

    def __call__(self, items: Sequence[Item]) -> list[str]:
        self.clock.now_s += self.seconds
        self.batches.append([item.name for item in items])
        if any(item.bad for item in items):
            raise ValueError("a bad item")
        return [f"answer to {item.name}" for item in items][: len(items) + self.spare] + ["spare"] * self.spare


LETTERS = "abcdefghijklmnopqrstuvwxyz!"
CODEC = CharactersCodec(CharactersSpec(), LETTERS)
BAD = int(CODEC.encode("!").rows[0])  # the token that no reader survives
MODULUS = 65_521  # the largest prime below 2^16: the sums stay exact in float32


def following(number: int, token: int) -> int:
    """The state after a token: a hash of all that was read, so that no two texts have the same one for long."""
    return (number * 31 + token) % MODULUS


def next_token(number: int) -> int:
    """What is written in a state: any letter but the bad one."""
    return 2 + number % (len(LETTERS) - 1)


def expected(prompt: str, count: int) -> str:
    """What the fake model writes after a prompt, alone."""
    number, text = 0, ""
    for letter in prompt:
        number = following(number, int(CODEC.encode(letter).rows[0]))
    for _ in range(count):
        token = next_token(number)
        text += CODEC.decode(token)
        number = following(number, token)
    return text


class Author:
    """A language model whose whole text depends on its prompt, one number of state a row."""

    def __init__(self, clock: Clock, seconds: float = 0.001) -> None:
        self.clock, self.seconds = clock, seconds
        self.calls: list[tuple[int, int]] = []  # steps and rows of each call
        self.cursed: set[int] = set()  # states that no call survives
        self.missing = 0  # rows that are left out of the answer

    def zeros(self, rows: int) -> State:
        return (np.zeros((rows, 1), np.float32),)

    def room(self) -> State:
        return tuple(array[:0] for array in self.zeros(8))

    def advance(
        self, tokens: NDArray[np.int32], lengths: NDArray[np.int32], state: State
    ) -> tuple[NDArray[np.float32], State]:
        self.clock.now_s += self.seconds
        self.calls.append(tokens.shape)  # type: ignore[arg-type]
        numbers = state[0][:, 0].astype(int).tolist()
        for row, length in enumerate(lengths.tolist()):
            for token in tokens[:length, row].tolist():
                numbers[row] = following(numbers[row], token)
                if token == BAD or numbers[row] in self.cursed:
                    raise ValueError("a bad row")
        logs = np.full((len(numbers), CODEC.table_rows), -20.0, np.float32)
        logs[np.arange(len(numbers)), [next_token(number) for number in numbers]] = 0.0
        return logs[: len(numbers) - self.missing], (np.array(numbers, np.float32)[:, None],)


def text(prompt: str, max_new_tokens: int = 5, **asked: Any) -> tuple[NDArray[np.int32], GeneratedText]:
    """A prompt as the step scheduler takes it."""
    options = GenerateOptions(max_new_tokens=max_new_tokens, sampling=SamplingOptions(temperature=0.0), **asked)
    return CODEC.encode(prompt).rows, GeneratedText(CODEC, prompt, options)
