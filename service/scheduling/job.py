"""One request in the hands of a scheduler: its parts, its answer, and the certainty that it gets one.

Knows when a request is no longer worth running. Does not know what its parts are.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from service.errors import ClientGone, DeadlinePassed, InternalError, ServiceError

log = logging.getLogger(__name__)


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


Settle = Callable[["Job"], None]


class Job:
    """Collects the results of `size` parts, in their order, and settles exactly once.

    `settle` is called with the ticket when all parts have results, or with the first error. What comes later
    is ignored, and parts that have not run yet are skipped (`settled` is True). `follow` is for who reads the parts
    while they grow: called now and then when they have.
    """

    __slots__ = (
        "_left",
        "_settle",
        "arrived_s",
        "error",
        "follow",
        "request",
        "results",
        "settled",
        "started_s",
        "told_s",
    )

    def __init__(
        self,
        request: InferenceRequest,
        size: int,
        settle: Settle,
        arrived_s: float,
        follow: Callable[[], None] | None = None,
    ) -> None:
        self.request = request
        self.results: list[Any] = [None] * size
        self.error: ServiceError | None = None
        self.settled = False
        self.arrived_s = arrived_s
        self.started_s: float | None = None
        self.follow = follow
        self.told_s = arrived_s  # when `follow` was called last
        self._left = size
        self._settle: Settle | None = settle

    def start(self, now_s: float) -> None:
        """Note that the first of its parts begins to run."""
        if self.started_s is None:
            self.started_s = now_s
            self.request.queue_s = now_s - self.arrived_s
            self.request.compute_started_s = now_s

    def ran(self, compute_s: float, batch_items: int) -> None:
        """Note what a batch that held some of its parts cost."""
        request = self.request
        request.compute_s += compute_s
        if batch_items > request.batch_items:
            request.batch_items = batch_items

    def tell(self, now_s: float) -> None:
        """Let who follows know that there is more to read."""
        if self.follow is not None:
            self.told_s = now_s
            self.follow()

    def succeed(self, index: int, result: Any) -> None:
        if self.settled:
            return
        self.results[index] = result
        self._left -= 1
        if not self._left:
            self._finish()

    def fail(self, error: ServiceError) -> None:
        if not self.settled:
            self.error = error
            self._finish()

    def expire(self, now_s: float) -> bool:
        """Settle a ticket that nobody waits for any more; True if it was or is now settled."""
        if self.settled:
            return True
        if now_s >= self.request.deadline_s:
            waited = now_s - self.arrived_s
            self.fail(
                DeadlinePassed(
                    f"the deadline passed {waited:.3f} s after the request was queued",
                    limit=round(self.request.deadline_s - self.arrived_s, 3),
                )
            )
        elif self.request.is_disconnected():
            self.fail(ClientGone())
        return self.settled

    def _finish(self) -> None:
        self.settled = True
        settle, self._settle = self._settle, None
        self.follow = None  # who follows holds the ticket: no cycle is left to the collector
        if settle is not None:
            settle(self)


def fail_all(tickets: Iterable[Job], error: ServiceError) -> None:
    """Fail all that are open. Of a bug of ours, which is in the log, the requests it was told to stand there, too."""
    told = dict.fromkeys(ticket for ticket in tickets if not ticket.settled)
    if told and isinstance(error, InternalError):
        log.error("told to requests %s", ", ".join(ticket.request.request_id for ticket in told))
    for ticket in told:
        ticket.fail(error)
