"""Schedule generation: sequences are decoded together, one token a step, and join and leave between steps.

Prompts are read in one ragged call with the other new prompts. A finished or cancelled sequence frees its slots before
the next step.

The work is to read prompts or to generate tokens. `run` may be called in a thread and never raises. `complete` returns
the results on the event loop. An error fails its own sequence, and the others continue.
"""

import logging
from collections.abc import Sequence
from typing import Any

from service.errors import ServiceError
from service.scheduling.decoding_batch import DecodingBatch, DecodingSequence
from service.scheduling.job import FairQueue, Job, Scheduler, Work

log = logging.getLogger(__name__)


class DecodingScheduler(Scheduler):
    """The decoding batch and the queue of one model.

    The items of a job are pairs of a prompt (T, …), T >= 1, and the text to append to.
    """

    def __init__(self, batch: DecodingBatch[Any, Any]) -> None:
        super().__init__(limits=batch.limits, clock=batch.clock, metrics=batch.metrics)
        self._batch = batch
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
    def slots(self) -> int:
        """Rows of the batch, at most."""
        return self._batch.limits.slots

    @property
    def used_slots(self) -> int:
        """Rows of the sequences that are being read or generated."""
        return self._batch.used_slots

    @property
    def saturation(self) -> float:
        """The share of the queue or of the slots that is used, from 0 to 1, whichever is larger."""
        return max(super().saturation, self.used_slots / self.slots)

    def take(self) -> Work | None:
        batch, now_s = self._batch, self.clock()
        batch.drop_over(now_s)
        self.drop_cancelled()
        self._fill_slots(now_s)
        # Prefill and steps alternate, so that neither new prompts nor a full batch stop the other.
        if batch.prefilling and not (batch.active and self._prefilled_last):
            self._prefilled_last = True
            return batch.prefill(batch.next_prompts())
        if batch.active:
            self._prefilled_last = False
            return batch.steps()
        return None

    def abandon(self, error: ServiceError) -> None:
        try:
            self._batch.flush()
        except Exception:  # a scheduler has failed: the jobs must end, whatever state the batch is in
            log.exception("the last sampled tokens are lost")
        super().abandon(error)

    def _enqueue(self, job: Job, items: Sequence[tuple[Any, Any]]) -> None:
        job.expect(len(items))
        sequences = [self._batch.sequence(job, index, prompt, text) for index, (prompt, text) in enumerate(items)]
        self._queue.push(job.share, sequences)
        for sequence in sequences:
            self._count(sequence, 1)

    def _fill_slots(self, now_s: float) -> None:
        """Give the queued sequences slots, in order, until the next one does not fit."""
        batch = self._batch
        free = batch.limits.slots - batch.used_slots
        while free > 0 and (sequence := self._queue.first()) is not None:
            if sequence.slots > free and not sequence.job.is_over(now_s):
                break
            self._queue.pop()
            self._count(sequence, -1)
            if sequence.job.is_over(now_s):
                continue
            self._queue.spend(sequence.job.share, sequence.cost_tokens)
            sequence.job.start(now_s)
            self.metrics.queue_time(now_s - sequence.job.arrived_s)
            batch.prefilling.append(sequence)
            free -= sequence.slots

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
