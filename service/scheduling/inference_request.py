"""One request on its way through the service. Knows no HTTP and no model."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class InferenceRequest:
    """Who is waiting, until when, and where the time went.

    Mutable, alone among the service's records: the schedulers write the last four fields while the call
    runs, and the edge reads them when it writes ``Server-Timing``.
    """

    request_id: str
    route: str
    deadline_s: float  # on the monotonic clock (time.monotonic)
    gone: Callable[[], bool]  # True once the client has disconnected; cheap enough to ask at every step
    queue_s: float = 0.0
    compute_s: float = 0.0
    batch_items: int = 0
    ran_s: float | None = None  # when its work began to run, on the monotonic clock
