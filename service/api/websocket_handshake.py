"""What comes before a stream: where a client comes from, and why it gets none.

Knows the messages of ASGI and header fields; knows nothing of what a stream is for.
"""

from collections.abc import Callable

from service.api.asgi import Scope, Send, address_of
from service.api.problems import Headers
from service.errors import ForeignOrigin, shown


class Handshake:
    """A Link to a client that asks for a stream: what it can be told is why it gets none."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._speaks = "websocket.http.response" in scope.get("extensions", {})
        self._send = send

    def gone(self) -> bool:
        """See Link."""
        return False

    def address(self) -> str:
        """See Link. That of the socket: what the scope has for it a header can set."""
        transport = getattr(getattr(self._send, "__self__", None), "transport", None)  # of uvicorn's protocol
        return address_of(transport.get_extra_info("peername")) if transport is not None else ""

    @property
    def arrived(self) -> bool:
        """See Link."""
        return True

    async def read(self, limit: int) -> bytes:
        """See Link."""
        del limit
        return b""

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        """See Link. A server that cannot say why says 403."""
        if not self._speaks:
            await self._send({"type": "websocket.close"})
            return
        await self._send({"type": "websocket.http.response.start", "status": status, "headers": headers})
        await self._send({"type": "websocket.http.response.body", "body": body})

    async def start(self, status: int, headers: Headers) -> None:
        """Not for a handshake."""
        raise NotImplementedError

    async def write(self, data: bytes) -> None:
        """Not for a handshake."""
        raise NotImplementedError

    async def end(self) -> None:
        """Not for a handshake."""
        raise NotImplementedError

    def abort(self) -> None:
        """See Link."""


def check_origin(headers: Headers, may: Callable[[bytes], bool]) -> None:
    """Raise ForeignOrigin for a page of an origin that is neither one that ``may`` nor the service's own.

    A browser asks nobody before it opens a WebSocket, to whatever its user's network reaches. Who sends no Origin is
    no browser.
    """
    hosts = [value.lower() for name, value in headers if name == b"host" and value]
    for origin in [value for name, value in headers if name == b"origin"]:
        if not may(origin) and origin.lower().partition(b"://")[2] not in hosts:
            sent = origin.decode("latin-1")
            raise ForeignOrigin(
                f"pages of {shown(sent)} may not open streams: their origin is not in SEQSERVE_CORS_ORIGINS", value=sent
            )
