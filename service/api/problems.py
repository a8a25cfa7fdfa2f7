"""Errors as answers: the one table from error class to status, and the format in which each protocol reports them."""

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NotRequired

import orjson
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from service import errors
from service.errors import ServiceError

PREFIX = "urn:seqserve:error:"
Headers = list[tuple[bytes, bytes]]


class ErrorKind(NamedTuple):
    """How one class of errors is answered. ``slug`` ends the ``type`` URI and labels the metrics."""

    status: int
    grpc_status: str  # a name of grpc.StatusCode
    slug: str
    title: str


TABLE: dict[type[ServiceError], ErrorKind] = {
    errors.InvalidRequest: ErrorKind(422, "INVALID_ARGUMENT", "invalid-request", "Invalid request"),
    errors.UnknownModel: ErrorKind(404, "NOT_FOUND", "unknown-model", "Unknown model"),
    errors.TooLarge: ErrorKind(413, "OUT_OF_RANGE", "too-large", "Request exceeds a limit"),
    errors.Unauthorized: ErrorKind(401, "UNAUTHENTICATED", "unauthorized", "Missing or invalid API key"),
    errors.Forbidden: ErrorKind(403, "PERMISSION_DENIED", "forbidden", "Not allowed"),
    errors.LoadFailed: ErrorKind(400, "FAILED_PRECONDITION", "load-failed", "Model not loaded"),
    errors.ForeignOrigin: ErrorKind(403, "PERMISSION_DENIED", "foreign-origin", "Origin not allowed"),
    errors.NotFound: ErrorKind(404, "UNIMPLEMENTED", "not-found", "Route not found"),
    errors.MethodNotAllowed: ErrorKind(405, "UNIMPLEMENTED", "method-not-allowed", "Method not allowed"),
    errors.UnsupportedMedia: ErrorKind(415, "INVALID_ARGUMENT", "unsupported-media", "Unsupported media type"),
    errors.HeadTooLarge: ErrorKind(431, "RESOURCE_EXHAUSTED", "head-too-large", "Request headers too large"),
    errors.HeadTooSlow: ErrorKind(408, "DEADLINE_EXCEEDED", "head-too-slow", "Request headers timed out"),
    errors.Malformed: ErrorKind(400, "INVALID_ARGUMENT", "malformed", "Malformed request"),
    errors.HostNotAllowed: ErrorKind(400, "PERMISSION_DENIED", "host-not-allowed", "Host not allowed"),
    errors.Overloaded: ErrorKind(429, "RESOURCE_EXHAUSTED", "queue-full", "Queue full"),
    errors.RateLimited: ErrorKind(429, "RESOURCE_EXHAUSTED", "rate-limited", "Rate limit exceeded"),
    errors.DeadlinePassed: ErrorKind(504, "DEADLINE_EXCEEDED", "deadline-passed", "Deadline exceeded"),
    errors.Unavailable: ErrorKind(503, "UNAVAILABLE", "unavailable", "Service unavailable"),
    # Never sent, because the client is gone. Proxies log this status for it.
    errors.ClientGone: ErrorKind(499, "CANCELLED", "client-gone", "Client disconnected"),
    errors.InternalError: ErrorKind(500, "INTERNAL", "internal", "Internal error"),
}
STATUSES = {kind.slug: kind.status for kind in TABLE.values()}

# Errors from below the protocols name no header. What the client can do about them depends on its protocol.
Remedies = Mapping[type[ServiceError], str]
HTTP_REMEDIES: Remedies = {
    errors.DeadlinePassed: "send less per request, or allow more time with the X-Request-Timeout-S header",
    errors.Unauthorized: "send the header 'Authorization: Bearer <key>'",
}
GRPC_REMEDIES: Remedies = {
    errors.DeadlinePassed: "send less per request, or set a longer deadline for the call",
    errors.Unauthorized: "send the metadata 'authorization: Bearer <key>'",
}


def kind_of(error: ServiceError) -> ErrorKind:
    """Return how ``error`` is answered. A subclass that the table does not list is answered as its base."""
    return TABLE.get(type(error)) or next(TABLE[cls] for cls in type(error).__mro__ if cls in TABLE)


def detail_of(error: ServiceError, remedies: Remedies = HTTP_REMEDIES) -> str:
    """Return the sentence for a person: the field, what is wrong, and the remedy of the client's protocol."""
    field, remedy = error.details.get("field"), remedies.get(type(error))
    detail = f"{field}: {error.message}" if field else error.message
    detail = f"{detail}: {remedy}" if remedy else detail
    meant = error.details.get("did_you_mean")
    return f"{detail}. Did you mean {meant!r}?" if meant else detail


def retry_after(error: ServiceError) -> int | None:
    """Return the whole seconds after which a retry makes sense, rounded up. None if the error names none."""
    seconds = error.details.get("retry_after_s")
    return max(1, math.ceil(seconds)) if isinstance(seconds, int | float) else None


