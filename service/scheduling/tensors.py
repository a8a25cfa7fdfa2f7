"""Work that comes as one batch already, arrays of a graph: run as it is, in the order of arrival.

Knows how much work an item is and when its time is over. Knows nothing of what the arrays are.
"""

import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from service.errors import InternalError, Overloaded, ServiceError, Unavailable
from service.scheduling.cost_model import CostModel
from service.scheduling.job import Job, fail_all

log = logging.getLogger(__name__)


class Sized(Protocol):
    """One item: B rows of T padded steps, and what is done beside them (see CostModel)."""

    @property
    def rows(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def extra(self) -> int: ...


class Batch:
    """One item while it runs. `run` may be called in another thread, the rest belongs to the scheduler's."""

    def __init__(self, scheduler: "ArrayScheduler", ticket: Job, item: Any) -> None:
        self.estimate_s = scheduler.cost.seconds(item.rows, item.steps, item.extra)
        self._scheduler, self._ticket, self._item = scheduler, ticket, item
        self._result: Any = None
        self._error: Exception | None = None
        self._seconds = 0.0

    def run(self) -> None:
        started = self._scheduler.clock()
        try:
            self._result = self._scheduler.run(self._item)
        except Exception as error:  # its waiter must hear of it, whatever it is
            self._error = error
        self._seconds = self._scheduler.clock() - started

    def settle(self) -> None:
        """Hand the result, or the failure, to the waiter."""
        error, item = self._error, self._item
        if isinstance(error, ServiceError):
            self._ticket.fail(error)
        elif error is not None:
            request_id = self._ticket.request.request_id
            log.error(
                "request %s: arrays of %d rows, %d steps failed", request_id, item.rows, item.steps, exc_info=error
            )
            self._ticket.fail(InternalError())
        else:
            self._scheduler.cost.learn(item.rows, item.steps, self._seconds, item.extra)
            self._ticket.ran(self._seconds, item.rows)
            self._ticket.succeed(0, self._result)
        self._scheduler.running = None  # last: whom an error here leaves without an answer is still known to `abandon`


class ArrayScheduler:
    """The queue of one graph. Not thread-safe: one thread submits, takes and settles."""

    def __init__(
        self, run: Callable[[Any], Any], *, queue_tokens: int, cost: CostModel, clock: Callable[[], float]
    ) -> None:
        self.run, self.cost, self.clock = run, cost, clock
        self.running: Job | None = None
        self._queue_tokens = queue_tokens
        self._waiting: deque[tuple[Job, Any]] = deque()
        self._tokens = 0  # padded, that wait
        self._closed = False

    def submit(self, ticket: Job, item: Sized) -> None:
        """Queue an item: raises Overloaded or Unavailable."""
        tokens = item.rows * item.steps
        if self._closed:
            raise Unavailable("the service is shutting down: send the request to another replica")
        if self._waiting and self._tokens + tokens > self._queue_tokens:
            raise Overloaded(
                f"arrays of {self._tokens} tokens are waiting already: come back later",
                retry_after_s=1.0,
                limit=self._queue_tokens,
            )
        self._waiting.append((ticket, item))
        self._tokens += tokens

    def take(self) -> Batch | None:
        """The next item to run, None when nothing waits."""
        self.drop_the_gone()
        if not self._waiting:
            return None
        self.running, item = self._waiting.popleft()
        self._tokens -= item.rows * item.steps
        self.running.start(self.clock())
        return Batch(self, self.running, item)

    def drop_the_gone(self) -> None:
        """Settle every ticket that nobody waits for any more, or that is too late, however far back."""
        now = self.clock()
        self._waiting = deque((ticket, item) for ticket, item in self._waiting if not ticket.expire(now))
        self._tokens = sum(item.rows * item.steps for _, item in self._waiting)

    def abandon(self, error: ServiceError) -> None:
        """Fail everybody."""
        running = [self.running] if self.running else []
        fail_all([*running, *(ticket for ticket, _ in self._waiting)], error)
        self.running = None

    def close(self) -> None:
        """Accept nothing more; what waits is still run."""
        self._closed = True
