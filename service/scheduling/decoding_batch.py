"""A decoding batch: sequences that are decoded together, one token a step, and that join and leave between steps.

`generation_batch.py` and `translation_batch.py` decode with a language model and with a translator.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.errors import InternalError, ServiceError
from service.scheduling.cost_model import CostModel
from service.scheduling.job import Job, QueueLimits, Work
from service.telemetry import ModelMetrics

log = logging.getLogger(__name__)

Ints = NDArray[np.int32]

# To notify and answer one reader of a stream takes about 30 µs. Each reader is notified once in this time for each
# reader that there is, so that all of them take a tenth of the time. A single reader is notified after every dispatch.
NOTIFY_S = 0.0005


@dataclass(frozen=True, kw_only=True)
class DecodingLimits(QueueLimits):
    """How many sequences are generated together and how many may wait."""

    queue_items: int = 1024
    slots: int = 64
    prefill_steps: int = 128  # of one prompt in one call: bounds how long a new prompt delays the running sequences
    prefill_tokens: int = 2048  # padded, of all prompts in one call: likewise
    # Steps are dispatched together up to this time, because one turn of the event loop costs about 0.1 ms. It bounds
    # how long a new request, another model's batch or a disconnect waits.
    dispatch_s: float = 0.003


class DecodingSequence:
    """One input of a job: what it reads, and what is decoded from it."""

    __slots__ = ("index", "job", "prompt", "text")

    def __init__(self, job: Job, index: int, prompt: Any, text: Any) -> None:
        self.job, self.index, self.prompt, self.text = job, index, prompt, text

    @property
    def slots(self) -> int:
        """Rows of the batch that it can have, at most."""
        return 1

    @property
    def steps(self) -> int:
        """Tokens of the prompt that are still to be read."""
        return len(self.prompt)

    @property
    def cost_tokens(self) -> int:
        """Tokens to read and, at most, to generate."""
        return len(self.prompt) + self.slots * int(self.text.options.max_new_tokens)


S = TypeVar("S", bound=DecodingSequence)


class StepPlan:
    """Values that stay the same until a sequence joins or leaves, because computing them at every step is expensive."""

    def __init__(self, sequences: Sequence[DecodingSequence]) -> None:
        self.jobs = tuple({sequence.job: None for sequence in sequences})
        self.deadline_s = min(job.request.deadline_s for job in self.jobs)


P = TypeVar("P", bound=StepPlan)


class DecodingBatch(ABC, Generic[S, P]):
    """The sequences in a slot, and everything that work needs to advance them."""

    def __init__(
        self, *, limits: DecodingLimits, clock: Callable[[], float], metrics: ModelMetrics, cost: CostModel | None
    ) -> None:
        self.limits, self.clock, self.metrics, self.cost = limits, clock, metrics, cost or CostModel()
        self.clear()

    def clear(self) -> None:
        """Free all slots."""
        self.prefilling: list[S] = []  # the prompt is not read to its end
        self.active: list[S] = []
        self.stepped_s = 0.0  # when the active sequences got their newest tokens
        self._plan: P | None = None  # None after the batch has changed

    @property
    def used_slots(self) -> int:
        """Slots in use, without the prompts of a Prefill that runs."""
        return sum([sequence.slots for sequence in (*self.active, *self.prefilling)])

    @property
    def plan(self) -> P:
        """The plan for the active sequences. There must be one."""
        if self._plan is None:
            self._plan = self._make_plan()
        return self._plan

    @abstractmethod
    def sequence(self, job: Job, index: int, prompt: Any, text: Any) -> S:
        """Return an item of a job as a sequence."""

    @abstractmethod
    def prefill(self, group: list[S]) -> "Work":
        """Return the work that reads prompts, which are not in `prefilling` any more."""

    @abstractmethod
    def steps(self) -> "Work":
        """Return the work that advances the active sequences. There must be one."""

    @abstractmethod
    def remove(self, index: int) -> None:
        """Free the slots of an active sequence. Only later sequences may move."""

    @abstractmethod
    def _make_plan(self) -> P: ...

    def flush(self) -> list[int]:
        """Append to the texts what was decoded. Returns the places of the sequences that it completes."""
        return []

    def next_prompts(self) -> list[S]:
        """Take the prompts that are read in the next call out of `prefilling`: the first ones, as many as fit."""
        longest, count = 0, 0
        for sequence in self.prefilling:
            longest = max(longest, sequence.steps)
            if count and longest * (count + 1) > self.limits.prefill_tokens:
                break
            count += 1
        group, self.prefilling = self.prefilling[:count], self.prefilling[count:]
        return group

    def drop_over(self, now_s: float) -> None:
        """Free the slots of cancelled and expired jobs, before every step."""
        if self.active:
            if now_s >= self.plan.deadline_s:
                self.flush()  # tokens that were sampled before an error are delivered before it
            # One pass first, because usually there is nothing to remove.
            if any([job.is_over(now_s) for job in self.plan.jobs]):
                for index in range(len(self.active) - 1, -1, -1):
                    if self.active[index].job.done:
                        self.remove(index)
        self.prefilling = [sequence for sequence in self.prefilling if not sequence.job.is_over(now_s)]

    def notify(self, jobs: Collection[Job], now_s: float) -> None:
        """Notify the readers of streams, at most as often as NOTIFY_S allows."""
        streamed = [job for job in jobs if job.on_progress is not None]
        interval_s = NOTIFY_S * len(streamed)
        due = [job for job in streamed if now_s - job.notified_s >= interval_s]
        if due:
            self.flush()
        for job in due:
            job.notify(now_s)

    def fail(self, sequence: S, error: BaseException) -> None:
        """Fail the job of a sequence, after the tokens that were sampled before the error."""
        self.flush()
        request_id, count = sequence.job.request.request_id, len(sequence.text.tokens)
        log.error("request %s: generation failed after %d tokens", request_id, count, exc_info=error)
        sequence.job.fail(error if isinstance(error, ServiceError) else InternalError())


B = TypeVar("B", bound=DecodingBatch[Any, Any])
R = TypeVar("R")


class Prefill(ABC, Generic[B, S, R]):
    """Read several prompts in one ragged call. `R` is the result of one prompt."""

    def __init__(self, batch: B, group: list[S], *, cost: CostModel) -> None:
        self._batch, self._group, self._cost = batch, group, cost
        self._results: list[tuple[S, R | Exception]] = []
        self._calls: list[tuple[list[S], int, int, float]] = []  # padded and real tokens, seconds
        self.estimate_s = cost.seconds(len(group), max(sequence.steps for sequence in group))

    def run(self) -> None:
        try:
            self._results = self._timed(self._group)
        except Exception:  # find the prompt at fault, and let the others continue
            for member in self._group:
                try:
                    self._results += self._timed([member])
                except Exception as error:  # whatever it is, the job must end
                    self._results.append((member, error))

    def _timed(self, group: list[S]) -> list[tuple[S, R | Exception]]:
        lengths, clock = [sequence.steps for sequence in group], self._batch.clock
        started_s = clock()
        results = self._read(group)
        self._calls.append((group, len(group) * max(lengths), sum(lengths), clock() - started_s))
        return list(zip(group, results, strict=True))

    @abstractmethod
    def _read(self, group: list[S]) -> Sequence[R]:
        """Read the prompts and return the result of each."""

    @abstractmethod
    def complete(self) -> None:
        """Let the prompts that were read to their end join the batch."""

    def _record_calls(self) -> None:
        batch = self._batch
        for sequences, padded, real, seconds in self._calls:
            batch.metrics.prefill(rows=len(sequences), padded_tokens=padded, real_tokens=real, compute_s=seconds)
            self._cost.learn(len(sequences), padded // len(sequences), seconds)
            for job in {sequence.job for sequence in sequences}:
                job.record_prefill(seconds, len(sequences))
