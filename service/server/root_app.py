"""Sends every request its way: to the lean application, through BentoML's APIs, or to BentoML's own pages."""

from collections.abc import Sequence

from starlette.applications import Starlette

from service.api.asgi import Receive, Scope, Send
from service.api.bentoml_routes import APIS, Framed, Own
from service.api.cors import Cors
from service.api.native import ROUTES, Lean
from service.api.problems import Headers
from service.api.websocket import WebSocketStreams
from service.server.connection_limits import Bounds
from service.server.head_cache import Known
from service.server.load_shedding import Refusals
from service.worker import Worker


class Front:
    """The application that uvicorn calls; ``inner`` is BentoML's."""

    def __init__(self, worker: Worker, inner: Starlette) -> None:
        self.lean, self.refusals = Lean(worker), Refusals(worker)
        self.known: Known | None = None  # the last head that any connection had parsed: a new one often sends the same
        self.bounds = Bounds(settings=worker.settings, telemetry=worker.telemetry)
        worker.chores.append(self.bounds.sweep)
        self.message_bytes = worker.settings.body_bytes  # of one message of a stream
        self._streams = WebSocketStreams(worker)
        origins = worker.settings.cors_origins
        self.cors = Cors(origins) if origins else None
        self._default_headers: Headers = []
        self._lines = b""
        self._framed, self._own, self._inner = Framed(worker, inner), Own(worker, inner), inner

    def lines_of(self, headers: Headers) -> bytes:
        """Return the headers of every answer as bytes. uvicorn makes a new list of them every second."""
        if headers is not self._default_headers:
            self._default_headers = headers
            self._lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        return self._lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or take part in the server's start and end."""
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._streams(scope, receive, send)
        elif self.cors is not None:
            send = self.cors.framed(scope, send)
            if not await self.cors.preflight(scope, send, self._methods(scope["path"])):
                await self._answer(scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in APIS:
            await self._framed(scope, receive, send)
        elif self._own.has(scope["path"]) and scope["path"] not in ROUTES.literal:
            await self._own(scope, receive, send)
        else:
            await self.lean(scope, receive, send)

    def _methods(self, path: str) -> Sequence[str]:
        """Return the methods of a path, none if there is no such path."""
        if path in APIS:
            return ("POST",)
        if self._own.has(path):
            return self._own.methods[path]
        route, _ = ROUTES.find(path)
        return route.methods if route is not None else ()
