"""Domain errors as HTTP answers: the one table error -> status, the headers that go with it, and RFC 9457 bodies.

Knows nothing of how an error came about and nothing of ASGI.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, NotRequired

import orjson
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from service import errors

PREFIX = "urn:seqserve:error:"


class Kind(NamedTuple):
    """How an error class is answered: ``slug`` ends its ``type`` URI and is its label in the metrics."""

    status: int
    slug: str
    title: str


TABLE: dict[type[errors.ServiceError], Kind] = {
    errors.InvalidRequest: Kind(422, "invalid-request", "The request is not valid"),
    errors.UnknownModel: Kind(404, "unknown-model", "No such model"),
    errors.TooLarge: Kind(413, "too-large", "The request is over a limit"),
    errors.Unauthorized: Kind(401, "unauthorized", "A valid API key is required"),
    errors.ForeignOrigin: Kind(403, "foreign-origin", "Pages of this origin may not open streams"),
    errors.NotFound: Kind(404, "not-found", "No such route"),
    errors.MethodNotAllowed: Kind(405, "method-not-allowed", "The route does not have this method"),
    errors.UnsupportedMedia: Kind(415, "unsupported-media", "The body's media type is not read here"),
    errors.HeadTooLarge: Kind(431, "head-too-large", "The request's head is over a limit"),
    errors.HeadTooSlow: Kind(408, "head-too-slow", "The request's head did not come in time"),
    errors.Malformed: Kind(400, "malformed", "What came is no HTTP"),
    errors.Overloaded: Kind(429, "queue-full", "The queue is full"),
    errors.RateLimited: Kind(429, "rate-limited", "The client has used up its requests"),
    errors.DeadlinePassed: Kind(504, "deadline-passed", "The deadline has passed"),
    errors.Unavailable: Kind(503, "unavailable", "The service is not taking requests"),
    # Never sent: nobody is there to read it. The status is what proxies log for it.
    errors.ClientGone: Kind(499, "client-gone", "The client has disconnected"),
    errors.InternalError: Kind(500, "internal", "The service failed"),
}

Headers = list[tuple[bytes, bytes]]
STATUSES = {kind.slug: kind.status for kind in TABLE.values()}


def kind_of(error: errors.ServiceError) -> Kind:
    """Return how ``error`` is answered; a subclass that the table does not name is answered as its base."""
    return TABLE.get(type(error)) or next(TABLE[cls] for cls in type(error).__mro__ if cls in TABLE)


def headers_of(error: errors.ServiceError, media: bytes = b"application/problem+json") -> Headers:
    """Return the headers that the status of ``error`` calls for, lower case."""
    headers: Headers = [(b"content-type", media)]
    retry_after_s = error.details.get("retry_after_s")
    if isinstance(retry_after_s, int | float):
        # The header holds whole seconds: rounded up, so that nobody comes back too early.
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(retry_after_s))))
    if isinstance(error, errors.MethodNotAllowed):
        headers.append((b"allow", ", ".join(str(m) for m in error.details["available"]).encode()))  # type: ignore[attr-defined]
    if isinstance(error, errors.Unauthorized):
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


def problem_of(error: errors.ServiceError, *, request_id: str) -> dict[str, object]:
    """Return the members of the problem that ``error`` is."""
    status, slug, title = kind_of(error)
    return {
        "type": PREFIX + slug,
        "title": title,
        "status": status,
        "detail": error.message,
        **error.details,
        "request_id": request_id,
    }


def body_of(error: errors.ServiceError, *, request_id: str) -> bytes:
    """Return the ``application/problem+json`` body."""
    return orjson.dumps(problem_of(error, request_id=request_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How the clients of some routes are told of an error. Its status is TABLE's everywhere."""

    media: bytes
    body: Callable[[errors.ServiceError, str], bytes]  # of the error and the request's id
    schema: Any  # the type of the body, for the OpenAPI document


class Problem(TypedDict):
    """An error as RFC 9457 has it, with what a program needs where it applies."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    field: NotRequired[str]
    limit: NotRequired[float | str]
    value: NotRequired[str | float | bool]
    available: NotRequired[list[str]]
    retry_after_s: NotRequired[float]


PROBLEM = Dialect(
    media=b"application/problem+json",
    body=lambda error, request_id: body_of(error, request_id=request_id),
    schema=Problem,
)
