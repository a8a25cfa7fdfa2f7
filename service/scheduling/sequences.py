"""Schedule whole sequences (tag, classify, embed): batches of similar length, without waiting and without starvation.

The queue, sorted by length, is cut into the cheapest batches. The batch with the oldest sequence runs next, and
clients with long requests take turns (FairQueue). So a sequence behind n others of C clients starts with the
C·(n+1)-th batch at the latest. No batch waits to fill: the next one forms while the previous one runs.
T steps, B rows.
"""

import logging
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from service.errors import DeadlinePassed, InternalError, ServiceError
from service.scheduling.cost_model import CostModel, QueueEstimate
from service.scheduling.job import ClientShare, FairQueue, Job, QueueLimits, Scheduler
from service.telemetry import ModelMetrics

log = logging.getLogger(__name__)

Run = Callable[[Sequence[Any]], Sequence[Any]]  # the encoded inputs of a batch to one result each

# The cheapest cut is sought among this many sequences on either side of the oldest one, by length. Twice as many take
# twice the time (0.1 ms) and save no more than that.
WINDOW = 32
# The cost of padded cells is multiplied by this. The optimum is flat: a little time buys much less padding.
PADDING_AVERSION = 1.4
NUMBER_BITS = 64  # of the order of arrival, in the key by which the queue is sorted
# What short batches may cost: this share of the time of their rows, in calls and steps that larger ones save.
SHORT_BATCH_OVERHEAD = 0.25


@dataclass(frozen=True, kw_only=True)
class SequenceLimits(QueueLimits):
    """How much may wait and how much may run together."""

    queue_s: float = 1.0
    batch_rows: int = 32  # beyond, a row costs the same on a CPU and only waits for the others
    batch_tokens: int = 2048  # padded; bounds how long one batch delays the next
    target_s: float = 0.0025  # of a batch of short sequences: below what runs on the event loop (loop.INLINE_S)


class EncodedInput(Protocol):
    """One encoded input of any codec."""

    @property
    def length(self) -> int: ...
    @property
    def extra(self) -> int:
        """Work outside the steps, see CostModel."""
        ...


class QueuedSequence:
    """One sequence of a job while it waits. Sorted by (length, order of arrival)."""

    __slots__ = ("extra", "index", "item", "job", "key", "length", "queued")

    def __init__(self, job: Job, index: int, item: EncodedInput, number: int) -> None:
        self.job, self.index, self.item = job, index, item
        self.length, self.extra = item.length, item.extra
        self.key = self.length << NUMBER_BITS | number
        self.queued = True


class RunningBatch:
    """Sequences that run together."""

    def __init__(
        self, scheduler: "SequenceScheduler", entries: list[QueuedSequence], reason: str, now_s: float
    ) -> None:
        self.entries, self.reason, self.taken_s = entries, reason, now_s
        self.rows, self.steps = len(entries), max([entry.length for entry in entries])
        self.extra = sum([entry.extra for entry in entries])
        self.estimate_s = scheduler.cost.seconds(self.rows, self.steps, self.extra)
        self._scheduler = scheduler
        self._results: Sequence[Any] = ()
        self._error: Exception | None = None
        self._seconds = 0.0

    def run(self) -> None:
        started_s = self._scheduler.clock()
        try:
            self._results = self._scheduler.run([entry.item for entry in self.entries])
            if len(self._results) != self.rows:
                raise ValueError(f"{len(self._results)} results for a batch of {self.rows}")
        except Exception as error:  # whatever it is, the jobs must end
            self._error = error
        self._seconds = self._scheduler.clock() - started_s

    def complete(self) -> None:
        self._scheduler.complete(self, self._results, self._error, self._seconds)


