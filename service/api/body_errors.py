"""Errors in request bodies: pydantic's errors in this service's format, and encodings other than UTF-8."""

import codecs
import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from models.messages import closest
from service.api.fields import RequestModel
from service.errors import InvalidRequest, Value, shown

ERRORS_LISTED = 64  # of a body with more errors than this, only their number is reported


def body_problem(body: bytes) -> str | None:
    """Return why a body cannot be a JSON document, and the remedy. None if it is not empty and UTF-8."""
    if not body.strip():
        return "is empty; send a JSON object"
    if body.startswith(codecs.BOM_UTF8):
        return "begins with a byte order mark; send UTF-8 without one"
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or body[:2] in (b"{\0", b"\0{"):
        return "is UTF-16; send UTF-8"
    if body.startswith(b"\x1f\x8b"):
        return "is gzip; send it with the header 'Content-Encoding: gzip'"
    try:
        body.decode()
    except UnicodeDecodeError as error:
        found = f"is not UTF-8: it has the byte 0x{body[error.start]:02x} at position {error.start}"
        return f"{found}, as in latin-1 or windows-1252; send UTF-8"
    return None


def request_error(
    error: ValidationError, model: type[RequestModel], parent: str = "", *, with_value: bool = True
) -> InvalidRequest:
    """Return pydantic's error as ours: the first invalid field (inside ``parent``), its value, and what is allowed.

    ``model`` is the type of the body, or of the object ``parent`` in it.
    """
    if error.error_count() > ERRORS_LISTED:
        return InvalidRequest(f"the body has {error.error_count()} errors; see the schema in /docs.json")
    errors = error.errors(include_url=False, include_input=with_value)
    first = _most_helpful(errors)
    kind, value, context = first["type"], first.get("input"), first.get("ctx", {})
    union, end = _find_union(error.title, first["loc"])
    field = _path(first["loc"][:end]) if union else _path((parent, *first["loc"]))
    if kind == "json_invalid":  # the parser's message has a position, and never the text itself
        return InvalidRequest(f"the body is not valid JSON: {context['error']}")
    if kind == "extra_forbidden":
        inside = first["loc"][:-1]
        missing = [str(each["loc"][-1]) for each in errors if each["type"] == "missing" and each["loc"][:-1] == inside]
        return _unknown_field(model.at(inside), str(first["loc"][-1]), field, missing)
    if kind == "missing":
        return InvalidRequest("required, but missing", field=field)
    if union:
        place = _deepest([each["loc"][end:] for each in errors if each["loc"][:end] == first["loc"][:end]])
        where = f"; the value at {field}{place} fits none of these" if place else ""
        return InvalidRequest(f"must be {union}{where}", field=field, value=value)
    if kind == "value_error":  # of a validator above
        return InvalidRequest(str(context["error"]), field=field, value=value)
    # "Input should be an object", "List should have at most 4 items after validation, not 5"
    message = re.sub(r"^\w+ should", "must", first["msg"]).replace(" after validation", "")
    if not field:
        return InvalidRequest(f"the body {message}", value=value)
    given = _quoted(value) if with_value else "the value"
    return InvalidRequest(f"{given} is not valid: {message}", field=field, limit=_limit(context), value=value)


def _most_helpful(errors: Sequence[ErrorDetails]) -> ErrorDetails:
    """Return the first error, or the unknown field that was sent instead of a missing one."""
    first = errors[0]
    if first["type"] == "missing":
        unknown = [
            each for each in errors if each["type"] == "extra_forbidden" and each["loc"][:-1] == first["loc"][:-1]
        ]
        name = str(first["loc"][-1])
        return min(unknown, key=lambda each: closest(str(each["loc"][-1]), [name]) is None, default=first)
    return first


def _unknown_field(model: type[RequestModel], name: str, field: str, missing: Sequence[str] = ()) -> InvalidRequest:
    """Return the error for an unknown field. One of that name inside the object is meant, or one that is like it.

    If there is none, the only ``missing`` field of the object is meant.
    """
    if name in model.not_offered:
        return InvalidRequest("not offered; leave it out", field=field)
    offered = model.offered()
    message = f"unknown field; send one of {', '.join(offered)}, or leave it out"
    meant = model.place_of(name) or closest(name, offered) or (missing[0] if len(missing) == 1 else None)
    return InvalidRequest(message, field=field, value=name, available=offered, did_you_mean=meant)


def _find_union(title: str, location: Sequence[int | str]) -> tuple[str | None, int]:
    """Return what the union at a location takes, and how many parts of the location lead to it."""
    names = []
    for end, part in enumerate(location, 1):
        if isinstance(part, str):
            names.append(part)
            if (union := _UNIONS.get((title, ".".join(names)))) is not None:
                return union, end
    return None, 0


_FRAMES = "frames (a list of lists of numbers, all of one length) or a list of frames"
_STRINGS = "a string or a list of strings"
_UNIONS = {  # pydantic reports one error for each member of a union; these replace them
    ("TagRequest", "inputs"): f"a string, a list of strings, a list of lists of strings (tokens), {_FRAMES}",
    ("ClassifyRequest", "inputs"): f"a string, a list of strings, {_FRAMES}",
    ("InspectRequest", "inputs"): "a string, or frames (a list of lists of numbers, all of one length)",
    ("GenerateRequest", "inputs"): _STRINGS,
    ("FillRequest", "inputs"): _STRINGS,
    ("ForecastRequest", "inputs.target"): "a list of numbers, or a list of such lists, with null where one is missing",
    (
        "StreamMessage",
        "inputs",
    ): "a string, a list of strings (tokens), a list of numbers (a frame), or frames",
    ("CompletionRequest", "prompt"): f"{_STRINGS} (token ids are not supported)",
    ("CompletionRequest", "stop"): "a string or a list of up to 4 strings, none of them empty",
    ("EmbedRequest", "inputs"): f"{_STRINGS} (token ids are not supported)",
    ("PredictRequest", "inputs"): "a string, or a list of lists of one string",
    ("EmbeddingRequest", "input"): f"{_STRINGS} (token ids are not supported; in LangChain, set"
    " check_embedding_ctx_length=False)",
}


def _quoted(value: object) -> str:
    """Return a value as JSON, and a list or object as its type and size."""
    text = shown(value)
    return str(text) if isinstance(value, list | dict) else orjson.dumps(text).decode()


def _path(location: Sequence[int | str]) -> str:
    """Return the dotted path of a field. The client may have chosen the names, so long ones are cut."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{shown(part)}" for part in location).lstrip(".")


def _deepest(locations: Sequence[Sequence[int | str]]) -> str:
    """Return the place, such as ``[0][3]``, that the best-fitting member of a union reached."""
    places = [tuple(part for part in location if isinstance(part, int)) for location in locations]
    return "".join(f"[{part}]" for part in max(places, key=lambda place: (len(place), place)))


def _limit(context: Mapping[str, Any]) -> Value:
    """Return the bound that was crossed, as pydantic names it for numbers, lengths and choices."""
    for name in ("ge", "gt", "le", "lt", "min_length", "max_length", "expected"):
        if name in context:
            return shown(context[name])
    return None
