"""Schedule generation: sequences are decoded together, one token a step, and join and leave between steps.

Prompts are read in one ragged call with the other new prompts. A long prompt is read in chunks, so that running
sequences continue between chunks. A finished or cancelled sequence frees its slot before the next step.
"""

import logging
from collections.abc import Callable, Sequence

from models.state import State
from models.tasks.generate import GeneratedText
from service.errors import ServiceError
from service.scheduling.cost_model import CostModel
from service.scheduling.decoding_batch import (
    DecodingBatch,
    DecodingLimits,
    DecodingSequence,
    Ints,
    LanguageModelRunner,
)
from service.scheduling.decoding_work import DecodingSteps, Prefill
from service.scheduling.job import FairQueue, Job, Scheduler
from service.telemetry import ModelMetrics

log = logging.getLogger(__name__)


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

    def take(self) -> Prefill | DecodingSteps | None:
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
        for sequence in sequences:
            self._queue.push(job.share, sequence)
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
