"""The ordinary path of an HTTP request: a Transport over ASGI, and the endpoint that Starlette's routes call."""

import asyncio
from dataclasses import replace
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from service.api.pipeline import handle
from service.api.problems import Headers
from service.api.request_headers import RequestHeaders, body_too_large
from service.api.routes import Route
from service.errors import ClientGone
from service.worker import Worker


def address_of(peer: Any) -> str:
    """Return the host of a socket's peer name, or "" for a Unix socket."""
    return str(peer[0]) if isinstance(peer, tuple) else ""


class Endpoint:
    """Answers the requests to one path, as an ASGI application. Its routes have different methods."""

    def __init__(self, worker: Worker, *routes: Route) -> None:
        self._worker = worker
        self._routes = {method: route for route in routes for method in route.methods}
        self._other = replace(routes[0], methods=tuple(self._routes))  # refuses other methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport = AsgiTransport(receive, send)
        headers, params = RequestHeaders.of(scope["headers"]), scope.get("path_params", {})
        try:
            await handle(
                self._worker,
                self._routes.get(scope["method"], self._other),
                transport,
                headers,
                method=scope["method"],
                path=scope["path"],
                path_params=params,
                query=scope.get("query_string", b""),
            )
        finally:
            transport.close()


class AsgiTransport:
    """A Transport over ASGI, for any server. Call ``close`` after the answer."""

    __slots__ = ("_cycle", "_disconnected", "_receive", "_send", "_until_closed", "_watcher")

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._disconnected = False
        self._watcher: asyncio.Task[None] | None = None
        # uvicorn's `receive` is a method of its RequestResponseCycle, which knows at once whether the client has
        # disconnected. Other servers need a task for each request that waits for the message.
        cycle: Any = getattr(receive, "__self__", None)
        self._cycle = cycle if hasattr(cycle, "disconnected") else None
        self._until_closed = False  # a stream that ends with its connection

    def is_disconnected(self) -> bool:
        return self._disconnected if self._cycle is None else bool(self._cycle.disconnected)

    def client_address(self) -> str:
        """Return the address of the socket. Any client could set X-Forwarded-For."""
        transport = getattr(self._cycle, "transport", None)
        return address_of(transport.get_extra_info("peername")) if transport is not None else ""

    def whole_body(self, limit: int) -> bytes | None:
        if self._cycle is None or self._cycle.more_body:
            return None
        body, self._cycle.body = bytes(self._cycle.body), bytearray()
        if len(body) > limit:
            raise body_too_large(limit, len(body))
        return body

    async def read_body(self, limit: int) -> bytes:
        """Read until the end, or until ``limit``. uvicorn discards the rest, so that the client can read a 413."""
        body = bytearray()
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._disconnected = True
                raise ClientGone
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > limit:
                raise body_too_large(limit)
        if self._cycle is None:
            self._watcher = asyncio.create_task(self._watch())
        return bytes(body)

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        if (
            self._cycle is not None
            and self._cycle.more_body
            and getattr(self._cycle, "waiting_for_100_continue", False)
        ):
            # The client may now omit the body that it has announced, so where the next request begins is unknown.
            headers = [*headers, (b"connection", b"close")]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def start(self, status: int, headers: Headers) -> None:
        """Start a chunked answer. HTTP/1.0 has no chunks: its answer ends with the connection."""
        if self._cycle is not None and self._cycle.scope["http_version"] == "1.0":
            self._until_closed = True
            self._cycle.chunked_encoding = False
            headers = [*headers, (b"connection", b"close")]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes) -> None:
        if self.is_disconnected():
            raise ClientGone
        if self._cycle is not None and self._until_closed:
            self._cycle.expected_content_length = len(data)  # uvicorn checks the length of answers without chunks
        # uvicorn waits here while the client does not read.
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def abort(self) -> None:
        """Close the connection, which only uvicorn gives access to."""
        transport = getattr(self._cycle, "transport", None)
        if transport is not None:
            transport.abort()

    def close(self) -> None:
        """Stop waiting for a disconnect."""
        if self._watcher is not None:
            self._watcher.cancel()

    async def _watch(self) -> None:
        message: Message = {"type": ""}
        while message["type"] != "http.disconnect":
            message = await self._receive()
        self._disconnected = True