class SequenceScheduler(Scheduler):
    """The queue of one model that reads whole sequences."""

    def __init__(
        self, run: Run, *, limits: SequenceLimits, cost: CostModel, clock: Callable[[], float], metrics: ModelMetrics
    ) -> None:
        super().__init__(limits=limits, clock=clock, metrics=metrics)
        self.run, self.cost = run, cost
        self._limits = limits
        self._by_length: list[tuple[int, QueuedSequence]] = []
        self._turns: FairQueue[QueuedSequence] = FairQueue()  # in order of service; some may not be queued any more
        self._bisecting: list[list[QueuedSequence]] = []  # parts of a failed batch, to run separately
        self._number = 0
        self._estimate = QueueEstimate(cost)
        self._earliest_deadline_s = float("inf")

    @property
    def queued_items(self) -> int:
        return self._estimate.items

    @property
    def queued_tokens(self) -> int:
        return self._estimate.tokens

    @property
    def queued_s(self) -> float:
        return self._estimate.wait_s

    @property
    def retry_after_s(self) -> float:
        return max(0.1, round(self._estimate.wait_s, 1))

    def complete(self, batch: RunningBatch, results: Sequence[Any], error: Exception | None, seconds: float) -> None:
        """Hand out the results of a batch, or bisect it after an error."""
        if error is None:
            self.cost.learn(batch.rows, batch.steps, seconds, batch.extra)
        self._estimate.learn(self.clock(), batch.rows, seconds)
        if error is not None:
            self._bisect(batch.entries, error)
            return
        entries = batch.entries
        for job in {entry.job for entry in entries}:
            job.record_batch(seconds, batch.rows)
        for entry, result in zip(entries, results, strict=True):
            entry.job.complete(entry.index, result)
        self.metrics.batch(
            items=batch.rows,
            padded_tokens=batch.rows * batch.steps,
            real_tokens=sum([entry.length for entry in entries]),
            reason=batch.reason,
            compute_s=seconds,
            queue_s=[batch.taken_s - entry.job.arrived_s for entry in entries],
        )

    def _enqueue(self, job: Job, items: Sequence[EncodedInput]) -> None:
        job.expect(len(items))
        entries = [QueuedSequence(job, index, item, self._number + index) for index, item in enumerate(items)]
        self._number += len(entries)
        self._turns.push(job.share, entries)
        if len(entries) == 1:  # most requests
            entry = entries[0]
            insort(self._by_length, (entry.key, entry))
            tokens, extra = entry.length, entry.extra
        else:
            self._by_length += [(entry.key, entry) for entry in entries]
            self._by_length.sort()
            tokens = sum([entry.length for entry in entries])
            extra = sum([entry.extra for entry in entries])
        self._estimate.add(len(entries), tokens, extra)
        self.hold(job.share, tokens)
        if job.request.deadline_s < self._earliest_deadline_s:
            self._earliest_deadline_s = job.request.deadline_s

    def _check_deadline(self, share: ClientShare, deadline_s: float, now_s: float) -> None:
        """Raise DeadlinePassed if the queued work takes too long: the request would only expire in the queue.

        A new sequence may run next, with others of its length, or last. On average, half of the queue runs before it.
        """
        left_s = deadline_s - now_s
        if not 0 < left_s < self._estimate.work_s / 2:  # a deadline that passed already is reported from the queue
            return
        self.drop_cancelled()
        work_s = self._estimate.work_s * self._share_before(share)
        if left_s < work_s / 2:
            raise DeadlinePassed(
                f"the work before it takes {work_s:.3f} s, and this request has {left_s:.3f} s left",
                limit=round(left_s, 3),
            )

    def take(self) -> RunningBatch | None:
        now_s = self.clock()
        while self._bisecting:
            entries = [entry for entry in self._bisecting.pop() if not entry.job.is_over(now_s)]
            if entries:
                return self._start(entries, "retry", now_s)
        if now_s >= self._earliest_deadline_s:
            self._sweep(now_s)
        while (oldest := self._turns.pop()) is not None:
            if not oldest.queued:
                continue
            if oldest.job.is_over(now_s):
                self._remove(bisect_left(self._by_length, (oldest.key,)), 1)
                continue
            first, last, reason = self._cut_around(oldest)
            entries = [entry for entry in self._remove(first, last - first) if not entry.job.is_over(now_s)]
            if entries:
                batch = self._start(entries, reason, now_s)
                self._turns.spend(oldest.job.share, batch.rows * batch.steps)
                return batch
        return None

    def _cut_around(self, oldest: QueuedSequence) -> tuple[int, int, str]:
        """Return the slice [first, last) of the sorted queue that runs with `oldest`, and the release reason."""
        queue, limits = self._by_length, self._limits
        if len(queue) == 1:
            return 0, 1, "queue_empty"
        place = bisect_left(queue, (oldest.key,))
        start, end = max(0, place - WINDOW), min(len(queue), place + WINDOW + 1)
        lengths = [entry.length for _, entry in queue[start:end]]
        rows, tokens = limits.batch_rows, limits.batch_tokens
        first, last = cut_batch(lengths, place - start, self.cost, rows=rows, tokens=tokens, target_s=limits.target_s)
        first, last = first + start, last + start
        if last - first == len(queue):
            reason = "queue_empty"
        elif last - first >= rows:
            reason = "rows"
        else:
            longest, longer = queue[last - 1][1].length, queue[min(last, len(queue) - 1)][1].length
            if (last - first + 1) * longer > tokens:
                reason = "tokens"
            else:  # one more of the same length would not have been padded
                reason = "brief" if last < len(queue) and longer == longest else "padding"
        return first, last, reason

    def _remove(self, first: int, count: int) -> list[QueuedSequence]:
        """Remove a slice of the sorted queue and return it."""
        entries = [entry for _, entry in self._by_length[first : first + count]]
        del self._by_length[first : first + count]
        tokens = extra = 0
        for entry in entries:
            entry.queued = False
            tokens += entry.length
            extra += entry.extra
            self.hold(entry.job.share, -entry.length)
        self._estimate.add(-count, -tokens, -extra)
        return entries

    def _start(self, entries: list[QueuedSequence], reason: str, now_s: float) -> RunningBatch:
        for entry in entries:
            entry.job.start(now_s)
        return RunningBatch(self, entries, reason, now_s)

    def _bisect(self, entries: list[QueuedSequence], error: Exception) -> None:
        """Bisect a failed batch until the bad sequence is isolated, so that only its request fails."""
        if len(entries) > 1:
            middle = len(entries) // 2
            self._bisecting += [entries[middle:], entries[:middle]]
            return
        job = entries[0].job
        log.error(
            "request %s: a sequence of length %d failed", job.request.request_id, entries[0].length, exc_info=error
        )
        job.fail(error if isinstance(error, ServiceError) else InternalError())

    def _drop_over(self, now_s: float) -> None:
        self._earliest_deadline_s = float("inf")
        for entry in self._turns:
            if not entry.queued:
                continue
            if entry.job.is_over(now_s):
                self._remove(bisect_left(self._by_length, (entry.key,)), 1)
            else:
                self._earliest_deadline_s = min(self._earliest_deadline_s, entry.job.request.deadline_s)
        self._turns.drop(lambda entry: not entry.queued)

    def _clear(self) -> None:
        self._by_length.clear()
        self._turns.clear()
        self._bisecting.clear()
        self._estimate.clear()


