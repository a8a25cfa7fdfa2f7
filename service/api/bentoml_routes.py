"""/tag, /classify and /generate as BentoML APIs, with our limits, our errors and our headers.

BentoML answers a body that does not fit with 400, any other exception with 500 and a logged traceback, and
reads bodies of any size. Its middleware cannot be taught otherwise, so this wraps its application twice:

- in front, the request is read, bounded and validated exactly as on the lean path; what BentoML gets to see
  is a request that is known to be good;
- inside, ``answered`` turns a ServiceError of an API method into a finished response, which BentoML passes on
  untouched (``api_endpoint``: ``isinstance(output, Response)``) and does not log.

What is left of BentoML's own errors is a bug, and is answered as one. Knows nothing of the engine.
"""

import functools
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from pydantic import TypeAdapter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from service.api import schemas
from service.api.asgi import Application, AsgiLink, Message, Receive, Scope, Send, head_of
from service.api.problems import body_of, headers_of, kind_of
from service.api.request_context import OK, RequestContext
from service.errors import ServiceError
from service.worker import Worker

KEY = "seqserve.exchange"  # where the request's Exchange is in the ASGI scope
HEALTH = frozenset(("/livez", "/readyz", "/healthz"))  # open without a key: who probes has none
APIS: Mapping[str, TypeAdapter[Any]] = {
    "/tag": schemas.TAG,
    "/classify": schemas.CLASSIFY,
    "/generate": schemas.GENERATE,
}

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


def answered(method: Callable[Concatenate[S, P], Awaitable[R]]) -> Callable[Concatenate[S, P], Awaitable[R]]:
    """Make an API method return the problem response of a ServiceError instead of raising it.

    The method has a parameter ``ctx``, BentoML's Context, by which the request's Exchange is found.
    """

    @functools.wraps(method)
    async def inner(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        context = cast(Any, kwargs["ctx"])
        exchange = exchange_of(context.request)
        try:
            return await method(self, *args, **kwargs)
        except Exception as cause:
            error = cause if isinstance(cause, ServiceError) else exchange.failed(cause)
        exchange.note(error)
        headers = {name.decode(): value.decode() for name, value in headers_of(error)}
        # BentoML overwrites the status of the response with that of the context.
        context.response.status_code = kind_of(error).status
        content = body_of(error, request_id=exchange.request.request_id)
        return cast(R, Response(content, kind_of(error).status, headers))

    return inner


def exchange_of(request: Request) -> RequestContext:
    """Return the exchange that BentoML's request belongs to."""
    return cast(RequestContext, request.scope[KEY])


class Framed:
    """The ASGI application in front of BentoML's, for the paths of APIS."""

    def __init__(self, worker: Worker, inner: Application) -> None:
        self.worker = worker
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request through BentoML."""
        path = scope["path"]
        link = AsgiLink(receive, send)
        exchange = RequestContext(self.worker, path, head_of(scope), link)
        try:
            try:
                exchange.check(("POST",))
                body = await exchange.read()
                request = schemas.parse_request(APIS[path], body, self.worker.settings)
                schemas.reject_stream(request)
            except ServiceError as error:
                await exchange.refuse(error)
                return
            exchange.model = request.model or self.worker.default_model(path[1:])
            try:
                await self.inner(_known_good(scope, exchange), _replay(body, receive), _framing(exchange, send))
            except Exception as error:
                await exchange.refuse(exchange.failed(error))
        finally:
            link.close()
            exchange.close()


def _known_good(scope: Scope, exchange: RequestContext) -> Scope:
    """Return the scope that BentoML sees: with the exchange, and with the media type that was checked."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
    return {**scope, "headers": [*headers, (b"content-type", b"application/json")], KEY: exchange}


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the body that was already read, then what comes after it."""
    rest = [{"type": "http.request", "body": body, "more_body": False}]

    async def inner() -> Message:
        return rest.pop() if rest else await receive()

    return inner


def _framing(exchange: RequestContext, send: Send) -> Send:
    """Return a ``send`` that adds our headers and puts a problem in the place of an error of BentoML's own."""
    replaced = good = False

    async def framed(message: Message) -> None:
        nonlocal replaced, good
        if replaced:
            return
        if message["type"] == "http.response.start":
            good = message["status"] < 400
            headers = list(message["headers"])
            if message["status"] >= 400 and (b"content-type", b"application/problem+json") not in headers:
                replaced = True
                bug = RuntimeError(f"BentoML answered {message['status']} to a request that had passed validation")
                await exchange.refuse(exchange.failed(bug))
                return
            message = {**message, "headers": headers + exchange.common_headers()}
        await send(message)
        if good and message["type"] == "http.response.body" and not message.get("more_body", False):
            exchange.outcome = OK

    return framed


class Own:
    """BentoML's own pages: behind the key, but for the health routes; their answers get our headers.

    Only what is refused here is counted: BentoML counts the rest.

    BentoML's metrics are labelled with the raw path of a request, so that a path that it does not have must
    not reach it. Its routes are therefore read from its application once.
    """

    def __init__(self, worker: Worker, inner: Starlette) -> None:
        self.worker = worker
        self.inner = inner
        self.methods = dict(_routes(inner))

    def has(self, path: str) -> bool:
        """Return whether the path is one of BentoML's."""
        return path in self.methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one HTTP request on, or refuse its method or its key."""
        path = scope["path"]
        exchange = RequestContext(self.worker, path, head_of(scope), AsgiLink(receive, send))
        try:
            exchange.check(self.methods[path], media=(), key=path not in HEALTH)
        except ServiceError as error:
            await exchange.refuse(error)
            exchange.close()
            return
        if path == "/metrics":
            self.worker.telemetry.flush()
        await self.inner(scope, receive, _labelled(exchange, send))


def _labelled(exchange: RequestContext, send: Send) -> Send:
    """Return a ``send`` that adds the headers of every answer of ours."""

    async def labelled(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message["headers"], *exchange.common_headers()]
            if message["status"] == HTTPStatus.SERVICE_UNAVAILABLE:
                headers.append((b"retry-after", b"1"))
            message = {**message, "headers": headers}
        await send(message)

    return labelled


def _routes(app: Starlette) -> list[tuple[str, list[str]]]:
    """Return the paths of an application with their methods; of static files, one path for each file."""
    found = []
    for route in app.routes:
        if isinstance(route, Route):
            found.append((route.path, sorted(route.methods or ())))
        elif isinstance(route, Mount) and isinstance(route.app, StaticFiles):
            for folder in map(Path, route.app.all_directories):
                files = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
                found += [(f"{route.path}/{name}", ["GET", "HEAD"]) for name in files]
    return found
