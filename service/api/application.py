"""The Starlette application: the routes of every protocol, CORS, and BentoML's pages behind them."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, cast

import orjson
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Mount, WebSocketRoute
from starlette.routing import Route as StarletteRoute

from service.api import (
    bentoml_routes,
    caption,
    forecast,
    huggingface,
    inspect,
    libretranslate,
    native,
    oip,
    openai,
    openapi,
    page,
    sse,
    translate,
)
from service.api.asgi import Endpoint
from service.api.bentoml_routes import BentoMLPages
from service.api.native import model_cards
from service.api.pipeline import RequestContext
from service.api.problems import OIP_ERROR, OPENAI_ERROR
from service.api.routes import READ, Docs, Reply, Route
from service.api.websocket import PATH as STREAM_PATH
from service.api.websocket import WebSocketStreams
from service.errors import NotFound, Unavailable, shown
from service.worker import Worker

EXPOSED_HEADERS = ("X-Request-Id", "X-Model", "Server-Timing", "Retry-After", "RateLimit", "RateLimit-Policy")
PREFLIGHT_MAX_AGE_S = 7200  # browsers cache no longer
VERBOSE = re.compile(rb"(?:^|&)verbose(?:[=&]|$)").search  # in the query of a readiness probe, as Kubernetes has it


async def _document(context: RequestContext, _: bytes) -> Any:
    authenticator = context.worker.authenticator
    keys = authenticator is not None and authenticator.requires_key
    return Reply(body=orjson.dumps(openapi.document(ROUTES, model_cards(context.worker.engine), keys=keys)))


async def _live(_: RequestContext, __: bytes) -> Any:
    return Reply(body=b"\n", media=b"text/plain; charset=utf-8")


async def _ready(context: RequestContext, _: bytes) -> Any:
    if not VERBOSE(context.query):
        context.worker.check_ready()
        return Reply(body=b"\n", media=b"text/plain; charset=utf-8")
    if context.worker.authenticator is not None:  # the report names models
        await context.begin()
    checks = context.worker.checks()
    try:
        context.worker.check_ready()
    except Unavailable as error:
        error.details["checks"] = checks
        raise
    return {"ready": True, "worker": os.getpid(), "checks": checks}


CHAT = ("/chat/completions", "/responses")  # the ends of the paths on which clients of OpenAI send messages


async def _not_found(context: RequestContext, _: bytes) -> Any:
    if context.path.endswith(CHAT):
        message = "chat is not offered: these models continue a text; send it as prompt to /v1/completions"
        raise NotFound(message, available=["/v1/completions"])
    available = [route.pattern for route in ROUTES]
    raise NotFound(f"there is no route {shown(context.path)}; see /docs.json", value=context.path, available=available)


READINESS = "Check whether every bundle passed its self-test"


def _health_docs(summary: str) -> Docs:
    about = "`?verbose` answers JSON with the state of each part." if summary == READINESS else ""
    return Docs(group=openapi.PAGES_GROUP, summary=summary, about=about, answer=bytes, media="text/plain")


ROUTES: tuple[Route, ...] = (
    *native.ROUTES,
    *sse.ROUTES,
    *huggingface.ROUTES,
    *forecast.ROUTES,
    *translate.ROUTES,
    *libretranslate.ROUTES,
    *caption.ROUTES,
    *openai.ROUTES,
    *oip.ROUTES,
    *inspect.ROUTES,
    Route(
        "/docs.json",
        READ,
        _document,
        docs=Docs(group=openapi.PAGES_GROUP, summary="Get this document", answer=dict[str, Any]),
    ),
    *page.ROUTES,
    # Where the client of Text Generation Inference sends everything.
    replace(native.GENERATE, pattern="/", docs=replace(native.GENERATE_DOCS, about="As `/v1/generate`.")),
    *(
        Route(path, READ, handler, public=True, docs=_health_docs(summary))
        for path, handler, summary in (
            ("/livez", _live, "Check whether the process runs"),
            ("/healthz", _live, "Check whether the process runs"),
            ("/readyz", _ready, READINESS),
            ("/health", _ready, READINESS),
        )
    ),
    *bentoml_routes.ROUTES,
)
# One route, and so one metrics label, for all paths that do not exist. By prefix: the format of the error.
UNKNOWN = Route("unknown", (), _not_found, public=True)
NOT_FOUND = {
    "/v2/": replace(UNKNOWN, error_format=OIP_ERROR),
    **{f"/v1{end}": replace(UNKNOWN, error_format=OPENAI_ERROR) for end in CHAT},
    "/": UNKNOWN,
}


async def _options(_: RequestContext, __: bytes) -> Reply:
    methods = sorted({method for route in ROUTES for method in route.methods})
    return Reply(body=b"", media=b"text/plain", headers=[(b"allow", ", ".join(methods).encode())])


# The target of OPTIONS that means the whole service (RFC 9110, 9.3.7).
ASTERISK = Route("*", ("OPTIONS",), _options, public=True)


def create_app(worker: Worker, bentoml_app: Starlette, *, routes: tuple[Route, ...] = ROUTES) -> Starlette:
    """Return the application of one worker. ``bentoml_app`` serves BentoML's pages and has the lifespan."""
    pages = BentoMLPages(worker, bentoml_app, NOT_FOUND)
    streams = WebSocketStreams(worker)
    by_pattern: defaultdict[str, list[Route]] = defaultdict(list)
    for route in sorted(routes, key=lambda route: "{" in route.pattern):  # literal patterns first
        by_pattern[route.pattern].append(route)
    starlette_routes: list[BaseRoute] = [
        *(StarletteRoute(pattern, Endpoint(worker, *same)) for pattern, same in by_pattern.items()),
        WebSocketRoute(STREAM_PATH, streams),
        WebSocketRoute("/{path:path}", streams),  # answers that the path does not exist
        Mount("/", pages),
    ]
    middleware = []
    if worker.settings.cors_origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=worker.settings.cors_origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("*",),
            expose_headers=EXPOSED_HEADERS,
            max_age=PREFLIGHT_MAX_AGE_S,
        )
        middleware.append(cors)
    app = Starlette(
        routes=starlette_routes,
        middleware=middleware,
        # BentoML's startup and shutdown hooks
        lifespan=cast(Any, lambda _: bentoml_app.router.lifespan_context(bentoml_app)),
    )
    app.router.redirect_slashes = False
    app.router.default = Endpoint(worker, ASTERISK)  # of targets that are no path
    return app


def fast_routes(models: Iterable[str] = (), *, routes: tuple[Route, ...] = ROUTES) -> dict[bytes, Route]:
    """Return the routes that the fast path may answer, by method and path: also those of each of the ``models``.

    The routes of BentoML are not among them.
    """
    found: dict[bytes, Route] = {}
    names = tuple(models)
    for route in routes:
        if route in bentoml_routes.ROUTES or not (route.public or route.reads_body):
            continue
        method = b"POST" if route.reads_body else b"GET"
        if "{" not in route.pattern:
            found[method + route.pattern.encode()] = route
        elif "{version}" not in route.pattern:
            for name in names:
                found[method + route.pattern.replace("{id}", name).encode()] = replace(route, path_params={"id": name})
    return found
