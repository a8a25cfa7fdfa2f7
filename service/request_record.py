"""A request that has ended, as the access log and the spans tell it. Holds nothing that a user sent but the ids."""

from dataclasses import dataclass

from service.scheduling.job import InferenceRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """``model`` is that of a loaded bundle or ``unknown``, ``key`` a key's name; ``sent`` bytes of a whole answer."""

    call: InferenceRequest
    method: str
    model: str
    outcome: str
    status: int
    key: str
    sent: int
    started_s: float  # on the monotonic clock, as `ended_s`
    ended_s: float
    parent: str  # the traceparent that came, "" if none
