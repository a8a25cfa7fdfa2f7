"""The OpenAPI document, made from the routes and from the bundles that are loaded.

What a route takes and answers is written beside it (Docs in routes.py), as the types that read and check it: nothing
is said twice. Statuses follow from what a route does. Knows no engine; cards are what /v1/models tells.
"""

import functools
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from service import errors
from service.api.problems import PROBLEM, TABLE, ErrorFormat
from service.api.routes import READ, Card, Docs, Route

Json = dict[str, Any]
Found = dict[Any, Json]  # schemas by the route's pattern and the part of it, or by the dialect whose error it is

PAGES_GROUP = "Pages and health"
REF = "#/components/schemas/{model}"
HEAD_ERRORS = (errors.InvalidRequest, errors.Unavailable, errors.InternalError)
WORK_ERRORS = (
    *(errors.UnknownModel, errors.TooLarge, errors.UnsupportedMedia, errors.Overloaded, errors.DeadlinePassed),
)
KEYED_ERRORS = (errors.Unauthorized, errors.RateLimited)  # of routes that are not open to all
WIRE_ERRORS = (errors.Malformed, errors.HeadTooSlow, errors.HeadTooLarge)  # before anybody knows the route
PATTERN_ERRORS = (errors.UnknownModel,)
ABOUT = """Tags, classifies and generates text with small recurrent networks.

`/tag`, `/classify` and `/generate` answer faster under `/v1/`: same bodies, same answers. `/v1/models` lists the
bundles that are served; what the examples here name is loaded. Every answer carries `X-Request-Id` and `Server-Timing`.
Errors are `application/problem+json`, but on the routes whose shape is another's: those have its errors. A method that
a route does not have is answered with 405 and `Allow`, a path that nobody has with 404. `WS /v1/stream` is no HTTP, so
it is not listed: it takes tokens or frames as they come and answers each (docs/routes.md).
"""


class Page(NamedTuple):
    """What BentoML serves by itself."""

    path: str
    media: str
    summary: str
    open: bool = False  # to all, whatever keys are set
    waits: bool = False  # whether it answers 503 by its own


PAGES = (
    Page("/livez", "text/plain", "200 while the process runs", open=True),
    Page("/healthz", "text/plain", "As /livez", open=True),
    Page("/readyz", "text/plain", "200 once every bundle has passed its self-test", open=True, waits=True),
    Page("/metrics", "text/plain", "Prometheus metrics"),
    Page("/schema.json", "application/json", "What `bentoml.SyncHTTPClient` reads"),
    Page("/", "text/html", "This document as a page"),
)
PARAMETERS: Json = {
    "RequestId": {
        **{"name": "X-Request-Id", "in": "header", "schema": {"type": "string"}},
        "description": "Comes back if it is 1 to 128 letters, digits, `.`, `_` and `-`; else the answer has a new one.",
    },
    "TimeoutS": {
        **{"name": "X-Request-Timeout-S", "in": "header", "schema": {"type": "number", "exclusiveMinimum": 0}},
        **{
            "description": "Seconds that the request has; then 504. Cut to SEQSERVE_DEADLINE_MAX_S.",
            "example": 10,
        },
    },
}
TEXT: Json = {"schema": {"type": "string"}}
HEADERS: Json = {
    "RequestId": {"schema": TEXT["schema"], "required": True, "description": "The request's, or a new one."},
    "ServerTiming": {"schema": TEXT["schema"], "required": True, "description": "Queue, compute (ms) and batch."},
    "RetryAfter": {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds until it is worth trying."},
    "WwwAuthenticate": {"schema": TEXT["schema"], "description": "`Bearer`."},
}
ALWAYS = {"X-Request-Id": "RequestId", "Server-Timing": "ServerTiming"}
BY_STATUS = {
    401: {"WWW-Authenticate": "WwwAuthenticate"},
    429: {"Retry-After": "RetryAfter"},
    503: {"Retry-After": "RetryAfter"},
}


def document(routes: Sequence[Route], cards: Sequence[Card], *, keys: bool) -> Json:
    """Return the document; ``keys``: whether a request must bring one."""
    found, definitions = _schemas(tuple(routes))
    paths: Json = {}
    for route in routes:
        if route.docs is not None:
            for method in route.methods:
                operation = _operation(route, route.docs, method, found, cards)
                paths.setdefault(route.pattern, {})[method.lower()] = operation
    for page in PAGES:
        for method in READ:
            paths.setdefault(page.path, {})[method.lower()] = _page(page, method, found)
    return {
        "openapi": "3.1.0",
        "info": {"title": "seqserve", "version": "1", "description": ABOUT},
        "paths": paths,
        "components": {
            "schemas": definitions,
            "parameters": PARAMETERS,
            "headers": HEADERS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "Where keys are set"}},
        },
        "security": [{"key": []}] if keys else [{}, {"key": []}],
    }


