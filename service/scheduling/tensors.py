"""Schedule tensors that clients send as whole batches: one at a time, in order of arrival, and clients take turns."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from service.errors import InternalError, ServiceError
from service.scheduling.cost_model import CostModel
from service.scheduling.job import FairQueue, Job, QueueLimits, Scheduler
from service.telemetry import ModelMetrics

log = logging.getLogger(__name__)

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRequest:
    """Checked arrays by input name, and their cost: rows, padded steps and extra work (see CostModel)."""

    arrays: Arrays
    rows: int
    steps: int
    extra: int

    @property
    def tokens(self) -> int:
        return self.rows * self.steps


class TensorRun:
    """One request while it runs."""

    def __init__(self, scheduler: "TensorScheduler", job: Job, tensors: TensorRequest, now_s: float) -> None:
        self.estimate_s = scheduler.cost.seconds(tensors.rows, tensors.steps, tensors.extra)
        self._scheduler, self._job, self._tensors, self._taken_s = scheduler, job, tensors, now_s
        self._result: Arrays = {}
        self._error: Exception | None = None
        self._seconds = 0.0

    def run(self) -> None:
        started_s = self._scheduler.clock()
        try:
            self._result = self._scheduler.run(self._tensors)
        except Exception as error:  # whatever it is, the job must end
            self._error = error
        self._seconds = self._scheduler.clock() - started_s

    def complete(self) -> None:
        error, job, tensors = self._error, self._job, self._tensors
        if isinstance(error, ServiceError):
            job.fail(error)
        elif error is not None:
            request_id = job.request.request_id
            log.error(
                "request %s: tensors of %d rows, %d steps failed",
                request_id,
                tensors.rows,
                tensors.steps,
                exc_info=error,
            )
            job.fail(InternalError())
        else:
            self._scheduler.cost.learn(tensors.rows, tensors.steps, self._seconds, tensors.extra)
            job.record_batch(self._seconds, tensors.rows)
            job.complete(0, self._result)
            self._scheduler.metrics.batch(
                items=tensors.rows,
                padded_tokens=tensors.tokens,
                real_tokens=tensors.tokens,  # the client padded them
                reason="tensors",
                compute_s=self._seconds,
                queue_s=[self._taken_s - job.arrived_s],
            )


class TensorScheduler(Scheduler):
    """The queue for the tensors of one model."""

    def __init__(
        self,
        run: Callable[[TensorRequest], Arrays],
        *,
        limits: QueueLimits,
        cost: CostModel,
        clock: Callable[[], float],
        metrics: ModelMetrics,
    ) -> None:
        super().__init__(limits=limits, clock=clock, metrics=metrics)
        self.run, self.cost = run, cost
        self._queue: FairQueue[tuple[Job, TensorRequest]] = FairQueue()
        self._queued_items = self._queued_tokens = 0

    @property
    def queued_items(self) -> int:
        return self._queued_items

    @property
    def queued_tokens(self) -> int:
        return self._queued_tokens

    def take(self) -> TensorRun | None:
        now_s = self.clock()
        while (queued := self._queue.pop()) is not None:
            job, tensors = queued
            self._count(job, tensors, -1)
            if not job.is_over(now_s):
                self._queue.spend(job.share, tensors.tokens)
                job.start(now_s)
                return TensorRun(self, job, tensors, now_s)
        return None

    def _enqueue(self, job: Job, items: TensorRequest) -> None:
        job.expect(1)
        self._queue.push(job.share, ((job, items),))
        self._count(job, items, 1)

    def _drop_over(self, now_s: float) -> None:
        for job, tensors in self._queue.drop(lambda queued: queued[0].is_over(now_s)):
            self._count(job, tensors, -1)

    def _count(self, job: Job, tensors: TensorRequest, change: int) -> None:
        """Count a request that is queued (1), or not any more (-1)."""
        self._queued_items += change
        self._queued_tokens += change * tensors.tokens
        self.hold(job.share, change * tensors.tokens)

    def _clear(self) -> None:
        self._queue.clear()
        self._queued_items = self._queued_tokens = 0