def headers_of(error: ServiceError, media: bytes = b"application/problem+json") -> Headers:
    """Return the headers that the status of ``error`` requires, in lower case."""
    headers: Headers = [(b"content-type", media)]
    seconds = retry_after(error)
    if seconds is not None:
        headers.append((b"retry-after", b"%d" % seconds))
    if isinstance(error, errors.MethodNotAllowed):
        headers.append((b"allow", ", ".join(map(str, error.details["available"])).encode()))  # type: ignore[call-overload]
    if isinstance(error, errors.UnsupportedMedia) and error.details["available"]:
        available = ", ".join(map(str, error.details["available"]))  # type: ignore[call-overload]
        headers.append((b"accept-encoding" if "identity" in available else b"accept", available.encode()))
    if isinstance(error, errors.Unauthorized):
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorFormat:
    """The body of an error in one protocol. Its status always comes from TABLE."""

    media: bytes
    body: Callable[[ServiceError, str], bytes]  # of the error and the request id
    schema: Any  # the type of the body, for the OpenAPI document


# Clients of Text Generation Inference read `error`, and choose their exceptions by `error_type`.
TGI_ERROR_TYPES = (
    (errors.RequestError, "validation"),
    (errors.Overloaded, "overloaded"),
    (errors.RateLimited, "overloaded"),
    (ServiceError, "generation"),
)


class Problem(TypedDict):
    """An error as in RFC 9457, with the members that a program needs where they apply.

    ``error`` repeats the detail, and ``error_type`` is its kind, for clients of Text Generation Inference.
    """

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    error: str
    error_type: Literal["validation", "overloaded", "generation"]
    field: NotRequired[str]
    limit: NotRequired[float | str]
    value: NotRequired[str | float | bool]
    available: NotRequired[list[str]]
    did_you_mean: NotRequired[str]
    policy: NotRequired[str]
    checks: NotRequired[dict[str, bool]]
    retry_after_s: NotRequired[float]


def problem_of(error: ServiceError, *, request_id: str) -> dict[str, object]:
    """Return the members of the RFC 9457 problem."""
    kind, detail = kind_of(error), detail_of(error)
    return {
        "type": PREFIX + kind.slug,
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        **error.details,
        "request_id": request_id,
        "error": detail,
        "error_type": next(name for cls, name in TGI_ERROR_TYPES if isinstance(error, cls)),
    }


def body_of(error: ServiceError, *, request_id: str) -> bytes:
    """Return the ``application/problem+json`` body."""
    return orjson.dumps(problem_of(error, request_id=request_id))


PROBLEM = ErrorFormat(
    media=b"application/problem+json",
    body=lambda error, request_id: body_of(error, request_id=request_id),
    schema=Problem,
)


class OpenAIErrorDetail(TypedDict):
    """``param`` is the invalid field. ``code`` is the slug of the same error on other routes."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(TypedDict):
    """An error in OpenAI's format."""

    error: OpenAIErrorDetail


# OpenAI's client chooses its exception by the status. Any other 4xx is an invalid request, and a 5xx a server error.
OPENAI_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


def openai_body_of(error: ServiceError) -> bytes:
    """Return the body in OpenAI's format. It is also the last event of a stream that fails."""
    kind = kind_of(error)
    name = OPENAI_TYPES.get(kind.status) or ("invalid_request_error" if kind.status < 500 else "server_error")
    detail = {"message": detail_of(error), "type": name, "param": error.details.get("field"), "code": kind.slug}
    return orjson.dumps({"error": detail})


OPENAI_ERROR = ErrorFormat(media=b"application/json", body=lambda error, _: openai_body_of(error), schema=OpenAIError)


@contextlib.contextmanager
def renamed_fields(rename: Callable[[str], str]) -> Iterator[None]:
    """In errors that the engine raises inside, replace its names of fields by those of the request."""
    try:
        yield
    except (errors.InvalidRequest, errors.TooLarge) as error:
        if "field" in error.details:
            error.details["field"] = rename(str(error.details["field"]))
        raise


def parameter_field(field: str) -> str:
    """Return the request's name of an engine field, for requests with ``parameters``."""
    return "parameters.state" if field == "state" else field


_INPUTS = re.compile(r"inputs(?:\[(\d+)\])?")


def openai_field(name: str, *, single: bool, copies: int = 1) -> Callable[[str], str]:
    """Return a function from engine fields to OpenAI's, which has ``name`` for ``inputs``.

    ``single``: the field is one text, not a list. ``copies``: how often the engine gets each text.
    """

    def inputs(match: re.Match[str]) -> str:
        return name if single or match[1] is None else f"{name}[{int(match[1]) // copies}]"

    return lambda field: _INPUTS.sub(inputs, field, count=1)


class OIPError(TypedDict):
    """An error in the format of the Open Inference Protocol."""

    error: str


OIP_ERROR = ErrorFormat(
    media=b"application/json",
    body=lambda error, _: orjson.dumps({"error": detail_of(error)}),
    schema=OIPError,
)
