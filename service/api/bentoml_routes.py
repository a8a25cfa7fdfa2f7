"""BentoML's routes: ``/tag``, ``/classify`` and ``/generate``, and the pages that BentoML answers.

BentoML's client finds the three tasks in ``/schema.json``. Their requests are answered by the handlers of ``/v1/…``:
BentoML's own machinery accepts bodies of any size, and answers errors in its own way. Its page at ``/`` and the files
of that page are not served, because they load scripts from other hosts.
"""

from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Route as StarletteRoute
from starlette.types import Message, Receive, Scope, Send

from service.api import native, schemas
from service.api.asgi import AsgiTransport, Endpoint
from service.api.pipeline import RequestContext, refuse
from service.api.request_headers import RequestHeaders
from service.api.routes import Route
from service.errors import MethodNotAllowed, shown
from service.worker import Worker

PAGES = frozenset(("/metrics", "/schema.json"))


async def _generate(context: RequestContext, body: bytes) -> Any:
    request = await schemas.read_request(schemas.GenerateRequest, body, context.worker)
    schemas.reject_stream(request)
    return await native.generate(context, request)


def _like(route: Route, **changes: Any) -> Route:
    assert route.docs is not None
    docs = replace(route.docs, about=f"As `{route.pattern}`, for BentoML's client.")
    return replace(route, pattern=route.pattern.removeprefix("/v1"), docs=docs, **changes)


ROUTES = (_like(native.TAG), _like(native.CLASSIFY), _like(native.GENERATE, handler=_generate))


class BentoMLPages:
    """BentoML's own pages, with our authentication and headers. ``not_found`` answers other paths, by prefix.

    BentoML labels its metrics with the path of a request, so it must only see paths that exist. It counts its requests
    itself; only those that are refused here are counted here.
    """

    def __init__(self, worker: Worker, inner: Starlette, not_found: Mapping[str, Route]) -> None:
        self._worker, self._inner = worker, inner
        self._not_found = {prefix: Endpoint(worker, route) for prefix, route in not_found.items()}
        self.methods = {
            route.path: sorted(route.methods or ())
            for route in inner.routes
            if isinstance(route, StarletteRoute) and route.path in PAGES
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path not in self.methods:
            endpoint = next(endpoint for prefix, endpoint in self._not_found.items() if path.startswith(prefix))
            await endpoint(scope, receive, send)
            return
        transport = AsgiTransport(receive, send)
        context = RequestContext(
            self._worker,
            path,
            RequestHeaders.of(scope["headers"]),
            client_address=transport.client_address,
            is_disconnected=transport.is_disconnected,
            method=scope["method"],
            path=path,
        )
        try:
            if context.method not in self.methods[path]:
                raise MethodNotAllowed(
                    f"{path} does not have the method {shown(context.method)}; use {' or '.join(self.methods[path])}",
                    available=self.methods[path],
                )
            await context.begin()
            context.read_query(scope["query_string"], ())
        except Exception as cause:
            await refuse(context, transport.send, cause)
            context.finish()
            return
        if path == "/metrics":
            self._worker.telemetry.flush()
        await self._inner(scope, receive, _with_headers(context, send))


def _with_headers(context: RequestContext, send: Send) -> Send:
    """Return a ``send`` that adds the headers of every answer."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message["headers"], *context.response_headers()]
            if message["status"] == HTTPStatus.SERVICE_UNAVAILABLE:
                headers.append((b"retry-after", b"1"))
            message = {**message, "headers": headers}
        await send(message)

    return send_with_headers