def cut_batch(
    lengths: Sequence[int], index: int, cost: CostModel, *, rows: int, tokens: int, target_s: float = 0.0
) -> tuple[int, int]:
    """Return the batch [first, last) that contains `lengths[index]` in the cheapest plan for all of `lengths`.

    Dynamic programming over the cuts: the optimal partition of a sorted list into intervals (Bellman 1961, "On the
    approximation of curves by line segments using dynamic programming"). The best plan for the first j sequences ends
    with one batch, and the sequences before it have an optimal plan, too.

    `lengths` ascend. Equal lengths stay together. If they exceed one batch, they become batches of their own, of
    about the same size: cuts among them hardly make a plan cheaper, and equal lengths are frequent.

    A batch costs cost.seconds(its rows, its longest), with cells weighted by PADDING_AVERSION. It has at most `rows`
    rows and `tokens` padded tokens, but always room for one sequence. Without extra work it takes at most
    `target_s`, unless such short batches cost too much (SHORT_BATCH_OVERHEAD).

    The time grows with the number of different lengths, times that of one batch.
    """
    call_s, step_s, cell_s = cost.call_s, cost.step_s, cost.cell_s * PADDING_AVERSION
    # For each prefix of the different lengths: where it ends; its seconds; where its last batch begins, as an index
    # into these lists; and into how many parts that batch is cut.
    ends, best, cut, parts = [0], [0.0], [0], [1]
    last = 0
    while last < len(lengths):
        longest, begin = lengths[last], last
        last = bisect_right(lengths, longest, begin)
        fixed_s, row_s = call_s + step_s * longest, cell_s * longest
        max_rows = _max_rows(min(rows, max(1, tokens // longest)), fixed_s, cost.cell_s * longest, target_s)
        where, number = len(ends) - 1, -(-(last - begin) // max_rows)
        lowest = best[-1] + (last - begin) * row_s + number * fixed_s
        if number == 1:
            # The best cut never moves back as the last sequence advances: the costs are Monge (F. Yao 1980, "Efficient
            # dynamic programming using quadrangle inequalities"). Where limits bind, a better cut may be missed.
            for first in range(where - 1, cut[-1] - 1, -1):
                if last - ends[first] > max_rows:
                    break
                seconds = best[first] + (last - ends[first]) * row_s + fixed_s
                if seconds < lowest:
                    lowest, where = seconds, first
        ends.append(last)
        best.append(lowest)
        cut.append(where)
        parts.append(number)
    at = len(ends) - 1
    while ends[cut[at]] > index:
        at = cut[at]
    first, last = ends[cut[at]], ends[at]
    size = -(-(last - first) // parts[at])
    first += (index - first) // size * size
    return first, min(last, first + size)


def _max_rows(limit: int, fixed_s: float, row_s: float, target_s: float) -> int:
    """Return `limit`, or fewer rows where that keeps a batch of fixed_s + row_s·rows below `target_s`."""
    short = int((target_s - fixed_s) / row_s)
    return short if 0 < short < limit and fixed_s <= SHORT_BATCH_OVERHEAD * short * row_s else limit
