"""What a call can raise, as a tree. Knows the service's error bodies, and nothing of how they came.

SeqserveError
├── NoAnswer                nobody has answered
│   ├── NotConnected        not a byte was sent: nothing listens there, or nobody takes connections
│   ├── Broken              the connection ended before the answer did: the request may have been taken
│   └── TimedOut            nothing came in the time that was given
├── BadAnswer               an answer, but none of seqserve's
└── Problem                 the service's own refusal (RFC 9457)
    ├── InvalidRequest      422: a wrong type, an unknown field, a value out of range, a state that is not good
    ├── Unauthorized        401: no key, or a wrong one
    ├── NotFound            404: no such model for the task, or no such route
    ├── TooLarge            413: over a limit
    ├── Overloaded          429: the queue is full, or a key's share is used up; was tried again
    ├── Unavailable         503: starting or shutting down; was tried again
    ├── DeadlinePassed      504: the answer would have come too late
    └── InternalError       500: a bug of the service; quote `request_id`
"""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any


class SeqserveError(Exception):
    """Whatever a call of this package raises on purpose."""


class NoAnswer(SeqserveError):
    """Nobody has answered."""


class NotConnected(NoAnswer):
    """Not a byte was sent."""


class Broken(NoAnswer):
    """The connection ended too early. Not tried again: the service may have done the work."""


class TimedOut(NoAnswer):
    """The service said nothing in the time of the call, not even that it was late."""


class BadAnswer(SeqserveError):
    """An answer that is none of seqserve's: is the URL that of a proxy, or of something else?"""


class Problem(SeqserveError):
    """A refusal. What the service did not say is None; `document` is the body as it came.

    `type`: a URN that names the kind of error. `field`: the path of what is wrong in the body, `parameters.top_k`.
    `limit`, `value`: what is allowed and what came, in the unit that `detail` names. `available`: what there is
    instead. `retry_after_s`: seconds after which it is worth to come back.
    """

    def __init__(self, status: int, document: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        said = _told(document)
        self.status = status
        self.document = document
        self.type: str = said.get("type") or "about:blank"
        self.title: str = said.get("title") or ""
        self.detail: str = said.get("detail") or f"status {status}"
        self.field: str | None = said.get("field")
        self.limit: Any = said.get("limit")
        self.value: Any = said.get("value")
        self.available: list[str] | None = said.get("available")
        self.request_id: str | None = said.get("request_id") or headers.get("x-request-id")
        # In the middle of a stream there are no headers left to say it.
        self.retry_after_s: float | None = _seconds(headers) or said.get("retry_after_s")
        super().__init__(f"{status}: {self.detail}" + (f" (request {self.request_id})" if self.request_id else ""))


class InvalidRequest(Problem):
    """The request itself is wrong; `field` says where."""


class Unauthorized(Problem):
    """Give the client an `api_key` that the service knows."""


class NotFound(Problem):
    """`available` has the names that exist."""


class TooLarge(Problem):
    """`limit` says how much is taken."""


class Overloaded(Problem):
    """Still refused after all tries; `retry_after_s` says when to come back."""


class Unavailable(Problem):
    """Still not ready after all tries."""


class DeadlinePassed(Problem):
    """The service gave up at `timeout_s`; the work was not done."""


class InternalError(Problem):
    """A bug of the service."""


_BY_STATUS: Mapping[int, type[Problem]] = {
    401: Unauthorized,
    404: NotFound,
    413: TooLarge,
    422: InvalidRequest,
    429: Overloaded,
    500: InternalError,
    503: Unavailable,
    504: DeadlinePassed,
}


def problem(status: int, document: Mapping[str, Any], headers: Mapping[str, str]) -> Problem:
    """The error for an answer with `status`; names of `headers` are found in any case, or are in lower case."""
    return _BY_STATUS.get(status, Problem)(status, document, headers)


def _told(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The members of a problem document; the routes of OpenAI's shape have others, `{"error": {…}}`."""
    error = document.get("error")
    if not isinstance(error, Mapping):
        return document
    return {"type": error.get("type"), "detail": error.get("message"), "field": error.get("param")}


def _seconds(headers: Mapping[str, str]) -> float | None:
    """Retry-After in seconds: it holds a number or, where a proxy wrote it, a date."""
    said = headers.get("retry-after", "")
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(said)
    except ValueError:
        return None
    now = parsedate_to_datetime(headers["date"]) if "date" in headers else None
    return max(0.0, (until - now).total_seconds()) if now else None
