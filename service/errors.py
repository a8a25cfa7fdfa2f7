"""The errors that end a request, independent of protocols. ``api/problems.py`` maps them to statuses.

    ServiceError
    ├── RequestError            the client must change the request
    │   ├── InvalidRequest      not JSON, a wrong type, an unknown field, a value out of range
    │   ├── UnknownModel        no such model, or a model of another task
    │   ├── TooLarge            a body, an input or a list over its limit
    │   ├── ForeignOrigin       a page of an origin that may not open streams
    │   ├── Unauthorized        a missing or wrong API key
    │   ├── NotFound            no such route
    │   ├── MethodNotAllowed    the route has other methods
    │   ├── UnsupportedMedia    a media type or content encoding that the route does not read
    │   ├── HeadTooLarge        a head over its limit
    │   ├── HeadTooSlow         a head that took too long
    │   ├── HostNotAllowed      a host name under which the service is not reached
    │   └── Malformed           not HTTP
    ├── Overloaded              the queue is full
    ├── RateLimited             the client has sent too many requests
    ├── DeadlinePassed          the deadline passed before the work was done
    ├── Unavailable             loading or shutting down
    ├── ClientGone              the client has disconnected; nothing is sent
    └── InternalError           a bug; the message contains no trace, path or input

A message is one sentence for a person: the value, the limit, the remedy. ``details`` has the same for a program. An
error names fields relative to the request body; ``field`` is not repeated in the message.
"""

import math
from collections.abc import Sequence

Value = str | int | float | bool | None

VALUE_CHARACTERS = 80  # enough to recognize a value, too few to copy a document


def shown(value: object) -> Value:
    """Return ``value`` in a form that is short enough to send back: a number, or at most 80 characters."""
    if value is None or isinstance(value, bool | float):
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value  # JSON has no NaN
    if isinstance(value, int):
        return value if abs(value) < 2**63 else f"an integer of {value.bit_length()} bits"
    if isinstance(value, str):
        return value if len(value) <= VALUE_CHARACTERS else value[:VALUE_CHARACTERS] + "…"
    if isinstance(value, Sequence | dict):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


class ServiceError(Exception):
    """Ends a request without an answer. ``details`` has what a program needs, by name."""

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, object] = {k: v for k, v in details.items() if v is not None}


class RequestError(ServiceError):
    """The client must change the request."""


class InvalidRequest(RequestError):
    """``field``: a dotted path such as ``parameters.top_k``; ``limit``: what is allowed; ``value``: what was sent."""

    def __init__(self, message: str, *, field: str | None = None, limit: Value = None, value: object = None):
        super().__init__(message, field=field, limit=limit, value=shown(value))


class UnknownModel(RequestError):
    """``value``: the requested name; ``available``: the names of the models for the task."""

    def __init__(self, message: str, *, value: str, available: Sequence[str]) -> None:
        super().__init__(message, field="model", value=shown(value), available=list(available))


class TooLarge(RequestError):
    """``limit`` and ``value`` have the unit in the message: bytes, inputs, tokens or characters."""

    def __init__(self, message: str, *, limit: int, value: int | None = None, field: str | None = None) -> None:
        super().__init__(message, field=field, limit=limit, value=value)


class Unauthorized(RequestError):
    """A key is required. Reveals nothing about the one that was sent."""


class ForeignOrigin(RequestError):
    """``value``: the origin that the browser sent."""

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
    """``available``: the media types that the route reads, or the content encodings."""

    def __init__(self, message: str, *, value: str, available: Sequence[str]) -> None:
        super().__init__(message, value=shown(value), available=list(available))


class HeadTooLarge(RequestError):
    """``limit`` has the unit in the message: bytes or header fields."""

    def __init__(self, message: str, *, limit: int) -> None:
        super().__init__(message, limit=limit)


class HeadTooSlow(RequestError):
    """``limit``: the seconds for a head."""

    def __init__(self, message: str, *, limit: float) -> None:
        super().__init__(message, limit=limit)


class HostNotAllowed(RequestError):
    """``value``: the host name that the client sent."""

    def __init__(self, message: str, *, value: str) -> None:
        super().__init__(message, value=shown(value))


class Malformed(RequestError):
    """The connection cannot be used any longer."""


class Overloaded(ServiceError):
    """``limit``: of the queue; ``retry_after_s``: when to retry."""

    def __init__(self, message: str, *, retry_after_s: float, limit: int | None = None) -> None:
        super().__init__(message, limit=limit, retry_after_s=retry_after_s)


class RateLimited(ServiceError):
    """``policy``: ``rate`` or ``day``; ``limit``: its requests; ``retry_after_s``: when its window ends."""

    def __init__(self, message: str, *, policy: str, limit: int, retry_after_s: float) -> None:
        super().__init__(message, policy=policy, limit=limit, retry_after_s=round(retry_after_s, 3))


class DeadlinePassed(ServiceError):
    """``limit``: the seconds of the deadline."""

    def __init__(self, message: str, *, limit: float | None = None) -> None:
        super().__init__(message, limit=limit)


class Unavailable(ServiceError):
    """``retry_after_s``: when to retry, here or at another replica."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class ClientGone(ServiceError):
    """The client disconnected before its answer."""

    def __init__(self, message: str = "the client has disconnected") -> None:
        super().__init__(message)


class InternalError(ServiceError):
    """A bug. The log has its cause under the request id."""

    def __init__(self, message: str = "an unexpected error; report it with the request id") -> None:
        super().__init__(message)
