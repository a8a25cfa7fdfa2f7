"""Whole sequences (tag, classify): batches of like length, by cost, without a wait and without starvation.

The waiting sequences are cut, sorted by length, into the batches that are cheapest in all, and the batch of the
one that has waited longest runs next. So a sequence that arrives behind n others starts at the latest with the
(n+1)-th batch after the one that runs. Nothing is ever waited for: the next batch forms while the previous one runs.

Knows lengths, costs and tickets. Knows no network but the function that it is handed.  T steps, B rows.
"""

import logging
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from service.errors import DeadlinePassed, InternalError, Overloaded, ServiceError, Unavailable
from service.scheduling.batch_cutting import segment
from service.scheduling.cost_model import CostModel
from service.scheduling.job import Job, fail_all
from service.scheduling.queue_estimate import Backlog
from service.scheduling.queued_sequence import Entry, Sized

log = logging.getLogger(__name__)

Run = Callable[[Sequence[Any]], Sequence[Any]]

# Waiting sequences on either side of the oldest one, by length, among which the cheapest cut is sought: twice as many
# take twice the time (0.1 ms) and save no more than that.
WINDOW = 32
SWEEP_EVERY_S = 0.05  # a full queue is searched for clients that have gone this often, not at every refusal


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much may wait and how much may run at once."""

    queue_items: int = 4096
    queue_tokens: int = 262_144
    queue_s: float = 1.0  # of work, as it has been going lately
    batch_rows: int = 32  # beyond, a row costs the same on a CPU and only waits for the others
    batch_tokens: int = 2048  # padded; bounds how long one batch keeps the next waiting
    # Of a batch of short sequences, extra work apart: well below what runs on the loop, see pump.py.
    brief_s: float = 0.0025


class Observer(Protocol):
    """What a scheduler tells of itself."""

    def batch(
        self,
        *,
        items: int,
        padded_tokens: int,
        real_tokens: int,
        reason: str,
        compute_s: float,
        waits_s: Sequence[float],
    ) -> None: ...

    def queue_depth(self, items: int) -> None: ...


class Batch:
    """Entries that run together. `run` may be called in another thread, the rest belongs to the scheduler's."""

    def __init__(self, scheduler: "SequenceScheduler", entries: list[Entry], reason: str, now_s: float) -> None:
        self.entries, self.reason, self.taken_s = entries, reason, now_s
        self.rows, self.steps = len(entries), max(entry.length for entry in entries)
        self.extra = sum(entry.extra for entry in entries)
        self.estimate_s = scheduler.cost.seconds(self.rows, self.steps, self.extra)
        self._scheduler = scheduler
        self._results: Sequence[Any] = ()
        self._error: BaseException | None = None
        self._seconds = 0.0

    def run(self) -> None:
        started = self._scheduler.clock()
        try:
            self._results = self._scheduler.run([entry.item for entry in self.entries])
            if len(self._results) != self.rows:
                raise ValueError(f"{len(self._results)} results for a batch of {self.rows}")
        except Exception as error:  # the waiters must hear of it, whatever it is
            self._error = error
        self._seconds = self._scheduler.clock() - started

    def settle(self) -> None:
        """Hand the results, or the failure, to the waiters."""
        self._scheduler.settle(self, self._results, self._error, self._seconds)


