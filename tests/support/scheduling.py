"""Schedulers with a fake clock, fake clients and fake models whose answers tell which input they belong to."""

from collections import defaultdict
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
from service.scheduling.cost_model import CostModel
from service.scheduling.decoding import DecodingScheduler
from service.scheduling.decoding_batch import DecodingLimits
from service.scheduling.generation_batch import DecodingSteps, GenerationBatch, PromptPrefill
from service.scheduling.job import InferenceRequest, Job, QueueLimits
from service.scheduling.sequences import SequenceLimits, SequenceScheduler
from service.scheduling.tensors import TensorRequest, TensorScheduler


class FakeClock:
    """A clock that moves only when it is set."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class RecordingMetrics:
    """The arguments of each call, by method."""

    def __init__(self) -> None:
        self.calls: defaultdict[str, list[Any]] = defaultdict(list)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: self.calls[name].append(kwargs or args[0])


class Client:
    """A client with one request: whether it is connected, and what it received."""

    job: Job

    def __init__(self, clock: FakeClock, *, timeout_s: float = inf, request_id: str = "r", name: str = "") -> None:
        self.connected = True
        self.completions = self.notifications = 0
        self.at_the_end: Callable[[], None] | None = None
        self.request = InferenceRequest(
            request_id=request_id,
            route="/v1/x",
            deadline_s=clock() + timeout_s,
            is_disconnected=lambda: not self.connected,
            client=name,
        )

    def submit(self, scheduler: Any, items: Sequence[Any], tokens: int = 0) -> "Client":
        self.job = scheduler.admit(self.request, len(items), tokens)
        self.job.on_done = self.record_completion
        scheduler.submit(self.job, items)
        return self

    def read(self) -> None:
        """Be notified from now on when a text grows."""
        self.job.on_progress = self._notified

    def _notified(self) -> None:
        self.notifications += 1

    def record_completion(self) -> None:
        self.completions += 1
        if self.at_the_end is not None:
            self.at_the_end()

    @property
    def error(self) -> str | None:
        """The type of the error."""
        return type(self.job.error).__name__ if self.job.error else None

    @property
    def texts(self) -> list[str]:
        """The generated texts."""
        return [text.text for text in self.job.results]


@dataclass(frozen=True)
class Item:
    """A sequence with an identity."""

    name: str
    length: int = 5
    bad: bool = False
    extra: int = 0


class FixedCostModel(CostModel):
    """A cost model that does not learn: a word costs `word_s`, everything else nothing."""

    def __init__(self, word_s: float) -> None:
        super().__init__(call_s=0.0, step_s=0.0, cell_s=word_s, extra_s=0.0)

    def learn(self, rows: int, steps: int, seconds: float, extra: int = 0) -> None:
        pass


class EchoModel:
    """Answers with the names of its items, and raises if one of them is bad."""

    def __init__(self, clock: FakeClock, seconds: float = 0.001) -> None:
        self.clock, self.seconds = clock, seconds
        self.batches: list[list[str]] = []
        self.surplus = 0  # results too many, or too few if negative

    def __call__(self, items: Sequence[Item]) -> list[str]:
        self.clock.now_s += self.seconds
        self.batches.append([item.name for item in items])
        if any(item.bad for item in items):
            raise ValueError("a bad item")
        return answers(*items)[: len(items) + self.surplus] + ["surplus"] * self.surplus


def answers(*items: Item) -> list[str]:
    return [f"answer to {item.name}" for item in items]


LETTERS = "abcdefghijklmnopqrstuvwxyz!"
CODEC = CharactersCodec(CharactersSpec(), LETTERS)
BAD = int(CODEC.encode("!").rows[0])  # the token on which the model raises
MODULUS = 65_521  # the largest prime below 2^16: the sums stay exact in float32


def next_state(number: int, token: int) -> int:
    """Return a hash of all tokens so far, so that no two texts share a state for long."""
    return (number * 31 + token) % MODULUS


def next_token(number: int) -> int:
    """Return the token that follows a state: any letter but the bad one."""
    return 2 + number % (len(LETTERS) - 1)


def expected_text(prompt: str, count: int) -> str:
    """Return what the fake model generates after a prompt, alone."""
    number, text = 0, ""
    for letter in prompt:
        number = next_state(number, int(CODEC.encode(letter).rows[0]))
    for _ in range(count):
        token = next_token(number)
        text += CODEC.decode(token)
        number = next_state(number, token)
    return text


def state_after(prompt: str, tokens: int) -> int:
    """Return the state after the prompt and so many of its own tokens."""
    number = 0
    for letter in prompt + expected_text(prompt, tokens):
        number = next_state(number, int(CODEC.encode(letter).rows[0]))
    return number


class FakeLanguageModel:
    """A language model whose whole text depends on its prompt. Its state is one number a row."""

    def __init__(self, clock: FakeClock, seconds: float = 0.001) -> None:
        self.clock, self.seconds = clock, seconds
        self.calls: list[tuple[int, int]] = []  # steps and rows of each call
        self.bad_states: set[int] = set()  # states on which it raises
        self.missing = 0  # rows that are left out of the results
        self.empty_states: list[State] = []

    def zeros(self, rows: int) -> State:
        return (np.zeros((rows, 1), np.float32),)

    def empty_state(self) -> State:
        self.empty_states.append(tuple(array[:0] for array in self.zeros(8)))
        return self.empty_states[-1]

    def advance(
        self, tokens: NDArray[np.int32], lengths: NDArray[np.int32], state: State
    ) -> tuple[NDArray[np.float32], State]:
        self.clock.now_s += self.seconds
        self.calls.append(tokens.shape)  # type: ignore[arg-type]
        numbers = state[0][:, 0].astype(int).tolist()
        for row, length in enumerate(lengths.tolist()):
            for token in tokens[:length, row].tolist():
                numbers[row] = next_state(numbers[row], token)
                if token == BAD or numbers[row] in self.bad_states:
                    raise ValueError("a bad row")
        logs = np.full((len(numbers), CODEC.table_rows), -20.0, np.float32)
        logs[np.arange(len(numbers)), [next_token(number) for number in numbers]] = 0.0
        return logs[: len(numbers) - self.missing], (np.array(numbers, np.float32)[:, None],)


def generation_item(prompt: str, max_new_tokens: int = 5, **asked: Any) -> tuple[NDArray[np.int32], GeneratedText]:
    """Return a prompt as the decoding scheduler takes it."""
    options = GenerateOptions(max_new_tokens=max_new_tokens, sampling=SamplingOptions(temperature=0.0), **asked)
    return CODEC.encode(prompt).rows, GeneratedText(CODEC, prompt, options)


class Harness:
    """A scheduler and what it needs."""

    scheduler: Any

    def __init__(self) -> None:
        self.clock, self.metrics = FakeClock(), RecordingMetrics()

    def run_once(self) -> Any:
        """Run one piece of work, and return it or None."""
        work = self.scheduler.take()
        if work is not None:
            work.run()
            work.complete()
        return work

    def run_all(self) -> None:
        while self.run_once() is not None:
            pass
        assert not self.scheduler.jobs
        assert not self.scheduler.queued_items
        assert not self.scheduler.queued_tokens


class SequenceHarness(Harness):
    def __init__(self, *, cost: CostModel | None = None, **limits: Any) -> None:
        super().__init__()
        self.model = EchoModel(self.clock)
        self.scheduler = SequenceScheduler(
            self.model,
            limits=SequenceLimits(**limits),
            cost=cost or CostModel(),
            clock=self.clock,
            metrics=self.metrics,  # type: ignore[arg-type]
        )

    def ask(self, *items: Item, **asked: Any) -> Client:
        return Client(self.clock, **asked).submit(self.scheduler, items)


class DecodingHarness(Harness):
    """Each dispatch is one step, unless `dispatch_s` says otherwise."""

    def __init__(self, *, dispatch_s: float = 0.0, **limits: int) -> None:
        super().__init__()
        self.model = FakeLanguageModel(self.clock)
        self.cost = CostModel()
        batch = GenerationBatch(
            self.model,  # type: ignore[arg-type]
            limits=DecodingLimits(dispatch_s=dispatch_s, **limits),
            clock=self.clock,
            metrics=self.metrics,  # type: ignore[arg-type]
            cost=self.cost,
        )
        self.scheduler = DecodingScheduler(batch)

    def ask(self, *prompts: str, timeout_s: float = 1e9, max_new_tokens: int = 5, **asked: Any) -> Client:
        items = [generation_item(prompt, max_new_tokens, **asked) for prompt in prompts]
        return Client(self.clock, timeout_s=timeout_s).submit(self.scheduler, items, max_new_tokens * len(items))

    def run_once(self) -> PromptPrefill | DecodingSteps | None:
        work: PromptPrefill | DecodingSteps | None = super().run_once()
        return work

    def run_all(self) -> None:
        super().run_all()
        assert not self.scheduler.used_slots


@dataclass(frozen=True, kw_only=True)
class NamedTensors(TensorRequest):
    """Tensors with a name, and an error that running them raises."""

    name: str
    error: Exception | None = None
    arrays: dict[str, Any] = field(default_factory=dict)


class TensorHarness(Harness):
    """A scheduler, and the names of what it ran."""

    def __init__(self, queue_tokens: int = 100) -> None:
        super().__init__()
        self.ran: list[str] = []
        self.scheduler = TensorScheduler(
            self._run,  # type: ignore[arg-type]
            limits=QueueLimits(queue_tokens=queue_tokens),
            cost=CostModel(),
            clock=self.clock,
            metrics=self.metrics,  # type: ignore[arg-type]
        )

    def _run(self, item: NamedTensors) -> Any:
        self.ran.append(item.name)
        if item.error is not None:
            raise item.error
        return item.name.upper()

    def ask(self, name: str, *, steps: int = 10, timeout_s: float = 9.0, error: Exception | None = None) -> Client:
        client = Client(self.clock, timeout_s=timeout_s)
        client.job = self.scheduler.admit(client.request, 1)
        self.scheduler.submit(client.job, NamedTensors(name=name, rows=2, steps=steps, extra=0, error=error))
        return client


class Interleaving:
    """Actions on a scheduler in any order, with the clients that were admitted and the results that they must get."""

    def __init__(self, harness: Any) -> None:
        self.harness = harness
        self.admitted: list[tuple[Client, Any]] = []
        self.work: Any = None

    def run(self, actions: Sequence[tuple[Any, ...]]) -> None:
        """Call each action, a method's name with its arguments; then finish all work."""
        for action, *details in actions:
            getattr(self, action)(*details)
        self.end()

    def end(self) -> None:
        self.complete()
        self.harness.run_all()

    def disconnect(self, number: int) -> None:
        if self.admitted:
            self.admitted[number % len(self.admitted)][0].connected = False

    def take(self) -> None:
        self.work = self.work or self.harness.scheduler.take()

    def complete(self) -> None:
        if self.work is not None:
            self.work.run()
            self.work.complete()
            self.work = None

    def close(self) -> None:
        self.harness.scheduler.close()


def check_outcome(client: Client, *, may_fail: bool) -> None:
    """Assert that a client was answered once, and that an error had its reason."""
    assert client.completions == 1
    if client.error == "ClientGone":
        assert not client.connected
    elif client.error == "DeadlinePassed":
        assert client.request.deadline_s < 1e6
    elif client.error is not None:
        assert client.error == "InternalError"
        assert may_fail
