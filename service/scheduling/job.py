"""A request in a scheduler (Job), and what all schedulers share (Scheduler): admission, cancellation and shutdown.

A scheduler is a pure object: the clock and the model are passed in. `loop.py` drives it on the event loop.
"""

import logging
import math
from abc import ABC, abstractmethod
from asyncio import Future, get_running_loop
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

from service.errors import ClientGone, DeadlinePassed, InternalError, Overloaded, ServiceError, Unavailable
from service.telemetry import ModelMetrics

log = logging.getLogger(__name__)

SWEEP_INTERVAL_S = 0.05  # a queue is searched for cancelled jobs this often, not at every refusal
TURN_TOKENS = 4096  # of one client before the next one has its turn: ordinary requests fit in one turn
REFUSAL_INTERVAL_S = 0.01  # the text of a refusal is made this often: under overload, refusals must be cheap


class ModelIdentity(NamedTuple):
    """The weights that answer a request. ``label`` is ``name@version;digest=sha256:…;variant=…``."""

    name: str
    version: str
    label: bytes


@dataclass(slots=True, kw_only=True)
class InferenceRequest:
    """One request as the engine and the schedulers see it.

    Mutable: the engine writes ``model`` and the schedulers the last five fields. The API reads them for the headers.
    """

    request_id: str
    route: str
    deadline_s: float  # time.monotonic
    is_disconnected: Callable[[], bool]  # called at every step, so it must be cheap
    client: str = ""  # has one share of the queue; "" is a client of its own for each request
    model: ModelIdentity | None = None  # what answers the request, once it is known
    queue_s: float = 0.0
    compute_s: float = 0.0
    prefill_s: float | None = None  # of compute_s: reading prompts or sources, where tokens are then decoded
    batch_items: int = 0
    compute_started_s: float | None = None  # time.monotonic


class ClientShare:
    """The share of one client in one queue."""

    __slots__ = ("items", "jobs", "name", "tokens")

    def __init__(self, name: str) -> None:
        self.name = name
        self.jobs = 0  # admitted and not done
        self.items = 0  # of these jobs
        self.tokens = 0  # reserved and queued


def exceeds_part(held: int, more: int, *, total: int, clients: int, limit: int) -> bool:
    """Return whether a client may not hold ``more`` of a queue, because others need room.

    It holds ``held`` of the ``total`` of so many ``clients``. It may hold seven eighths of the limit. In a queue that
    is over half full, it may add to an equal part of the total, or to a sixteenth of the limit.
    """
    if held + more > limit - limit // 8:
        return True
    return 2 * total > limit and held > limit // 16 and held * clients > total


T = TypeVar("T")


class FairQueue(Generic[T]):
    """Items of several clients, in order of arrival for each. A client's turn ends after TURN_TOKENS.

    This is deficit round robin (Shreedhar and Varghese 1996, "Efficient fair queuing using deficit round robin"),
    without the deficit: tokens beyond a turn are not charged to the next turn.
    """

    def __init__(self) -> None:
        self._items: OrderedDict[ClientShare, deque[T]] = OrderedDict()  # no deque is empty; the first has its turn
        self._spent = 0  # tokens in this turn

    def __iter__(self) -> Iterator[T]:
        return (item for items in self._items.values() for item in items)

    def push(self, share: ClientShare, items: Iterable[T]) -> None:
        """Add items, at least one. A client without items gets its turn after all others."""
        queued = self._items.get(share)
        if queued is None:
            self._items[share] = deque(items)
        else:
            queued.extend(items)

    def first(self) -> T | None:
        """Return the item that `pop` removes next, or None if there are no items."""
        return next(iter(self._items.values()))[0] if self._items else None

    def pop(self) -> T | None:
        """Remove and return the oldest item of the client whose turn it is, or None if there are no items."""
        if not self._items:
            return None
        share, items = next(iter(self._items.items()))
        item = items.popleft()
        if not items:
            self._end_turn(share)
        return item

    def spend(self, share: ClientShare, tokens: int) -> None:
        """Count tokens that run in the turn of this client."""
        if next(iter(self._items), None) is share:  # otherwise, its turn has ended with its last item
            self._spent += tokens
            if self._spent >= TURN_TOKENS:
                self._end_turn(share)

    def drop(self, is_dropped: Callable[[T], bool]) -> list[T]:
        """Remove some items, and return them."""
        dropped: list[T] = []
        for share, items in list(self._items.items()):
            kept: deque[T] = deque()
            for item in items:
                (dropped if is_dropped(item) else kept).append(item)
            self._items[share] = kept
            if not kept:
                self._end_turn(share)
        return dropped

    def clear(self) -> None:
        """Remove all items."""
        self._items.clear()
        self._spent = 0

    def _end_turn(self, share: ClientShare) -> None:
        if next(iter(self._items)) is share:
            self._spent = 0
        if self._items[share]:
            self._items.move_to_end(share)
        else:
            del self._items[share]