class SequenceScheduler:
    """The queue of one bundle. Not thread-safe: one thread submits, takes and settles."""

    def __init__(
        self, run: Run, *, limits: Limits, cost: CostModel, clock: Callable[[], float], observer: Observer
    ) -> None:
        self.run, self.cost, self.clock = run, cost, clock
        self._limits, self._observer = limits, observer
        self._by_length: list[tuple[tuple[int, int], Entry]] = []
        self._by_age: deque[Entry] = deque()  # in order of arrival; some may no longer wait
        self._suspects: list[list[Entry]] = []  # parts of a batch that failed, to be run apart
        self._number = 0
        self._backlog = Backlog(cost)
        self._earliest_deadline_s = float("inf")
        self._running: Sequence[Entry] = ()
        self._next_sweep_s = 0.0
        self._closed = False

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing runs."""
        return not (self._by_length or self._suspects or self._running)

    def submit(self, ticket: Job, items: Sequence[Sized]) -> None:
        """Queue all sequences of a ticket, or none: raises Overloaded, Unavailable or DeadlinePassed."""
        entries = [Entry(ticket, index, item, self._number + index) for index, item in enumerate(items)]
        self.check_room(len(entries), sum([entry.length for entry in entries]))
        deadline_s = ticket.request.deadline_s
        self._check_deadline(deadline_s)
        self._number += len(entries)
        self._by_age += entries
        for entry in entries:
            insort(self._by_length, (entry.key, entry))
            self._backlog.add(entry.length, entry.extra)
        self._earliest_deadline_s = min(self._earliest_deadline_s, deadline_s)
        self._observer.queue_depth(len(self._by_length))

    def check_room(self, items: int, tokens: int = 0) -> None:
        """Raise Overloaded or Unavailable if so much more is not taken: worth asking before it is encoded."""
        if self._closed:
            raise Unavailable("the service is shutting down: send the request to another replica")
        if self.is_full(items, tokens):
            raise self.overload()

    def is_full(self, items: int, tokens: int = 0) -> bool:
        """Whether so much more does not fit. A request that is alone fits: the limits on a request bound it."""
        if not self._is_over(items, tokens):
            return False
        self.drop_the_gone()
        return self._is_over(items, tokens)

    def _is_over(self, items: int, tokens: int) -> bool:
        limits, backlog = self._limits, self._backlog
        return bool(backlog.items) and (
            backlog.items + items > limits.queue_items
            or backlog.tokens + tokens > limits.queue_tokens
            or backlog.wait_s > limits.queue_s
        )

    def overload(self) -> Overloaded:
        """What is said when it is full."""
        backlog = self._backlog
        return Overloaded(
            f"{backlog.items} sequences of {backlog.tokens} tokens are waiting already: come back later",
            retry_after_s=max(0.1, round(backlog.wait_s, 1)),
            limit=self._limits.queue_items,
        )

    def drop_the_gone(self) -> None:
        """Make room: nobody keeps a place for a client that has gone. Looks every SWEEP_EVERY_S at most."""
        now = self.clock()
        if now >= self._next_sweep_s:
            self._sweep(now)

    def _check_deadline(self, deadline_s: float) -> None:
        """Refuse at once what is not to be expected in time: it would only be found too late when its turn comes.

        A newcomer may be next, among others of its length, or last: half of what waits is before it on the average.
        """
        if not self._backlog.items:
            return
        left_s = deadline_s - self.clock()
        if not 0 < left_s < self._backlog.work_s / 2:  # what is late already is told so when its turn comes
            return
        self.drop_the_gone()
        if left_s < self._backlog.work_s / 2:
            raise DeadlinePassed(
                f"the work that is waiting already takes {self._backlog.work_s:.3f} s, and this request has "
                f"{left_s:.3f} s: allow more time with the header X-Request-Timeout-S, or come back later",
                limit=round(left_s, 3),
            )

    def take(self) -> Batch | None:
        """The next batch to run, None when nothing waits."""
        batch = self._next()
        self._observer.queue_depth(len(self._by_length))
        return batch

    def _next(self) -> Batch | None:
        now = self.clock()
        while self._suspects:
            entries = [entry for entry in self._suspects.pop() if not entry.ticket.expire(now)]
            if entries:
                return self._start(entries, "retry", now)
        if now >= self._earliest_deadline_s:
            self._sweep(now)
        while self._by_age:
            anchor = self._by_age[0]
            if not anchor.waits:
                self._by_age.popleft()
                continue
            if anchor.ticket.expire(now):
                self._forget(bisect_left(self._by_length, (anchor.key,)), 1)
                continue
            first, last, reason = self._around(anchor)
            entries = [entry for entry in self._forget(first, last - first) if not entry.ticket.expire(now)]
            if entries:
                return self._start(entries, reason, now)
        return None

    def _around(self, anchor: Entry) -> tuple[int, int, str]:
        """The slice [first, last) of the sorted queue that runs with `anchor`, and what set its bounds."""
        queue, limits = self._by_length, self._limits
        place = bisect_left(queue, (anchor.key,))
        start, end = max(0, place - WINDOW), min(len(queue), place + WINDOW + 1)
        lengths = [entry.length for _, entry in queue[start:end]]
        rows, tokens = limits.batch_rows, limits.batch_tokens
        first, last = segment(lengths, place - start, self.cost, rows=rows, tokens=tokens, brief_s=limits.brief_s)
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

    def _forget(self, first: int, count: int) -> list[Entry]:
        """Take a slice out of the queue."""
        entries = [entry for _, entry in self._by_length[first : first + count]]
        del self._by_length[first : first + count]
        for entry in entries:
            entry.waits = False
            self._backlog.remove(entry.length, entry.extra)
        return entries

    def _sweep(self, now: float) -> None:
        """Answer everybody whose deadline has passed, and forget who has gone, however far back they wait."""
        self._next_sweep_s = now + SWEEP_EVERY_S
        self._earliest_deadline_s = float("inf")
        waiting = [entry for entry in self._by_age if entry.waits]
        self._by_age = deque(waiting)
        for entry in waiting:
            if entry.ticket.expire(now):
                self._forget(bisect_left(self._by_length, (entry.key,)), 1)
            else:
                self._earliest_deadline_s = min(self._earliest_deadline_s, entry.ticket.request.deadline_s)

    def _start(self, entries: list[Entry], reason: str, now: float) -> Batch:
        for entry in entries:
            entry.ticket.start(now)
        self._running = entries
        return Batch(self, entries, reason, now)

    def settle(self, batch: Batch, results: Sequence[Any], error: BaseException | None, seconds: float) -> None:
        """Called by the batch when it has run."""
        if error is None:
            self.cost.learn(batch.rows, batch.steps, seconds, batch.extra)
        self._backlog.settled(self.clock(), batch.rows, seconds)
        if error is None:
            self._answer(batch, results, seconds)
        else:
            self._isolate(batch.entries, error)
        self._running = ()  # last: whom an error here leaves without an answer is still known to `abandon`

    def _answer(self, batch: Batch, results: Sequence[Any], seconds: float) -> None:
        """Hand out what the network said, and tell of the batch."""
        entries = batch.entries
        for ticket in {entry.ticket for entry in entries}:
            ticket.ran(seconds, batch.rows)
        for entry, result in zip(entries, results, strict=True):
            entry.ticket.succeed(entry.index, result)
        self._observer.batch(
            items=batch.rows,
            padded_tokens=batch.rows * batch.steps,
            real_tokens=sum(entry.length for entry in entries),
            reason=batch.reason,
            compute_s=seconds,
            waits_s=[batch.taken_s - entry.ticket.arrived_s for entry in entries],
        )

    def _isolate(self, entries: list[Entry], error: BaseException) -> None:
        """Halve a batch that failed until the bad sequence is alone: only it fails."""
        if len(entries) > 1:
            middle = len(entries) // 2
            self._suspects += [entries[middle:], entries[:middle]]
            return
        ticket, request = entries[0].ticket, entries[0].ticket.request
        log.error("request %s: a sequence of length %d failed", request.request_id, entries[0].length, exc_info=error)
        ticket.fail(error if isinstance(error, ServiceError) else InternalError())

    def abandon(self, error: ServiceError) -> None:
        """Fail everybody, in whatever state the queue is."""
        queued, suspects = (entry for _, entry in self._by_length), (entry for part in self._suspects for entry in part)
        fail_all((entry.ticket for entry in [*self._running, *queued, *suspects]), error)
        self._running = ()

    def close(self) -> None:
        """Accept nothing more; what waits is still run."""
        self._closed = True
