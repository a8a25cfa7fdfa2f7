"""A websocket's client side by hand (RFC 6455), on wire.py's connection: text messages, one answer each.

By hand for the reason that wire.py is: what is sent may be cut anywhere. Knows nothing of what is said.
"""

import os
from typing import Self

from loadtest.wire import Address, ClosedError, Connection, request_bytes

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


def handshake(address: Address, path: str) -> bytes:
    """The request that opens a websocket."""
    heads = {"upgrade": "websocket", "connection": "Upgrade", "sec-websocket-version": "13"}
    key = {"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="}  # any: nothing here depends on its answer
    request = request_bytes(address, path, method="GET", content_type=None, headers={**heads, **key})
    return request.replace(b"content-length: 0\r\n", b"")


def frame(payload: bytes, mask: bytes, *, kind: int = TEXT) -> bytes:
    """One whole message of a client, below 64 KiB."""
    length = len(payload)
    size = bytes([0x80 | length]) if length < 126 else b"\xfe" + length.to_bytes(2, "big")
    return bytes([0x80 | kind]) + size + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def parse_frame(data: bytes) -> tuple[int, bytes, int] | None:
    """Kind, payload and bytes taken of the first frame of a server in `data`; None while it is incomplete."""
    if len(data) < 2:
        return None
    length, start = data[1] & 0x7F, 2
    if length > 125:
        start += 2 if length == 126 else 8
        length = int.from_bytes(data[2:start], "big")
        if len(data) < start:
            return None
    return (data[0] & 0x0F, data[start : start + length], start + length) if len(data) >= start + length else None


class WebSocket:
    """One connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rest = b""

    @classmethod
    async def open(cls, address: Address, path: str) -> Self:
        """ConnectionError where the service has no websocket at `path`."""
        found = cls(await Connection.open(address))
        await found._connection.send(handshake(address, path))
        while b"\r\n\r\n" not in found._rest:
            await found._more()
        head, _, found._rest = found._rest.partition(b"\r\n\r\n")
        if head[9:12] != b"101":
            found.close()
            raise ConnectionError(f"{path} is no websocket: {head[:80]!r}")
        return found

    async def ask(self, text: str) -> str:
        """The answer to one message."""
        await self._connection.send(frame(text.encode(), os.urandom(4)))
        while True:
            while (parsed := parse_frame(self._rest)) is None:
                await self._more()
            kind, payload, used = parsed
            self._rest = self._rest[used:]
            if kind == PING:
                await self._connection.send(frame(payload, os.urandom(4), kind=PONG))
            elif kind == CLOSE:
                raise ClosedError(f"the websocket was closed: {payload!r}")
            else:
                return payload.decode()

    async def _more(self) -> None:
        block = await self._connection.receive()
        if not block:
            raise ClosedError(f"the websocket ended after {self._rest[:80]!r}")
        self._rest += block

    def close(self) -> None:
        self._connection.close()
