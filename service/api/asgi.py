"""A Link over ASGI: for requests that come through a framework, or in pieces, or from any ASGI server.

Knows the messages of ASGI and nothing of what is in them.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from service.api.header_checks import too_large
from service.api.problems import Headers
from service.api.request_headers import Head
from service.errors import ClientGone

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


def head_of(scope: Scope) -> Head:
    """Return the head of the request that ``scope`` describes."""
    return Head.of(scope["method"], scope["path"], scope["headers"])


def address_of(peer: Any) -> str:
    """Return the host of a socket's peer name; a Unix socket's has none."""
    return str(peer[0]) if isinstance(peer, tuple) else ""


class AsgiLink:
    """One request as ASGI has it. ``close`` it when the answer is out."""

    __slots__ = ("_cycle", "_gone", "_receive", "_send", "_watcher", "_whole")

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._gone = False
        self._watcher: asyncio.Task[None] | None = None
        # uvicorn's `receive` is a method of the request's RequestResponseCycle. Its `disconnected` answers in
        # O(1) what ASGI can only answer by a task per request that awaits receive().
        cycle: Any = getattr(receive, "__self__", None)
        self._cycle = cycle if hasattr(cycle, "disconnected") else None
        self._whole: tuple[int, Headers, bytearray] | None = None  # an answer in parts that is sent at its end

    def gone(self) -> bool:
        """See Link."""
        return self._gone if self._cycle is None else bool(self._cycle.disconnected)

    def address(self) -> str:
        """See Link. That of the connection, whatever a proxy's headers say: anybody can write those."""
        transport = getattr(self._cycle, "transport", None)
        return address_of(transport.get_extra_info("peername")) if transport is not None else ""

    @property
    def arrived(self) -> bool:
        """See Link."""
        return self._cycle is not None and not self._cycle.more_body

    async def read(self, limit: int) -> bytes:
        """See Link.

        What a client is still sending when its answer is out is read and thrown away by the server (uvicorn
        does so, connection kept open), so that it gets to read its 413 instead of a broken connection.
        """
        body = bytearray()
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._gone = True
                raise ClientGone
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > limit:
                raise too_large(limit)
        if self._cycle is None:
            self._watcher = asyncio.create_task(self._watch())
        return bytes(body)

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        """See Link."""
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def start(self, status: int, headers: Headers) -> None:
        """See Link. HTTP/1.0 knows no parts, though uvicorn would send them: the whole goes out at its end."""
        if self._cycle is not None and self._cycle.scope["http_version"] == "1.0":
            self._whole = status, headers, bytearray()
            return
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes) -> None:
        """See Link. uvicorn's `send` waits for the client by itself, and sends nothing to one that has gone."""
        if self.gone():
            raise ClientGone
        if self._whole is not None:
            self._whole[2].extend(data)
            return
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """See Link."""
        if self._whole is not None:
            status, headers, body = self._whole
            await self.send(status, [*headers, (b"content-length", b"%d" % len(body))], bytes(body))
            return
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def abort(self) -> None:
        """See Link. Of other servers than uvicorn there is nothing to be had: they see to it themselves."""
        transport = getattr(self._cycle, "transport", None)
        if transport is not None:
            transport.abort()

    def close(self) -> None:
        """Watch no longer."""
        if self._watcher is not None:
            self._watcher.cancel()

    async def _watch(self) -> None:
        """Wait for the disconnect: for servers that do not show it otherwise."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
