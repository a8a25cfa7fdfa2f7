"""One request in a scheduler: its items, its results, and when it is done."""

from asyncio import Future, get_running_loop
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Self

from service.errors import ClientGone, DeadlinePassed, ServiceError


@dataclass(slots=True, kw_only=True)
class InferenceRequest:
    """One request as the engine and the schedulers see it.

    Mutable: the schedulers write the last four fields, and the HTTP layer reads them for ``Server-Timing``.
    """

    request_id: str
    route: str
    deadline_s: float  # time.monotonic
    is_disconnected: Callable[[], bool]  # called at every step, so it must be cheap
    queue_s: float = 0.0
    compute_s: float = 0.0
    batch_items: int = 0
    compute_started_s: float | None = None  # time.monotonic


class Job:
    """The items of one request in one scheduler, and their results.

    `Scheduler.admit` makes it with a reservation in the queue, and `Scheduler.submit` gives it its items.
    A job is done once: when every item has a result, or with the first error.
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
        "notified_s",
        "on_done",
        "on_progress",
        "request",
        "reserved_items",
        "reserved_tokens",
        "results",
        "started",
    )

    def __init__(
        self, request: InferenceRequest, *, items: int, tokens: int, now_s: float, forget: Callable[["Job"], None]
    ) -> None:
        self.request = request
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

    def notify(self, now_s: float) -> None:
        """Tell the reader of a stream that there is more to read."""
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
