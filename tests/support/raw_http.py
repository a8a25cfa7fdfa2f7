"""HTTP and WebSocket bytes over raw sockets: for requests that no HTTP library would send, or would send whole."""

import asyncio
import os
import socket
import struct
from typing import Self

from loadtest.http_client import HttpReply, ServiceAddress, request_bytes

CHUNK_BYTES = 1 << 18
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10  # opcodes of RFC 6455


class ClosedError(ConnectionError):
    """The server closed the connection before its reply was complete."""


def parse_reply(data: bytes, *, ended: bool = False) -> tuple[HttpReply, int] | None:
    """Return the first reply in `data` and its number of bytes, or None while it is incomplete.

    `ended` means that no more bytes follow, which ends a body without a length.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    first, *lines = data[:end].decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status, start = int(first.split(" ", 2)[1]), end + 4
    if status == 100:  # the final reply follows
        later = parse_reply(data[start:], ended=ended)
        return later and (later[0], later[1] + start)
    if headers.get("transfer-encoding", "").lower() == "chunked":
        chunked = _parse_chunks(data, start)
        return chunked and (HttpReply(status=status, headers=headers, body=chunked[0]), chunked[1])
    if "content-length" in headers:
        stop = start + int(headers["content-length"])
    elif status in (204, 304):
        stop = start
    elif ended:
        stop = len(data)
    else:
        return None
    return (HttpReply(status=status, headers=headers, body=data[start:stop]), stop) if len(data) >= stop else None


def _parse_chunks(data: bytes, start: int) -> tuple[bytes, int] | None:
    body = b""
    while (line_end := data.find(b"\r\n", start)) >= 0:
        size = int(data[start:line_end].split(b";")[0], 16)
        start = line_end + 2 + size + 2
        if len(data) < start:
            return None
        if size == 0:
            return body, start
        body += data[line_end + 2 : start - 2]
    return None


class RawConnection:
    """One keep-alive connection. It sends while it reads, so that it sees an early reply to a large request."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._rest = b""

    @classmethod
    async def open(cls, address: ServiceAddress, *, buffer_bytes: int | None = None) -> Self:
        """Connect. `buffer_bytes` limits what the local kernel accepts while nothing is read."""
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        try:
            await loop.sock_connect(sock, (address.host, address.port))
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    async def ask(self, request: bytes, *, timeout_s: float = 60.0) -> HttpReply:
        """Send one request and read its reply. Raises ConnectionError or TimeoutError."""
        async with asyncio.timeout(timeout_s):
            sending = asyncio.ensure_future(self.send(request))
            try:
                return await self._read_reply()
            finally:
                sending.cancel()
                # A server that refuses a large body may stop reading it. Only its reply matters.
                await asyncio.gather(sending, return_exceptions=True)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def receive(self, limit: int = CHUNK_BYTES) -> bytes:
        """Wait for data and return at most `limit` bytes; b"" after the server has closed."""
        return await asyncio.get_running_loop().sock_recv(self._sock, limit)

    async def _read_reply(self) -> HttpReply:
        data, ended = bytearray(self._rest), False
        while (parsed := parse_reply(bytes(data), ended=ended)) is None:
            if ended:
                raise ClosedError(f"closed after {len(data)} bytes of a reply")
            block = await self.receive()
            data += block
            ended = not block
        reply, used = parsed
        self._rest = bytes(data[used:])
        return reply

    def close(self, *, reset: bool = False) -> None:
        """Close. With `reset` the server gets a TCP reset instead of an orderly end."""
        if reset:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()


def websocket_handshake(address: ServiceAddress, path: str) -> bytes:
    """Return the request that opens a WebSocket."""
    headers = {
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    request = request_bytes(address, path, method="GET", content_type=None, headers=headers)
    return request.replace(b"content-length: 0\r\n", b"")


def websocket_frame(payload: bytes, mask: bytes | None = None, *, opcode: int = TEXT) -> bytes:
    """Return one masked client frame of a payload below 64 KiB."""
    mask = os.urandom(4) if mask is None else mask
    length = len(payload)
    size = bytes([0x80 | length]) if length < 126 else b"\xfe" + length.to_bytes(2, "big")
    return bytes([0x80 | opcode]) + size + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