class Job:
    """The items of one request in one scheduler, and their results.

    `Scheduler.admit` makes it with a reservation in the queue, and `Scheduler.submit` gives it its items.
    A job ends once: when every item has a result, or at the first error.
    Later results are ignored, and items that have not run are dropped.

    Await a job for its results. As a context manager it is cancelled if the block ends before it is done.
    """

    __slots__ = (
        "_forget",
        "_future",
        "_remaining",
        "arrived_s",
        "done",
        "error",
        "items",
        "notified_s",
        "on_done",
        "on_progress",
        "request",
        "reserved_items",
        "reserved_tokens",
        "results",
        "share",
        "started",
    )

    def __init__(
        self,
        request: InferenceRequest,
        *,
        share: ClientShare,
        items: int,
        tokens: int,
        now_s: float,
        forget: Callable[["Job"], None],
    ) -> None:
        self.request, self.share = request, share
        self.items = items
        self.reserved_items, self.reserved_tokens = items, tokens  # until the items are submitted
        self.arrived_s = self.notified_s = now_s
        self.results: list[Any] = []  # one for each submitted item
        self.error: ServiceError | None = None
        self.done = self.started = False
        self.on_progress: Callable[[], None] | None = None  # called when a generated text has grown
        self.on_done: Callable[[], None] | None = None
        self._remaining = 0
        self._future: Future[None] | None = None
        self._forget = forget

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.done:
            self.cancel()

    def __await__(self) -> Generator[Any, None, list[Any]]:
        if not self.done:
            self._future = get_running_loop().create_future()
            yield from self._future
        if self.error is not None:
            raise self.error
        return self.results

    def expect(self, items: int) -> None:
        """Wait for so many results from now on."""
        self.results = [None] * items
        self._remaining = items

    def start(self, now_s: float) -> None:
        """Record that the first item begins to run."""
        if not self.started:
            self.started = True
            self.request.queue_s = now_s - self.arrived_s
            self.request.compute_started_s = now_s

    def record_batch(self, compute_s: float, batch_items: int) -> None:
        """Record a batch that held items of this job."""
        request = self.request
        request.compute_s += compute_s
        if batch_items > request.batch_items:
            request.batch_items = batch_items

    def record_prefill(self, compute_s: float, batch_items: int) -> None:
        """Record a batch that read prompts or sources of this job."""
        self.request.prefill_s = (self.request.prefill_s or 0.0) + compute_s
        self.record_batch(compute_s, batch_items)

    def notify(self, now_s: float) -> None:
        """Notify the reader of a stream that there is more to read."""
        if self.on_progress is not None:
            self.notified_s = now_s
            self.on_progress()

    def complete(self, index: int, result: Any) -> None:
        """Set the result of one item."""
        if self.done:
            return
        self.results[index] = result
        self._remaining -= 1
        if not self._remaining:
            self._finish()

    def fail(self, error: ServiceError) -> None:
        """End the job with an error, unless it is done."""
        if not self.done:
            self.error = error
            self._finish()

    def cancel(self) -> None:
        """End the job with ClientGone."""
        self.fail(ClientGone())

    def is_over(self, now_s: float) -> bool:
        """Return whether nothing is left to run. Ends a job that is expired, or whose client disconnected."""
        if self.done:
            return True
        request = self.request
        if now_s >= request.deadline_s:
            self.fail(
                DeadlinePassed(
                    f"the deadline passed {now_s - self.arrived_s:.3f} s after the request was queued",
                    limit=round(request.deadline_s - self.arrived_s, 3),
                )
            )
        elif request.is_disconnected():
            self.cancel()
        return self.done

    def _finish(self) -> None:
        self.done = True
        self._forget(self)
        on_done, self.on_done, self.on_progress = self.on_done, None, None  # breaks a reference cycle with the reader
        if self._future is not None and not self._future.done():
            self._future.set_result(None)
        if on_done is not None:
            on_done()


