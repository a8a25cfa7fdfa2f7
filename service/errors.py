"""The errors that end a request, independent of protocols. ``api/problems.py`` maps them to statuses.

A message is one sentence for a person: the value, the limit, the remedy. ``details`` has the same for a program. An
error names fields relative to the request body; ``field`` is not repeated in the message.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Self

from models.messages import closest

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


DETAILS = ("field", "policy", "limit", "value", "available", "did_you_mean", "retry_after_s")


class ServiceError(Exception):
    """Ends a request without an answer. ``details`` has those of DETAILS that it has, which a program needs.

    An error with a ``value`` and the names ``available`` also has the closest of them, as ``did_you_mean``, unless it
    is given.
    """

    def __init__(self, message: str, *, value: object = None, available: Sequence[str] | None = None, **details: Value):
        super().__init__(message)
        self.message = message
        given: dict[str, object] = {
            "did_you_mean": closest(value, available) if isinstance(value, str) and available else None,
            **details,
            "value": shown(value),
            "available": None if available is None else list(available),
        }
        self.details = {name: given[name] for name in DETAILS if given.get(name) is not None}


class RequestError(ServiceError):
    """The client must change the request. Other errors are temporary, or caused by the service."""


class InvalidRequest(RequestError):
    """``field``: a dotted path such as ``parameters.top_k``; ``limit``: what is allowed; ``value``: what was sent."""


class UnknownModel(RequestError):
    """``value``: the requested name; ``available``: the names of the models for the task.

    ``limit``: what the model serves instead, if it exists.
    """

    def __init__(self, message: str, *, value: str, available: Sequence[str], limit: str | None = None) -> None:
        super().__init__(message, field="model", value=value, available=available, limit=limit)

    @classmethod
    def named(cls, name: str, models: Iterable[str]) -> Self:
        """Return the error for a name that no model has, whatever its task."""
        available = list(models)
        message = f"there is no model {shown(name)!r}; the models are {', '.join(available)}"
        return cls(message, value=name, available=available)


class TooLarge(RequestError):
    """``limit`` and ``value`` have the unit in the message: bytes, inputs, tokens or characters."""


class Unauthorized(RequestError):
    """A key is required, and none or a wrong one was sent. Reveals nothing else about it."""


class Forbidden(RequestError):
    """The key may not do this, or the settings do not allow it."""


class LoadFailed(RequestError):
    """``value``: the name of the model, which is served as before."""


class ForeignOrigin(RequestError):
    """``value``: the origin that the browser sent."""


class NotFound(RequestError):
    """``available``: the routes that exist."""


class MethodNotAllowed(RequestError):
    """``available``: the methods of the route."""


class UnsupportedMedia(RequestError):
    """``available``: the media types that the route reads, or the content encodings."""


class HeadTooLarge(RequestError):
    """``limit`` has the unit in the message: bytes or header fields."""


class HeadTooSlow(RequestError):
    """``limit``: the seconds for a head."""


class HostNotAllowed(RequestError):
    """``value``: the host name that the client sent."""


class Malformed(RequestError):
    """The connection cannot be used any longer."""


class Overloaded(ServiceError):
    """``limit``: of the queue; ``retry_after_s``: when to retry. ``any_size``: smaller requests are refused, too."""

    def __init__(self, message: str, *, retry_after_s: float, limit: int, any_size: bool = False) -> None:
        super().__init__(message, retry_after_s=retry_after_s, limit=limit)
        self.any_size = any_size


class RateLimited(ServiceError):
    """``policy``: ``rate`` or ``day``; ``limit``: its requests; ``retry_after_s``: when its window ends."""


class DeadlinePassed(ServiceError):
    """``limit``: the seconds of the deadline."""


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
