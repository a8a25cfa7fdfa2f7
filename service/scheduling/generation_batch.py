"""The decoding batch of a language model: texts that grow by one token a step.

Row i of the state belongs to sequence i, without gaps, so a step runs on the arrays without copying. A long prompt is
read in chunks, so that running sequences continue between chunks. T steps, B rows, V vocabulary.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from models import state as states
from models.codecs.base import pad
from models.state import State
from models.tasks.generate import GeneratedText, Generation, InPlaceDecoder, Run, TokenSampler
from service.scheduling.cost_model import CostModel
from service.scheduling.decoding_batch import DecodingBatch, DecodingLimits, DecodingSequence, Ints, Prefill, StepPlan
from service.scheduling.job import Job
from service.telemetry import ModelMetrics

# Tokens are appended to their texts after this many steps: one by one takes a twentieth of a small step.
MAX_PENDING_STEPS = 32

# The state after a chunk, and the first token, or None if there is none yet.
ChunkResult = tuple[State, int | None]


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


class GenerationSequence(DecodingSequence):
    """One prompt of a job: how much of it was read, the state there, and the text generated so far."""

    __slots__ = ("chunk", "prefilled", "state")

    def __init__(self, job: Job, index: int, prompt: Ints, text: GeneratedText, *, chunk: int) -> None:
        super().__init__(job, index, prompt, text)
        self.chunk = chunk  # tokens of the prompt that are read in one call, at most
        self.prefilled = 0  # tokens of the prompt
        self.state: State | None = text.initial_state  # None: zeros

    @property
    def steps(self) -> int:
        return min(len(self.prompt) - self.prefilled, self.chunk)


class GenerationPlan(StepPlan):
    """The plan of a batch of texts."""

    def __init__(self, sequences: Sequence[GenerationSequence]) -> None:
        super().__init__(sequences)
        texts = [sequence.text for sequence in sequences]
        self.stop_rows = [row for row, text in enumerate(texts) if text.has_stop_strings]
        self.remaining_steps = min(text.remaining_tokens for text in texts)  # until the first reaches its length
        self.sampler: TokenSampler | None = None  # made when it is needed
        # Sampled tokens (B,) of the last steps, not yet appended to the texts that only their length can end.
        self.pending: list[NDArray[np.int64]] = []


class GenerationBatch(DecodingBatch[GenerationSequence, GenerationPlan]):
    """The texts of one language model. Row i of the state is that of `active[i]`."""

    def __init__(
        self,
        model: LanguageModelRunner,
        *,
        limits: DecodingLimits,
        clock: Callable[[], float],
        metrics: ModelMetrics,
        cost: CostModel | None = None,
    ) -> None:
        self.model = model
        super().__init__(limits=limits, clock=clock, metrics=metrics, cost=cost)

    def clear(self) -> None:
        super().clear()
        self.state: State = ()
        self.tokens: Ints = np.empty(0, np.int32)  # (B,) the newest token of each row, not yet read by the model

    @property
    def used_slots(self) -> int:
        return len(self.active) + len(self.prefilling)

    def sequence(self, job: Job, index: int, prompt: Ints, text: GeneratedText) -> GenerationSequence:
        return GenerationSequence(job, index, prompt, text, chunk=self.limits.prefill_steps)

    def prefill(self, group: list[GenerationSequence]) -> "PromptPrefill":
        return PromptPrefill(self, group)

    def steps(self) -> "DecodingSteps":
        return DecodingSteps(self)

    def _make_plan(self) -> GenerationPlan:
        return GenerationPlan(self.active)

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

    def join(self, sequences: Sequence[GenerationSequence], tokens: Sequence[int], state: State) -> None:
        """Add rows at the end."""
        self._change()
        if not self.active:
            self.state = self.model.empty_state()
        self.active.extend(sequences)
        self.state = states.append(self.state, state)
        self.tokens = np.concatenate([self.tokens, np.asarray(tokens, np.int32)])

    def remove(self, index: int) -> None:
        """Free a slot. The last row moves to its place."""
        self._change()
        last = self.active.pop()
        if index < len(self.active):
            self.active[index] = last
        (self.tokens,) = states.drop((self.tokens,), index)
        self.state = states.drop(self.state, index)

    def _change(self) -> None:
        self.flush()
        self._plan = None

    def finish(self, sequence: GenerationSequence, state: State, row: int = 0) -> None:
        """Complete a sequence, with a snapshot of its row of the state if that was requested."""
        if sequence.text.options.return_state:
            sequence.text.take_snapshot(states.take(state, [row]))
        sequence.job.complete(sequence.index, sequence.text)


class PromptPrefill(Prefill[GenerationBatch, GenerationSequence, ChunkResult]):
    """Read the next chunk of several prompts in one ragged call, and sample the first token of those at their end."""

    def __init__(self, batch: GenerationBatch, group: list[GenerationSequence]) -> None:
        super().__init__(batch, group, cost=batch.cost)

    def _read(self, group: list[GenerationSequence]) -> list[ChunkResult]:
        chunks = [each.prompt[each.prefilled : each.prefilled + each.chunk] for each in group]
        tokens, lengths = pad(chunks)  # (T, B), (B,)
        before = [self._batch.model.zeros(1) if each.state is None else each.state for each in group]
        log_probabilities, state = self._batch.advance(tokens, lengths, states.join(before))
        # A request for no tokens only needs the state.
        ended = [
            row
            for row, sequence in enumerate(group)
            if sequence.prefilled + len(chunks[row]) >= len(sequence.prompt) and sequence.text.options.max_new_tokens
        ]
        sampled: dict[int, int] = {}
        if ended:
            sampler = TokenSampler([group[row].text for row in ended])
            sampled = dict(zip(ended, sampler.sample(log_probabilities[ended]).tolist(), strict=True))
        for sequence, chunk in zip(group, chunks, strict=True):
            sequence.prefilled += len(chunk)
        return [(states.take(state, [row]), sampled.get(row)) for row in range(len(group))]

    def complete(self) -> None:
        batch, now_s = self._batch, self._batch.clock()
        self._record_calls()
        joining = [joins for result in self._results if (joins := self._dispatch(*result, now_s))]
        if joining:
            joined, tokens, parts = zip(*joining, strict=True)
            if not batch.active:
                batch.stepped_s = now_s
            batch.join(joined, tokens, states.join(parts))

    def _dispatch(
        self, sequence: GenerationSequence, result: ChunkResult | Exception, now_s: float
    ) -> tuple[GenerationSequence, int, State] | None:
        """Fail, continue or finish a sequence. Returns it with its token and its state if it joins the batch."""
        batch = self._batch
        if isinstance(result, Exception):
            batch.fail(sequence, result)
            return None
        state, token = result
        if token is None:
            sequence.state = state
            if sequence.prefilled < len(sequence.prompt):
                batch.prefilling.append(sequence)
            else:
                batch.finish(sequence, state)
            return None
        batch.metrics.first_token(now_s - sequence.job.arrived_s)
        batch.metrics.tokens(count=1, interval_s=0.0)
        done = sequence.text.append(token)
        if done:
            batch.finish(sequence, state)
        sequence.job.notify(now_s)  # at once: readers wait for the first token
        return None if done else (sequence, token, state)


class DecodingSteps:
    """Advance all active sequences until one of them is done or the time of a dispatch has passed."""

    def __init__(self, batch: GenerationBatch) -> None:
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
