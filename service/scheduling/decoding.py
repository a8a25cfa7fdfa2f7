"""Schedule generation: sequences are decoded together, one token a step, and join and leave between steps.

Prompts are read in one ragged call with the other new prompts. A long prompt is read in chunks, so that running
sequences continue between chunks. A finished or cancelled sequence frees its slot before the next step.

The work is to read prompts (Prefill) or to generate tokens (DecodingSteps). `run` may be called in a thread and never
raises. `complete` returns the results on the event loop. An error fails its own sequence, and the others continue.
T steps, B rows, V vocabulary.
"""

import logging
from collections.abc import Callable, Sequence

import numpy as np

from models import state as states
from models.codecs.base import pad
from models.state import State
from models.tasks.generate import GeneratedText, TokenSampler
from service.errors import ServiceError
from service.scheduling.cost_model import CostModel
from service.scheduling.decoding_batch import (
    DecodingBatch,
    DecodingLimits,
    DecodingSequence,
    Ints,
    LanguageModelRunner,
)
from service.scheduling.job import FairQueue, Job, Scheduler
from service.telemetry import ModelMetrics

log = logging.getLogger(__name__)

# Tokens are appended to their texts after this many steps: one by one takes a twentieth of a small step.
MAX_PENDING_STEPS = 32

# A sequence with the state after its chunk, and its first token, or None if there is none yet. Or its error.
PrefillResult = tuple[DecodingSequence, State | None, int | Exception | None]


class DecodingScheduler(Scheduler):
    """The decoding batch and the queue of one language model.

    The items of a job are pairs of a prompt (T,), T >= 1, and the text to append to.
    """

    def __init__(
        self,
        model: LanguageModelRunner,
        *,
        limits: DecodingLimits,
        clock: Callable[[], float],
        metrics: ModelMetrics,
        cost: CostModel | None = None,
    ) -> None:
        super().__init__(limits=limits, clock=clock, metrics=metrics)
        self._batch = DecodingBatch(model, limits=limits, clock=clock, metrics=metrics, cost=cost or CostModel())
        self._queue: FairQueue[DecodingSequence] = FairQueue()
        self._queued_items = self._queued_tokens = 0
        self._prefilled_last = False

    @property
    def queued_items(self) -> int:
        return self._queued_items

    @property
    def queued_tokens(self) -> int:
        return self._queued_tokens

    @property
    def used_slots(self) -> int:
        """Sequences that are being read or generated."""
        return len(self._batch)

    def take(self) -> "Prefill | DecodingSteps | None":
        batch, now_s = self._batch, self.clock()
        self._drop_cancelled_slots(now_s)
        self.drop_cancelled()
        self._fill_slots(now_s)
        self.metrics.slots(queued=self._queued_items, active=len(batch))
        # Prefill and steps alternate, so that neither new prompts nor a full batch stop the other.
        if batch.prefilling and not (batch.active and self._prefilled_last):
            self._prefilled_last = True
            return Prefill(batch, self._next_prompts())
        if batch.active:
            self._prefilled_last = False
            return DecodingSteps(batch)
        return None

    def abandon(self, error: ServiceError) -> None:
        try:
            self._batch.flush()
        except Exception:  # a scheduler has failed: the jobs must end, whatever state the batch is in
            log.exception("the last sampled tokens are lost")
        super().abandon(error)

    def _enqueue(self, job: Job, items: Sequence[tuple[Ints, GeneratedText]]) -> None:
        job.expect(len(items))
        sequences = [DecodingSequence(job, index, prompt, text) for index, (prompt, text) in enumerate(items)]
        self._queue.push(job.share, sequences)
        for sequence in sequences:
            self._count(sequence, 1)

    def _next_prompts(self) -> list[tuple[DecodingSequence, State]]:
        """Take the prompts that are read in the next call out of `prefilling`: the first ones, as many as fit."""
        batch, longest, count = self._batch, 0, 0
        limits = batch.limits
        for sequence, _ in batch.prefilling:
            longest = max(longest, min(len(sequence.prompt) - sequence.prefilled, limits.prefill_steps))
            if count and longest * (count + 1) > limits.prefill_tokens:
                break
            count += 1
        group, batch.prefilling = batch.prefilling[:count], batch.prefilling[count:]
        return group

    def _fill_slots(self, now_s: float) -> None:
        batch = self._batch
        free = batch.limits.slots - len(batch)
        while free > 0 and (sequence := self._queue.pop()) is not None:
            self._count(sequence, -1)
            if sequence.job.is_over(now_s):
                continue
            self._queue.spend(sequence.job.share, sequence.cost_tokens)
            sequence.job.start(now_s)
            self.metrics.queue_time(now_s - sequence.job.arrived_s)
            state = sequence.text.initial_state
            batch.prefilling.append((sequence, batch.model.zeros(1) if state is None else state))
            free -= 1

    def _drop_cancelled_slots(self, now_s: float) -> None:
        """Free the slots of cancelled and expired jobs, before every step."""
        batch = self._batch
        if batch.active:
            if now_s >= batch.plan.deadline_s:
                batch.flush()  # tokens that were sampled before an error are delivered before it
            # One pass first, because usually there is nothing to remove.
            if any([job.is_over(now_s) for job in batch.plan.jobs]):
                for row in range(len(batch.active) - 1, -1, -1):
                    if batch.active[row].job.done:
                        batch.remove(row)
        batch.prefilling = [pair for pair in batch.prefilling if not pair[0].job.is_over(now_s)]

    def _drop_over(self, now_s: float) -> None:
        for sequence in self._queue.drop(lambda sequence: sequence.job.is_over(now_s)):
            self._count(sequence, -1)

    def _count(self, sequence: DecodingSequence, change: int) -> None:
        """Count a sequence that is queued (1), or not any more (-1)."""
        tokens = change * sequence.cost_tokens
        self._queued_items += change
        self._queued_tokens += tokens
        self.hold(sequence.job.share, tokens)

    def _clear(self) -> None:
        self._queue.clear()
        self._queued_items = self._queued_tokens = 0
        self._batch.clear()


