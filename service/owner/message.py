"""What a worker and the owner say to each other, and how errors and texts are said."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from models.tasks.generate import Begun, FinishReason, GeneratedText
from models.tasks.snapshot import Memory
from service import errors
from service.errors import InternalError, ServiceError
from service.scheduling.inference_request import InferenceRequest


@dataclass(frozen=True, slots=True)
class Hello:
    """The first word of an owner: digest and variant of each bundle that it has, by name."""

    bundles: Mapping[str, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Joined:
    """The first word of a worker that has the same bundles, and stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """A ticket: its parts for the scheduler of a lane, or of the lane's graph. `deadline_s` is on the monotonic clock,
    which all processes of a machine share.
    """

    number: int  # of the ticket, on this connection
    lane: str
    graph: bool
    parts: Any  # items; (reading, Begun) of texts; a graph's Work
    request_id: str
    route: str
    deadline_s: float
    followed: bool
    spent: "Spent"  # by earlier tickets of the same request


@dataclass(frozen=True, slots=True)
class Gone:
    """Nobody waits for this ticket any more."""

    number: int


class Spent(NamedTuple):
    """Where the time of a ticket went: see Call."""

    queue_s: float
    compute_s: float
    batch_items: int
    ran_s: float | None

    @classmethod
    def of(cls, call: InferenceRequest) -> "Spent":
        """Return what the schedulers have noted so far."""
        return cls(call.queue_s, call.compute_s, call.batch_items, call.ran_s)

    def note(self, call: InferenceRequest) -> None:
        """Write it into the call of the worker."""
        call.queue_s, call.compute_s, call.batch_items, call.ran_s = self


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """What a text has got since it was last told of, and where it stands once it is done."""

    part: int
    tokens: list[int]
    log_probabilities: list[float]
    alternatives: list[list[tuple[str, float]]]
    done: bool
    finish_reason: FinishReason | None
    memory: Memory | None

    def add_to(self, text: GeneratedText) -> None:
        """Let the worker's text grow as much."""
        text.log_probabilities += self.log_probabilities
        text.alternatives += self.alternatives
        text.extend(self.tokens)
        text.finish_reason, text.memory = self.finish_reason, self.memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Texts of a ticket have grown."""

    number: int
    grown: Sequence[Grown]
    spent: Spent


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A ticket has its results, or its error. Of texts the results are what had not been told."""

    number: int
    results: Sequence[Any]
    error: "Error | None"
    spent: Spent


@dataclass(frozen=True, slots=True)
class Room:
    """What each lane says to newcomers from now on: None that there is room, an error that there is not."""

    full: dict[str, "Error | None"]  # empty: only to be heard


class Error(NamedTuple):
    """A ServiceError. (Exceptions with keywords cannot be pickled as they are.)"""

    kind: str
    message: str
    details: dict[str, object]

    @classmethod
    def of(cls, error: ServiceError) -> "Error":
        """Return it as it can be sent."""
        return cls(type(error).__name__, error.message, error.details)

    def error(self) -> ServiceError:
        """Return the error again."""
        kind = getattr(errors, self.kind, InternalError)
        found: ServiceError = kind.__new__(kind)
        ServiceError.__init__(found, self.message, **self.details)
        return found


def begun(parts: Sequence[tuple[Any, GeneratedText]]) -> list[tuple[Any, Begun]]:
    """Return the parts of a ticket of texts as they can be sent."""
    return [(reading, text.begun) for reading, text in parts]
