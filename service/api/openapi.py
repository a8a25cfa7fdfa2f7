"""The OpenAPI document, generated from the routes and the loaded bundles.

What a route accepts and returns is in its Docs (routes.py), as the types that parse and check it. The statuses follow
from what the route does.
"""

import functools
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from service import errors
from service.api.problems import PROBLEM, TABLE, ErrorFormat
from service.api.routes import READ, Card, Docs, Route

Json = dict[str, Any]
Schemas = dict[Any, Json]  # by (pattern, part of the route), or by the key of an error format

PAGES_GROUP = "Pages and health"
REF = "#/components/schemas/{model}"
HEAD_ERRORS = (errors.InvalidRequest, errors.Unavailable, errors.InternalError)
BODY_ERRORS = (
    *(errors.UnknownModel, errors.TooLarge, errors.UnsupportedMedia, errors.Overloaded, errors.DeadlinePassed),
)
KEY_ERRORS = (errors.Unauthorized, errors.RateLimited)  # of routes that need an API key
CONNECTION_ERRORS = (errors.Malformed, errors.HeadTooSlow, errors.HeadTooLarge)  # before the route is known
PATTERN_ERRORS = (errors.UnknownModel,)
ABOUT = "Tags, classifies, fills and generates text, and forecasts series, with small recurrent networks."
DESCRIPTION = f"""{ABOUT}

`/tag`, `/classify` and `/generate` have the same bodies and answers under `/v1/`, where they are faster. `/v1/models`
lists the bundles, and the examples here name loaded ones. `model` in the body, `?model=`, or `/models/{{id}}` chooses
one; any other query parameter gets 422, except on health routes. Every answer has `X-Request-Id` and `Server-Timing`.
Errors are `application/problem+json`, except on the OpenAI and Open Inference Protocol routes, which use their own
formats. A wrong method gets 405 with `Allow`, and an unknown path 404. Bodies may be compressed with gzip, deflate or
zstd.
`WS /v1/stream` is not HTTP and therefore not listed: it takes tokens or frames as they arrive and answers each message
(docs/tutorials/streaming-tags.md).
"""


class Page(NamedTuple):
    """A page that BentoML serves."""

    path: str
    media: str
    summary: str


PAGES = (
    Page("/metrics", "text/plain", "Get the Prometheus metrics"),
    Page("/schema.json", "application/json", "Get the schema for `bentoml.SyncHTTPClient`"),
)
PARAMETERS: Json = {
    "RequestId": {
        "name": "X-Request-Id",
        "in": "header",
        "schema": {"type": "string"},
        "description": "Returned if it is 1 to 128 letters, digits, `.`, `_` and `-`; otherwise replaced.",
    },
    "TimeoutS": {
        "name": "X-Request-Timeout-S",
        "in": "header",
        "schema": {"type": "number", "exclusiveMinimum": 0},
        "description": "Seconds until the request fails with 504, at most SEQSERVE_DEADLINE_MAX_S.",
        "example": 10,
    },
}
STRING: Json = {"type": "string"}
QUERY: Json = {
    "model": {
        "name": "model",
        "in": "query",
        "schema": {"type": "string", "minLength": 1},
        "description": "As `model` in the body, for clients that send only a URL.",
    },
    "freq": {
        "name": "freq",
        "in": "query",
        "schema": {"type": "string"},
        "description": "Ignored: a forecaster has the same sizes for every frequency.",
    },
}
HEADERS: Json = {
    "RequestId": {"schema": STRING, "required": True, "description": "The id of the request."},
    "ServerTiming": {"schema": STRING, "required": True, "description": "Queue and compute time (ms), batch size."},
    "Model": {
        "schema": STRING,
        "description": "The weights that answered: `name@version;digest=sha256:…;variant=…`.",
    },
    "RetryAfter": {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds to wait before a retry."},
    "WwwAuthenticate": {"schema": STRING, "description": "`Bearer`."},
}
ALWAYS = {"X-Request-Id": "RequestId", "Server-Timing": "ServerTiming"}
OF_MODEL = {"X-Model": "Model"}
BY_STATUS = {
    401: {"WWW-Authenticate": "WwwAuthenticate"},
    429: {"Retry-After": "RetryAfter"},
    503: {"Retry-After": "RetryAfter"},
}


def document(routes: Sequence[Route], cards: Sequence[Card], *, keys: bool) -> Json:
    """Return the document. ``cards``: as in ``/v1/models``; ``keys``: whether API keys are set."""
    schemas, definitions = _schemas(tuple(routes))
    paths: Json = {}
    for route in routes:
        if route.docs is not None:
            for method in route.methods:
                operation = _operation(route, route.docs, method, schemas, cards)
                paths.setdefault(route.pattern, {})[method.lower()] = operation
    for page in PAGES:
        for method in READ:
            paths.setdefault(page.path, {})[method.lower()] = _page(page, method, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "seqserve", "version": "1", "description": DESCRIPTION},
        "servers": [{"url": "."}],  # relative to this document, so that it fits behind a path prefix
        "paths": paths,
        "components": {
            "schemas": definitions,
            "parameters": PARAMETERS,
            "headers": HEADERS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "If API keys are set"}},
        },
        "security": [{"key": []}] if keys else [{}, {"key": []}],
    }