@dataclass(frozen=True, kw_only=True)
class QueueLimits:
    """How much may wait. A request that finds the queue empty is always admitted."""

    queue_items: int = 4096
    queue_tokens: int = 262_144
    queue_s: float = math.inf  # estimated seconds of work


class Work(Protocol):
    """One unit of work of a scheduler. `run` may be called in a thread and never raises."""

    @property
    def estimate_s(self) -> float: ...
    def run(self) -> None: ...
    def complete(self) -> None:
        """Hand out the results, on the event loop."""
        ...


class Scheduler(ABC):
    """The queue of one model. Not thread-safe: one thread admits, submits, takes and completes.

    The limits on items, tokens and time are checked once, in `admit`. The tokens of a request are an estimate until it
    is encoded, so a queue can exceed `queue_tokens` by the errors of the estimates.

    Clients share the queue. In a queue that is over half full, one that holds more than TURN_TOKENS and more than its
    part is refused, while others are admitted. So is one with too large a part of the items (`exceeds_part`). What a
    client holds beyond TURN_TOKENS does not make others wait, because they have their turns before, so it does not
    count as their time in the queue.
    """

    def __init__(self, *, limits: QueueLimits, clock: Callable[[], float], metrics: ModelMetrics) -> None:
        self.clock, self.metrics = clock, metrics
        self.jobs: set[Job] = set()  # admitted and not done
        self._queue_limits = limits
        self._reserved_items = self._reserved_tokens = 0
        self.shares: dict[str, ClientShare] = {}  # of clients that have a name and jobs
        self._share_count = 0  # clients with jobs
        self._items = 0  # of all jobs
        self._excess_tokens = 0  # what clients hold beyond TURN_TOKENS each
        self._next_sweep_s = self._next_refusal_s = 0.0
        self._refusal, self._retry_after_s = "", 0.0
        self._closed = False

    @property
    @abstractmethod
    def queued_items(self) -> int: ...

    @property
    @abstractmethod
    def queued_tokens(self) -> int: ...

    @property
    def queued_s(self) -> float:
        """Estimated seconds until all queued work is done; 0 without an estimate."""
        return 0.0

    @property
    def saturation(self) -> float:
        """The share of its limits that the queue uses, from 0 to 1: items, tokens or seconds, whichever is largest."""
        limits = self._queue_limits
        items = (self.queued_items + self._reserved_items) / limits.queue_items
        return min(1.0, max(items, self._held_tokens / limits.queue_tokens, self.queued_s / limits.queue_s))

    @property
    def retry_after_s(self) -> float:
        """Seconds after which a refused client should retry."""
        return 1.0

    def admit(self, request: InferenceRequest, items: int, tokens: int = 0) -> Job:
        """Reserve room for a request. `tokens` are those that are known or estimated before it is encoded.

        Raises Overloaded, Unavailable or DeadlinePassed.
        """
        if self._closed:
            raise Unavailable("the service is shutting down; send the request to another replica")
        now_s, share = self.clock(), self._share_of(request.client)
        if self._reserved_items or self.queued_items:
            if self._is_full(share, items, tokens):
                if now_s >= self._next_sweep_s:
                    self._sweep(now_s)
                if self._is_full(share, items, tokens):
                    raise self._overloaded(share, now_s)
            self._check_deadline(share, request.deadline_s, now_s)
        job = Job(request, share=share, items=items, tokens=tokens, now_s=now_s, forget=self._forget)
        if not share.jobs:
            self._share_count += 1
            if share.name:
                self.shares[share.name] = share
        share.jobs += 1
        share.items += items
        self._items += items
        self._reserved_items += items
        self._reserved_tokens += tokens
        self.hold(share, tokens)
        self.jobs.add(job)
        return job

    def submit(self, job: Job, items: Any) -> None:
        """Queue the items of an admitted job. Its reservation ends here. A job that is done is ignored."""
        self._release(job)
        if not job.done:
            self._enqueue(job, items)

    @abstractmethod
    def take(self) -> Work | None:
        """Return the next unit of work, or None if there is none."""

    def drop_cancelled(self) -> None:
        """Drop queued jobs that are cancelled or expired. Searches the queue every SWEEP_INTERVAL_S at most."""
        now_s = self.clock()
        if now_s >= self._next_sweep_s:
            self._sweep(now_s)

    def abandon(self, error: ServiceError) -> None:
        """Fail all submitted jobs and empty the queue, even if its state is inconsistent."""
        failed = [job for job in self.jobs if job.results]
        if failed and isinstance(error, InternalError):
            log.error("failed requests: %s", ", ".join(sorted(job.request.request_id for job in failed)))
        for job in failed:
            job.fail(error)
        self._clear()
        self._excess_tokens = 0
        for job in self.jobs:  # what is still being encoded
            job.share.tokens = 0
        for job in self.jobs:
            self.hold(job.share, job.reserved_tokens)

    def hold(self, share: ClientShare, tokens: int) -> None:
        """Count tokens that a client has reserved or queued or, if negative, that are not queued any more."""
        before = share.tokens
        share.tokens = after = before + tokens
        if after > TURN_TOKENS or before > TURN_TOKENS:
            self._excess_tokens += max(0, after - TURN_TOKENS) - max(0, before - TURN_TOKENS)

    def close(self) -> None:
        """Stop admission. Admitted jobs still run."""
        self._closed = True

    @abstractmethod
    def _enqueue(self, job: Job, items: Any) -> None: ...

    @abstractmethod
    def _drop_over(self, now_s: float) -> None:
        """Drop all queued items of jobs that are over."""

    @abstractmethod
    def _clear(self) -> None:
        """Empty the queue and forget what runs."""

    def _check_deadline(self, share: ClientShare, deadline_s: float, now_s: float) -> None:
        """Raise DeadlinePassed for a request that cannot finish in time."""
        return

    def _sweep(self, now_s: float) -> None:
        self._next_sweep_s = now_s + SWEEP_INTERVAL_S
        self._drop_over(now_s)

    def _share_of(self, client: str) -> ClientShare:
        return self.shares.get(client) or ClientShare(client)

    def _is_full(self, share: ClientShare, items: int, tokens: int) -> bool:
        limits = self._queue_limits
        queued_items, queued_tokens = self.queued_items + self._reserved_items, self._held_tokens
        if not queued_items:
            return False
        if share.jobs and exceeds_part(
            share.items, items, total=self._items, clients=self._share_count, limit=limits.queue_items
        ):
            return True
        held = share.tokens + tokens
        if held > TURN_TOKENS and held * (self._share_count + (not share.jobs)) > queued_tokens + tokens:
            half_full = (
                2 * queued_items > limits.queue_items
                or 2 * queued_tokens > limits.queue_tokens
                or 2 * self.queued_s > limits.queue_s
            )
            if half_full and share.tokens < queued_tokens:
                return True
        return (
            queued_items + items > limits.queue_items
            or queued_tokens + max(tokens, 1) > limits.queue_tokens
            or self.queued_s * self._share_before(share) > limits.queue_s
        )

    @property
    def _held_tokens(self) -> int:
        return self.queued_tokens + self._reserved_tokens

    def _share_before(self, share: ClientShare) -> float:
        """Return the part of the queued work that runs before new work of this client."""
        excess = self._excess_tokens - max(0, share.tokens - TURN_TOKENS)
        return 1.0 - excess / self._held_tokens if excess > 0 else 1.0

    def _overloaded(self, share: ClientShare, now_s: float) -> Overloaded:
        limits = self._queue_limits
        if now_s >= self._next_refusal_s:
            self._next_refusal_s = now_s + REFUSAL_INTERVAL_S
            self._refusal = (
                f"{self.queued_items} inputs of {self.queued_tokens} tokens are queued; the limits are "
                f"{limits.queue_items} inputs and {limits.queue_tokens} tokens, and lower for a client that has most of"
                " them; retry later"
            )
            self._retry_after_s = self.retry_after_s
        any_size = self._is_full(share, 1, 0)
        return Overloaded(self._refusal, retry_after_s=self._retry_after_s, limit=limits.queue_items, any_size=any_size)

    def _release(self, job: Job) -> None:
        self.hold(job.share, -job.reserved_tokens)
        self._reserved_items -= job.reserved_items
        self._reserved_tokens -= job.reserved_tokens
        job.reserved_items = job.reserved_tokens = 0

    def _forget(self, job: Job) -> None:
        self.jobs.discard(job)
        if job.reserved_items or job.reserved_tokens:
            self._release(job)
        share = job.share
        share.jobs -= 1
        share.items -= job.items
        self._items -= job.items
        if not share.jobs:
            self._share_count -= 1
            self.shares.pop(share.name, None)
