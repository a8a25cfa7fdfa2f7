"""The decoding batch of a translator: sources that are read once, and the rows of their hypotheses.

A search with beams has several rows, which share the memory of its source. It frees all of them before the next step
when its request is cancelled, expires or fails.
"""

from collections.abc import Callable

from models.tasks.beam_search import BeamSearch, TranslateOptions
from models.tasks.translate import ReadSource, Source, Translator
from models.tasks.translation_rows import TranslationRows
from service.scheduling.cost_model import CostModel
from service.scheduling.decoding_batch import DecodingBatch, DecodingLimits, DecodingSequence, Prefill, StepPlan
from service.scheduling.job import Job
from service.telemetry import ModelMetrics


class TranslationSequence(DecodingSequence):
    """One source of a job, and the search for its targets."""

    __slots__ = ("is_first",)

    def __init__(self, job: Job, index: int, prompt: Source, text: BeamSearch) -> None:
        super().__init__(job, index, prompt, text)
        self.is_first = True  # no step has been taken

    @property
    def slots(self) -> int:
        return int(self.text.options.num_beams)

    @property
    def cost_tokens(self) -> int:
        return len(self.prompt) + search_tokens(self.text.options)


def search_tokens(options: TranslateOptions) -> int:
    """Return the pieces that a search writes, at most, in all its rows."""
    return options.num_beams * (len(options.prefix) + options.max_new_tokens)


class TranslationBatch(DecodingBatch[TranslationSequence, StepPlan]):
    """The sources of one translator. `active[i]` is text i of the rows."""

    def __init__(
        self,
        model: Translator,
        *,
        limits: DecodingLimits,
        clock: Callable[[], float],
        metrics: ModelMetrics,
        cost: CostModel | None = None,
    ) -> None:
        self.model = model
        self.read_cost = CostModel()
        super().__init__(limits=limits, clock=clock, metrics=metrics, cost=cost)

    def clear(self) -> None:
        super().clear()
        self.rows = TranslationRows(self.model)

    def sequence(self, job: Job, index: int, prompt: Source, text: BeamSearch) -> TranslationSequence:
        return TranslationSequence(job, index, prompt, text)

    def prefill(self, group: list[TranslationSequence]) -> "SourcePrefill":
        return SourcePrefill(self, group)

    def steps(self) -> "TranslationSteps":
        return TranslationSteps(self)

    def remove(self, index: int) -> None:
        """Free the slots of a sequence. Later ones move."""
        self._plan = None
        del self.active[index]
        self.rows.remove(index)

    def join(self, sequence: TranslationSequence, read: ReadSource) -> None:
        """Add a sequence whose source was read."""
        self._plan = None
        self.active.append(sequence)
        self.rows.join(sequence.text, read)

    def _make_plan(self) -> StepPlan:
        return StepPlan(self.active)


class SourcePrefill(Prefill[TranslationBatch, TranslationSequence, ReadSource]):
    """Read several sources in one ragged call."""

    def __init__(self, batch: TranslationBatch, group: list[TranslationSequence]) -> None:
        super().__init__(batch, group, cost=batch.read_cost)

    def _read(self, group: list[TranslationSequence]) -> list[ReadSource]:
        return self._batch.model.read([sequence.prompt for sequence in group])

    def complete(self) -> None:
        batch, now_s = self._batch, self._batch.clock()
        self._record_calls()
        if not batch.active:
            batch.stepped_s = now_s
        for sequence, result in self._results:
            if isinstance(result, Exception):
                batch.fail(sequence, result)
            else:
                batch.join(sequence, result)


class TranslationSteps:
    """Advance all searches until one of them is over or the time of a dispatch has passed."""

    def __init__(self, batch: TranslationBatch) -> None:
        self._batch = batch
        self._rows = batch.rows.count
        step_s = batch.cost.seconds(self._rows, 1)
        self._steps = max(1, int(batch.limits.dispatch_s / step_s))
        self.estimate_s = self._steps * step_s
        self._done: list[int] = []
        self._failed: dict[int, Exception] = {}
        self._steps_run, self._seconds = 0, 0.0

    def run(self) -> None:
        batch, count = self._batch, 0
        started_s = batch.clock()
        while count < self._steps and not self._done and not self._failed:
            self._done, self._failed = batch.rows.step()
            count += 1
        self._rows = max(self._rows, batch.rows.count)  # a search has one row before its first step
        self._steps_run, self._seconds = count, batch.clock() - started_s

    def complete(self) -> None:
        batch, steps, now_s = self._batch, self._steps_run, self._batch.clock()
        batch.cost.learn(self._rows, 1, self._seconds / steps)
        batch.metrics.steps(rows=self._rows, count=steps, compute_s=self._seconds)
        batch.metrics.tokens(count=self._rows * steps, interval_s=(now_s - batch.stepped_s) / steps)
        batch.stepped_s = now_s
        jobs = batch.plan.jobs
        for job in jobs:
            job.record_batch(self._seconds, self._rows)
        for sequence in batch.active:
            if sequence.is_first:
                sequence.is_first = False
                batch.metrics.first_token(now_s - sequence.job.arrived_s)
        # From the last sequence to the first: removing one moves only those that are handled already.
        for index in sorted({*self._done, *self._failed}, reverse=True):
            sequence = batch.active[index]
            if index in self._failed:
                batch.fail(sequence, self._failed[index])
            else:
                sequence.job.complete(sequence.index, sequence.text)
            batch.remove(index)
            sequence.job.notify(now_s)  # at once: this sequence is done
        batch.notify(jobs, now_s)
