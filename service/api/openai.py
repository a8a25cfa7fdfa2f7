"""What the routes in OpenAI's shape have in common: how they tell an error, and what they call what was sent.

The status of an error is that of problem.py's table, as everywhere. Knows no route and no model.
"""

import contextlib
import re
from collections.abc import Iterator

import orjson
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from service.api.problems import Dialect, kind_of
from service.errors import InvalidRequest, ServiceError, TooLarge

# OpenAI's names; its client picks its exception by the status. Any other 4xx is the request's fault, a 5xx ours.
TYPES = {401: "authentication_error", 429: "rate_limit_error"}
PLACED = re.compile(r"^inputs(?:\[(\d+)\])?")  # what the engine calls the texts it is given


class ErrorDetail(TypedDict):
    """`param` is the field at fault; `code` is what ends the `type` of the same error on other routes."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(TypedDict):
    """An error as OpenAI has it."""

    error: ErrorDetail


def body_of(error: ServiceError) -> bytes:
    """Return the body of an error, which is also the last event of a stream that broke off."""
    status, slug, _ = kind_of(error)
    kind = TYPES.get(status) or ("invalid_request_error" if status < 500 else "server_error")
    param = error.details.get("field")
    return orjson.dumps({"error": {"message": error.message, "type": kind, "param": param, "code": slug}})


OPENAI = Dialect(media=b"application/json", body=lambda error, _: body_of(error), schema=ErrorBody)


@contextlib.contextmanager
def named(field: str, *, alone: bool, each: int = 1) -> Iterator[None]:
    """Call ``inputs`` by the name of the ``field`` they came from in errors of what is done inside.

    ``alone``: it was one text, not a list; ``each``: how often every text was given to the engine.
    """

    def place(match: re.Match[str]) -> str:
        return field if alone or match[1] is None else f"{field}[{int(match[1]) // each}]"

    try:
        yield
    except (InvalidRequest, TooLarge) as error:
        error.message = PLACED.sub(place, error.message)
        if "field" in error.details:
            error.details["field"] = PLACED.sub(place, str(error.details["field"]))
        raise
