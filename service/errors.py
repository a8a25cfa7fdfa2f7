"""What can go wrong with a request, in the service's own words. Knows no HTTP: protocols/problem.py does.

    ServiceError
    ├── RequestError            the client has to change something before it tries again
    │   ├── InvalidRequest      no JSON, a wrong type, an unknown field, a value out of range
    │   ├── UnknownModel        no such model, or a model of another task
    │   ├── TooLarge            a body, a sequence or a list over its limit
    │   ├── ForeignOrigin       a page of an origin that may not open streams
    │   ├── Unauthorized        no key, or a wrong one, where keys are set
    │   ├── NotFound            no such route
    │   ├── MethodNotAllowed    the route has other methods
    │   ├── UnsupportedMedia    a body that is not plain JSON
    │   ├── HeadTooLarge        a request's head over its limit
    │   ├── HeadTooSlow         a head that did not come in time
    │   └── Malformed           no request at all
    ├── Overloaded              the queue is full: come back later
    ├── RateLimited             this client has had what it may have for now
    ├── DeadlinePassed          the answer would have come too late, so the work was not done
    ├── Unavailable             not ready yet, or shutting down
    ├── ClientGone              nobody is waiting any more: nothing is sent
    └── InternalError           a bug; its message never holds a trace, a path or an input

The message of an error is one sentence for a person: what was sent, what is allowed, what to do. The
attributes say the same to a program; those that an error has are listed in its ``details``.
"""

import math
from collections.abc import Sequence

Value = str | int | float | bool | None

VALUE_CHARACTERS = 80  # enough to recognise what one sent, too little to echo a document into a log


def shown(value: object) -> Value:
    """Return ``value`` small enough to be echoed: numbers as they are, anything else as a short text."""
    if value is None or isinstance(value, bool | float):
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value  # JSON has no nan
    if isinstance(value, int):
        return value if abs(value) < 2**63 else f"an integer of {value.bit_length()} bits"
    if isinstance(value, str):
        return value if len(value) <= VALUE_CHARACTERS else value[:VALUE_CHARACTERS] + "…"
    if isinstance(value, Sequence | dict):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


class ServiceError(Exception):
    """Anything that ends a request without its answer. ``details``: what a program needs, by name."""

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, object] = {k: v for k, v in details.items() if v is not None}


class RequestError(ServiceError):
    """The request itself is at fault."""


class InvalidRequest(RequestError):
    """``field``: a dotted path such as ``parameters.top_k``; ``limit``: what is allowed; ``value``: what came."""

    def __init__(self, message: str, *, field: str | None = None, limit: Value = None, value: object = None):
        super().__init__(message, field=field, limit=limit, value=shown(value))


class UnknownModel(RequestError):
    """``value``: the name that was asked for; ``available``: the names that exist for the task."""

    def __init__(self, message: str, *, value: str, available: Sequence[str]) -> None:
        super().__init__(message, field="model", value=shown(value), available=list(available))


class TooLarge(RequestError):
    """``limit`` and ``value`` in the unit that the message names (bytes, inputs, tokens, characters)."""

    def __init__(self, message: str, *, limit: int, value: int | None = None, field: str | None = None) -> None:
        super().__init__(message, field=field, limit=limit, value=value)


class Unauthorized(RequestError):
    """A key is required; nothing is said about the one that came."""


class ForeignOrigin(RequestError):
    """``value``: the origin that the browser named."""

    def __init__(self, message: str, *, value: str) -> None:
        super().__init__(message, value=shown(value))


class NotFound(RequestError):
    """``available``: the routes that exist."""

    def __init__(self, message: str, *, available: Sequence[str] = ()) -> None:
        super().__init__(message, available=list(available) or None)


class MethodNotAllowed(RequestError):
    """``available``: the methods of the route."""

    def __init__(self, message: str, *, available: Sequence[str]) -> None:
        super().__init__(message, available=list(available))


class UnsupportedMedia(RequestError):
    """``available``: the media types that are read."""

    def __init__(self, message: str, *, value: str, available: Sequence[str]) -> None:
        super().__init__(message, value=shown(value), available=list(available))


class HeadTooLarge(RequestError):
    """``limit``: in bytes or header fields, as the message says."""

    def __init__(self, message: str, *, limit: int) -> None:
        super().__init__(message, limit=limit)


class HeadTooSlow(RequestError):
    """``limit``: the seconds that a head may take."""

    def __init__(self, message: str, *, limit: float) -> None:
        super().__init__(message, limit=limit)


class Malformed(RequestError):
    """The connection is of no more use."""


class Overloaded(ServiceError):
    """``limit``: of the queue; ``retry_after_s``: when it is worth to come back."""

    def __init__(self, message: str, *, retry_after_s: float, limit: int | None = None) -> None:
        super().__init__(message, limit=limit, retry_after_s=retry_after_s)


class RateLimited(ServiceError):
    """``policy``: which limit it is; ``limit``: its requests; ``retry_after_s``: when the next one may be had."""

    def __init__(self, message: str, *, policy: str, limit: int, retry_after_s: float) -> None:
        super().__init__(message, policy=policy, limit=limit, retry_after_s=round(retry_after_s, 3))


class DeadlinePassed(ServiceError):
    """``limit``: the seconds that the request had."""

    def __init__(self, message: str, *, limit: float | None = None) -> None:
        super().__init__(message, limit=limit)


class Unavailable(ServiceError):
    """``retry_after_s``: when another replica, or this one, will probably answer."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class ClientGone(ServiceError):
    """The client disconnected before its answer."""

    def __init__(self, message: str = "the client has disconnected") -> None:
        super().__init__(message)


class InternalError(ServiceError):
    """A bug of ours. The cause is in the log, under the request's id."""

    def __init__(self, message: str = "an unexpected error; quote the request id when you report it") -> None:
        super().__init__(message)