@functools.cache
def _schemas(routes: tuple[Route, ...]) -> tuple[Found, Json]:
    """Every type that a route names, as a reference, and the definitions that these refer to.

    Making them takes a tenth of a second, so it is done once.
    """
    types: dict[Any, tuple[str, Any]] = {_error_key(PROBLEM): ("serialization", PROBLEM.schema)}
    for route in routes:
        types[_error_key(route.dialect)] = ("serialization", route.dialect.schema)
        if route.docs is not None:
            for part, mode in (("body", "validation"), ("answer", "serialization"), ("event", "serialization")):
                told = getattr(route.docs, part)
                if told is not None and told is not bytes:
                    types[route.pattern, part] = (mode, told)
    inputs: Any = [(key, mode, TypeAdapter(told)) for key, (mode, told) in types.items()]
    schemas, rest = TypeAdapter.json_schemas(inputs, ref_template=REF)
    return {key: schema for (key, _), schema in schemas.items()}, rest.get("$defs", {})


def _error_key(dialect: ErrorFormat) -> str:
    return f"{dialect.schema.__module__}.{dialect.schema.__name__}"


def _operation(route: Route, docs: Docs, method: str, found: Found, cards: Sequence[Card]) -> Json:
    content = {} if method == "HEAD" else _answer_content(route, docs, found)
    told = [*HEAD_ERRORS, *docs.errors, *(() if route.open else KEYED_ERRORS)]
    told += WORK_ERRORS if route.reads else ()
    told += PATTERN_ERRORS if "{" in route.pattern else ()
    operation: Json = {
        **{"tags": [docs.group], "summary": docs.summary, "description": docs.about},
        "operationId": _operation_id(method, route.pattern),
        "parameters": [*_path_parameters(route, cards), *_references("parameters", PARAMETERS)],
        "responses": {
            "200": {"description": "The answer", "headers": _headers(200), **content},
            **_refusals(told, route.dialect, found, body=method != "HEAD"),
            **_refusals(WIRE_ERRORS, PROBLEM, found, body=method != "HEAD"),
        },
    }
    if docs.body is not None and method != "HEAD":
        examples = {card["id"]: {"value": body} for card in cards if (body := docs.example(card)) is not None}
        media: Json = {"schema": found[route.pattern, "body"], **({"examples": examples} if examples else {})}
        others: Json = {name: {} for name in route.media if name != "application/json"}
        operation["requestBody"] = {"required": True, "content": {"application/json": media, **others}}
    return operation | ({"security": []} if route.open else {})


def _answer_content(route: Route, docs: Docs, found: Found) -> Json:
    content: Json = {}
    if docs.answer is bytes:
        content[docs.media] = {}
    elif docs.answer is not None:
        content[docs.media] = {"schema": found[route.pattern, "answer"]}
    if docs.event is not None:
        name = found[route.pattern, "event"].get("$ref", "").rpartition("/")[2]
        content["text/event-stream"] = {}  # a schema would be taken for that of one event, as OpenAPI 3.2 has it
        about = f"The answer; where it is a stream of server-sent events, the data of each is a `{name}`"
        return {"description": about, "content": content}
    return {"content": content} if content else {}


def _page(page: Page, method: str, found: Found) -> Json:
    body = method != "HEAD"
    kind = "object" if page.media == "application/json" else "string"
    content: Json = {"content": {page.media: {"schema": {"type": kind}}}} if body else {}
    responses = {"200": {"description": "The answer", "headers": _headers(200), **content}}
    refused = [errors.InvalidRequest, errors.InternalError, *(() if page.open else KEYED_ERRORS), *WIRE_ERRORS]
    responses |= _refusals(refused, PROBLEM, found, body=body)
    if page.waits:
        responses["503"] = {"description": "Not yet, or no longer", "headers": _headers(503), **content}
    return {
        **{"tags": [PAGES_GROUP], "summary": page.summary, "operationId": _operation_id(method, page.path)},
        "parameters": _references("parameters", PARAMETERS),
        "responses": responses,
        **({"security": []} if page.open else {}),
    }


def _refusals(told: Sequence[type[errors.ServiceError]], dialect: ErrorFormat, found: Found, *, body: bool) -> Json:
    """The responses of these errors, in the order of their statuses."""
    titles: defaultdict[int, list[str]] = defaultdict(list)
    for each in sorted(set(told), key=lambda error: TABLE[error]):
        titles[TABLE[each].status].append(TABLE[each].title)
    content = {"content": {dialect.media.decode(): {"schema": found[_error_key(dialect)]}}} if body else {}
    return {
        str(status): {"description": "; ".join(said), "headers": _headers(status), **content}
        for status, said in sorted(titles.items())
    }


def _headers(status: int) -> Json:
    names = ALWAYS | BY_STATUS.get(status, {})
    return {name: {"$ref": f"#/components/headers/{each}"} for name, each in names.items()}


def _references(kind: str, of: Json) -> list[Json]:
    return [{"$ref": f"#/components/{kind}/{name}"} for name in of]


def _path_parameters(route: Route, cards: Sequence[Card]) -> list[Json]:
    """The parts that a pattern names, with the bundles' names and versions as examples."""
    known = {"id": "id", "model": "id", "name": "id", "version": "version"}
    parameters = []
    for part in re.findall(r"{(\w+)}", route.pattern):
        values = dict.fromkeys(card[known[part]] for card in cards) if part in known else {}
        parameters.append(
            {
                **{"name": part, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}},
                **({"examples": {value: {"value": value} for value in values}} if values else {}),
            }
        )
    return parameters


def _operation_id(method: str, path: str) -> str:
    return "_".join([method.lower(), *re.findall(r"\w+", path)])
