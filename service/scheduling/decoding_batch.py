"""The running batch of one language model, and how sequences join it, leave it, finish and fail.

Row i of the state belongs to sequence i, without gaps, so a step runs on the arrays without copying.
T steps, B rows, V vocabulary.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models import state as states
from models.state import State
from models.tasks.generate import GeneratedText, Generation, InPlaceDecoder, Run, TokenSampler
from service.errors import InternalError, ServiceError
from service.scheduling.cost_model import CostModel
from service.scheduling.job import Job, QueueLimits
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


class LanguageModelRunner:
    """One language model as the decoding scheduler calls it."""

    def __init__(self, task: Generation, run: Run, in_place: InPlaceDecoder | None) -> None:
        self._task, self._run, self._in_place = task, run, in_place

    def zeros(self, rows: int) -> State:
        """Return the state before the first token."""
        return states.zeros(self._task.state, rows)

    def empty_state(self) -> State:
        """Return a state without rows, in preallocated arrays that rows can join in place."""
        return self.zeros(0) if self._in_place is None else self._in_place.empty_state

    def advance(self, tokens: Ints, lengths: Ints, state: State) -> tuple[NDArray[np.float32], State]:
        """Read tokens (T, B), ragged by lengths (B,). Return log-probabilities (B, V) and the state after them."""
        if self._in_place is not None and len(tokens) == 1:
            found = self._in_place.step(tokens[0], state)
            if found is not None:
                return found
        return self._task.advance(self._run, tokens, lengths, state)


class DecodingSequence:
    """One prompt of a job: how much of it was read, and the text generated so far."""

    __slots__ = ("index", "job", "prefilled", "prompt", "text")

    def __init__(self, job: Job, index: int, prompt: Ints, text: GeneratedText) -> None:
        self.job, self.index, self.prompt, self.text = job, index, prompt, text
        self.prefilled = 0  # tokens of the prompt

    @property
    def cost_tokens(self) -> int:
        """Tokens to read and, at most, to generate."""
        return len(self.prompt) + self.text.options.max_new_tokens


class StepPlan:
    """Values that stay the same until a sequence joins or leaves, because computing them at every step is expensive."""

    def __init__(self, sequences: Sequence[DecodingSequence]) -> None:
        texts = [sequence.text for sequence in sequences]
        self.jobs = tuple({sequence.job: None for sequence in sequences})
        self.stop_rows = [row for row, text in enumerate(texts) if text.has_stop_strings]
        self.remaining_steps = min(text.remaining_tokens for text in texts)  # until the first reaches its length
        self.deadline_s = min(job.request.deadline_s for job in self.jobs)
        self.sampler: TokenSampler | None = None  # made when it is needed
        # Sampled tokens (B,) of the last steps, not yet appended to the texts that only their length can end.
        self.pending: list[NDArray[np.int64]] = []


class DecodingBatch:
    """The sequences in a slot, and everything that work needs to advance them."""

    def __init__(
        self,
        model: LanguageModelRunner,
        *,
        limits: DecodingLimits,
        clock: Callable[[], float],
        metrics: ModelMetrics,
        cost: CostModel,
    ) -> None:
        self.model, self.clock, self.metrics, self.limits, self.cost = model, clock, metrics, limits, cost
        self.clear()

    def clear(self) -> None:
        """Free all slots."""
        self.prefilling: list[tuple[DecodingSequence, State]] = []  # the prompt is not read to its end
        self.active: list[DecodingSequence] = []  # row i of the state
        self.state: State = ()
        self.tokens: Ints = np.empty(0, np.int32)  # (B,) the newest token of each row, not yet read by the model
        self.stepped_s = 0.0  # when the active rows got their newest tokens
        self._plan: StepPlan | None = None  # None after the batch has changed

    def __len__(self) -> int:
        """Slots in use, without the prompts of a Prefill that runs."""
        return len(self.active) + len(self.prefilling)

    @property
    def plan(self) -> StepPlan:
        """The plan for the active sequences. There must be one."""
        if self._plan is None:
            self._plan = StepPlan(self.active)
        return self._plan

    def flush(self) -> list[int]:
        """Append the pending tokens to their texts, many steps together.

        Returns the rows that reach their length by that: none while the plan has remaining steps.
        """
        if self._plan is None or not self._plan.pending:
            return []
        pending, self._plan.pending = np.stack(self._plan.pending, axis=1).tolist(), []  # (B, steps)
        stop_rows = set(self._plan.stop_rows)
        return [
            row
            for row, (sequence, tokens) in enumerate(zip(self.active, pending, strict=True))
            if row not in stop_rows and sequence.text.extend(tokens)
        ]

    def advance(self, tokens: Ints, lengths: Ints, state: State) -> tuple[NDArray[np.float32], State]:
        """Run the model. Raises ValueError unless it returns all rows."""
        log_probabilities, after = self.model.advance(tokens, lengths, state)
        if len(log_probabilities) != len(lengths):
            raise ValueError(f"{len(log_probabilities)} rows of results for {len(lengths)} rows of input")
        return log_probabilities, after

    def join(self, sequences: Sequence[DecodingSequence], tokens: Sequence[int], state: State) -> None:
        """Add rows at the end."""
        self._change()
        if not self.active:
            self.state = self.model.empty_state()
        self.active.extend(sequences)
        self.state = states.append(self.state, state)
        self.tokens = np.concatenate([self.tokens, np.asarray(tokens, np.int32)])

    def remove(self, row: int) -> None:
        """Free a slot. The last row moves to its place."""
        self._change()
        last = self.active.pop()
        if row < len(self.active):
            self.active[row] = last
        (self.tokens,) = states.drop((self.tokens,), row)
        self.state = states.drop(self.state, row)

    def _change(self) -> None:
        self.flush()
        self._plan = None

    def notify(self, jobs: Collection[Job], now_s: float) -> None:
        """Notify the readers of streams, at most as often as NOTIFY_S allows."""
        streamed = [job for job in jobs if job.on_progress is not None]
        interval_s = NOTIFY_S * len(streamed)
        due = [job for job in streamed if now_s - job.notified_s >= interval_s]
        if due:
            self.flush()
        for job in due:
            job.notify(now_s)

    def finish(self, sequence: DecodingSequence, state: State, row: int = 0) -> None:
        """Complete a sequence, with a snapshot of its row of the state if that was requested."""
        if sequence.text.options.return_state:
            sequence.text.take_snapshot(states.take(state, [row]))
        sequence.job.complete(sequence.index, sequence.text)

    def fail(self, sequence: DecodingSequence, error: BaseException) -> None:
        """Fail the job of a sequence, after the tokens that were sampled before the error."""
        self.flush()
        request_id, count = sequence.job.request.request_id, len(sequence.text.tokens)
        log.error("request %s: generation failed after %d tokens", request_id, count, exc_info=error)
        sequence.job.fail(error if isinstance(error, ServiceError) else InternalError())