@functools.cache  # it takes a tenth of a second
def _schemas(routes: tuple[Route, ...]) -> tuple[Schemas, Json]:
    """Return a reference for every type that a route names, and the definitions."""
    types: dict[Any, tuple[str, Any]] = {_error_key(PROBLEM): ("serialization", PROBLEM.schema)}
    for route in routes:
        types[_error_key(route.error_format)] = ("serialization", route.error_format.schema)
        if route.docs is not None:
            for part, mode in (("body", "validation"), ("answer", "serialization"), ("event", "serialization")):
                type_ = getattr(route.docs, part)
                if type_ is not None and type_ is not bytes:
                    types[route.pattern, part] = (mode, type_)
    inputs: Any = [(key, mode, TypeAdapter(type_)) for key, (mode, type_) in types.items()]
    schemas, rest = TypeAdapter.json_schemas(inputs, ref_template=REF)
    return {key: schema for (key, _), schema in schemas.items()}, rest.get("$defs", {})


def _error_key(format_: ErrorFormat) -> str:
    return f"{format_.schema.__module__}.{format_.schema.__name__}"


def _operation(route: Route, docs: Docs, method: str, schemas: Schemas, cards: Sequence[Card]) -> Json:
    has_body = method != "HEAD"
    kinds = [*HEAD_ERRORS, *docs.errors, *(() if route.public else KEY_ERRORS)]
    kinds += BODY_ERRORS if route.reads_body else ()
    kinds += PATTERN_ERRORS if "{" in route.pattern else ()
    operation: Json = {
        "tags": [docs.group],
        "summary": docs.summary,
        "description": docs.about,
        "operationId": _operation_id(method, route.pattern),
        "parameters": [
            *_path_parameters(route, cards),
            *(QUERY[name] for name in route.query),
            *_references(PARAMETERS),
        ],
        "responses": {
            "200": {
                "description": "The answer",
                "headers": _headers(200, OF_MODEL if docs.infers or (route.task and "POST" in route.methods) else {}),
                **(_answer_content(route, docs, schemas) if has_body else {}),
            },
            **_error_responses(kinds, route.error_format, schemas, has_body=has_body),
            **_error_responses(CONNECTION_ERRORS, PROBLEM, schemas, has_body=has_body),
        },
    }
    if docs.body is not None and has_body:
        examples = {
            card["id"]: {"value": _without_model(body) if "{id}" in route.pattern else body}
            for card in cards
            if (body := docs.example(card)) is not None
        }
        media: Json = {"schema": schemas[route.pattern, "body"], **({"examples": examples} if examples else {})}
        others: Json = {name: {} for name in route.media if name != "application/json"}
        operation["requestBody"] = {"required": True, "content": {"application/json": media, **others}}
    return operation | ({"security": []} if route.public else {})


def _answer_content(route: Route, docs: Docs, schemas: Schemas) -> Json:
    content: Json = {}
    if docs.answer is bytes:
        content[docs.media] = {}
    elif docs.answer is not None:
        content[docs.media] = {"schema": schemas[route.pattern, "answer"]}
    if docs.event is not None:
        name = schemas[route.pattern, "event"].get("$ref", "").rpartition("/")[2]
        content["text/event-stream"] = {}  # OpenAPI 3.2 would read a schema here as that of one event
        about = f"The answer. If it is a stream of server-sent events, the data of each is a `{name}`."
        return {"description": about, "content": content}
    return {"content": content} if content else {}


def _page(page: Page, method: str, schemas: Schemas) -> Json:
    has_body = method != "HEAD"
    kind = "object" if page.media == "application/json" else "string"
    content: Json = {"content": {page.media: {"schema": {"type": kind}}}} if has_body else {}
    responses = {"200": {"description": "The answer", "headers": _headers(200), **content}}
    kinds = [errors.InvalidRequest, errors.InternalError, *KEY_ERRORS, *CONNECTION_ERRORS]
    responses |= _error_responses(kinds, PROBLEM, schemas, has_body=has_body)
    return {
        "tags": [PAGES_GROUP],
        "summary": page.summary,
        "operationId": _operation_id(method, page.path),
        "parameters": _references(PARAMETERS),
        "responses": responses,
    }


def _error_responses(
    kinds: Sequence[type[errors.ServiceError]], format_: ErrorFormat, schemas: Schemas, *, has_body: bool
) -> Json:
    """Return the responses of these errors by status, in order."""
    titles: defaultdict[int, list[str]] = defaultdict(list)
    for each in sorted(set(kinds), key=lambda error: TABLE[error]):
        titles[TABLE[each].status].append(TABLE[each].title)
    content = {"content": {format_.media.decode(): {"schema": schemas[_error_key(format_)]}}} if has_body else {}
    return {
        str(status): {"description": "; ".join(names), "headers": _headers(status), **content}
        for status, names in sorted(titles.items())
    }


def _headers(status: int, more: Mapping[str, str] = MappingProxyType({})) -> Json:
    names = {**ALWAYS, **BY_STATUS.get(status, {}), **more}
    return {name: {"$ref": f"#/components/headers/{each}"} for name, each in names.items()}


def _references(parameters: Json) -> list[Json]:
    return [{"$ref": f"#/components/parameters/{name}"} for name in parameters]


def _without_model(body: Any) -> Any:
    """Return an example body for a path that names the model."""
    return {name: value for name, value in body.items() if name != "model"} if isinstance(body, dict) else body


def _path_parameters(route: Route, cards: Sequence[Card]) -> list[Json]:
    """Return the parameters of a pattern. Their examples have the keys of the bodies' examples: the ids of bundles."""
    fields = {"id": "id", "version": "version"}
    parameters = []
    for name in re.findall(r"{(\w+)}", route.pattern):
        values = {card["id"]: {"value": card[fields[name]]} for card in cards} if name in fields else {}
        examples = {"examples": values} if values else {}
        schema = {"type": "string", "minLength": 1}
        parameters.append({"name": name, "in": "path", "required": True, "schema": schema, **examples})
    return parameters


def _operation_id(method: str, path: str) -> str:
    return "_".join([method.lower(), *re.findall(r"\w+", path)])