class Prefill:
    """Read the next chunk of several prompts in one ragged call, and sample the first token of those at their end."""

    def __init__(self, batch: DecodingBatch, group: list[tuple[DecodingSequence, State]]) -> None:
        self._batch, self._group = batch, group
        self._results: list[PrefillResult] = []
        self._calls: list[tuple[list[DecodingSequence], int, int, float]] = []  # padded and real tokens, seconds
        limit = batch.limits.prefill_steps
        longest = max(min(len(sequence.prompt) - sequence.prefilled, limit) for sequence, _ in group)
        self.estimate_s = batch.cost.seconds(len(group), longest)

    def run(self) -> None:
        try:
            self._results = self._read(self._group)
        except Exception:  # find the prompt at fault, and let the others continue
            for member in self._group:
                try:
                    self._results += self._read([member])
                except Exception as error:  # whatever it is, the job must end
                    self._results.append((member[0], None, error))

    def _read(self, group: list[tuple[DecodingSequence, State]]) -> list[PrefillResult]:
        batch = self._batch
        sequences = [sequence for sequence, _ in group]
        limit = batch.limits.prefill_steps
        chunks = [sequence.prompt[sequence.prefilled : sequence.prefilled + limit] for sequence in sequences]
        tokens, lengths = pad(chunks)  # (T, B), (B,)
        started_s = batch.clock()
        log_probabilities, state = batch.advance(tokens, lengths, states.join([state for _, state in group]))
        # A request for no tokens only needs the state.
        ended = [
            row
            for row, sequence in enumerate(sequences)
            if sequence.prefilled + len(chunks[row]) >= len(sequence.prompt) and sequence.text.options.max_new_tokens
        ]
        sampled: dict[int, int] = {}
        if ended:
            sampler = TokenSampler([sequences[row].text for row in ended])
            sampled = dict(zip(ended, sampler.sample(log_probabilities[ended]).tolist(), strict=True))
        self._calls.append((sequences, tokens.size, int(lengths.sum()), batch.clock() - started_s))
        for sequence, chunk in zip(sequences, chunks, strict=True):
            sequence.prefilled += len(chunk)
        return [(sequence, states.take(state, [row]), sampled.get(row)) for row, sequence in enumerate(sequences)]

    def complete(self) -> None:
        batch = self._batch
        now_s = batch.clock()
        for sequences, padded, real, seconds in self._calls:
            batch.metrics.prefill(rows=len(sequences), padded_tokens=padded, real_tokens=real, compute_s=seconds)
            batch.cost.learn(len(sequences), padded // len(sequences), seconds)
            for job in {sequence.job for sequence in sequences}:
                job.record_batch(seconds, len(sequences))
        joining = [joins for result in self._results if (joins := self._dispatch(*result, now_s))]
        if joining:
            joined, tokens, parts = zip(*joining, strict=True)
            if not batch.active:
                batch.stepped_s = now_s
            batch.join(joined, tokens, states.join(parts))

    def _dispatch(
        self, sequence: DecodingSequence, state: State | None, result: int | Exception | None, now_s: float
    ) -> tuple[DecodingSequence, int, State] | None:
        """Fail, continue or finish one sequence. Returns the sequence if it joins the batch."""
        batch = self._batch
        if isinstance(result, Exception):
            batch.fail(sequence, result)
        elif state is not None and result is None:
            if sequence.prefilled < len(sequence.prompt):
                batch.prefilling.append((sequence, state))
            else:
                batch.finish(sequence, state)
        elif state is not None and result is not None:
            batch.metrics.first_token(now_s - sequence.job.arrived_s)
            batch.metrics.tokens(count=1, interval_s=0.0)
            done = sequence.text.append(result)
            if done:
                batch.finish(sequence, state)
            sequence.job.notify(now_s)  # at once: readers wait for the first token
            return None if done else (sequence, result, state)
        return None


class DecodingSteps:
    """Advance all active sequences until one of them is done or the time of a dispatch has passed."""

    def __init__(self, batch: DecodingBatch) -> None:
        self._batch = batch
        self._plan = batch.plan
        step_s = batch.cost.seconds(len(batch.active), 1)
        self._steps = max(1, min(int(batch.limits.dispatch_s / step_s), self._plan.remaining_steps))
        self.estimate_s = self._steps * step_s
        self._done: list[int] = []
        self._failed: dict[int, Exception] = {}
        self._steps_run, self._seconds = 0, 0.0

    def run(self) -> None:
        batch, plan = self._batch, self._plan
        started_s, count = batch.clock(), 0
        while count < self._steps and not self._done and not self._failed:
            self._step()
            count += 1
        plan.remaining_steps -= count
        if plan.remaining_steps <= 0 or len(plan.pending) >= MAX_PENDING_STEPS:
            self._done += batch.flush()
        self._steps_run, self._seconds = count, batch.clock() - started_s

    def _step(self) -> None:
        batch, plan = self._batch, self._plan
        active = batch.active
        if plan.sampler is None:
            plan.sampler = TokenSampler([sequence.text for sequence in active])
        try:
            lengths = np.ones(len(active), np.int32)
            log_probabilities, state = batch.advance(batch.tokens[None, :], lengths, batch.state)
            sampled = plan.sampler.sample(log_probabilities)  # (B,)
        except Exception:  # nothing has changed yet: find the row at fault, and let the others continue
            self._step_by_row()
            return
        batch.state, batch.tokens = state, sampled.astype(np.int32)
        plan.pending.append(sampled)
        for row in plan.stop_rows:
            if active[row].text.append(int(sampled[row])):
                self._done.append(row)

    def _step_by_row(self) -> None:
        """Take one step row by row: slow, and used only when the batch failed as a whole."""
        batch = self._batch
        self._plan.sampler = None
        batch.flush()
        one = np.ones(1, np.int32)
        parts: list[State] = []
        tokens = batch.tokens.copy()
        for row, sequence in enumerate(batch.active):
            before = states.take(batch.state, [row])
            try:
                log_probabilities, after = batch.advance(batch.tokens[None, row : row + 1], one, before)
                (token,) = TokenSampler([sequence.text]).sample(log_probabilities).tolist()
            except Exception as error:  # whatever it is, the job must end
                self._failed[row] = error
                parts.append(before)
                continue
            parts.append(after)
            tokens[row] = token
            if sequence.text.append(token):
                self._done.append(row)
        batch.state, batch.tokens = states.append(batch.model.empty_state(), states.join(parts)), tokens

    def complete(self) -> None:
        batch, steps = self._batch, self._steps_run
        now_s, rows = batch.clock(), len(batch.active)
        batch.cost.learn(rows, 1, self._seconds / steps)
        batch.metrics.steps(rows=rows, count=steps, compute_s=self._seconds)
        batch.metrics.tokens(count=rows * steps - len(self._failed), interval_s=(now_s - batch.stepped_s) / steps)
        batch.stepped_s = now_s
        jobs = self._plan.jobs
        for job in jobs:
            job.record_batch(self._seconds, rows)
        # From the last row to the first: removing a row moves only rows that are handled already.
        for row in sorted({*self._done, *self._failed}, reverse=True):
            sequence = batch.active[row]
            if row in self._failed:
                batch.fail(sequence, self._failed[row])
            else:
                batch.finish(sequence, batch.state, row)
            batch.remove(row)
            sequence.job.notify(now_s)  # at once: this sequence is done
        batch.notify(jobs, now_s)
