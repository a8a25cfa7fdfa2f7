"""HTTP/1.1 by hand: requests as bytes, replies parsed from bytes, one connection on asyncio's sockets.

By hand because a load test must send what no HTTP library would (broken JSON, half a request, a wrong length) and
must read an answer that comes before the whole request was taken. Knows nothing of what is asked.
"""

import asyncio
import json
import socket
import struct
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException
from typing import Self
from urllib.parse import urlsplit

CHUNK_BYTES = 1 << 18


class ClosedError(ConnectionError):
    """The server closed the connection before its answer was complete."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where the service listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> Self:
        """`http://host:port`, ValueError for anything else (TLS would be measured too)."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError(f"{url!r} is no address of a service: give it as http://HOST:PORT")
        return cls(host=parts.hostname, port=parts.port or 80)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One HTTP answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> object:
        """The body as JSON; ValueError if it is none."""
        return json.loads(self.body)


def request_bytes(
    address: Address,
    path: str,
    body: bytes = b"",
    *,
    method: str = "POST",
    content_type: str | None = "application/json",
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """A whole request. Without a `transfer-encoding` in `headers` it says its own length."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {address.host}:{address.port}"]
    if content_type is not None:
        lines.append(f"content-type: {content_type}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if "transfer-encoding" not in (headers or {}):
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def parse_reply(data: bytes, *, ended: bool = False) -> tuple[Reply, int] | None:
    """The first reply in `data` and how many bytes it takes; None while it is incomplete.

    `ended`: nothing more will come, which is what ends a body without a length.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    first, *lines = data[:end].decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status, start = int(first.split(" ", 2)[1]), end + 4
    if status == 100:  # "continue": the answer itself comes behind it
        later = parse_reply(data[start:], ended=ended)
        return later and (later[0], later[1] + start)
    if headers.get("transfer-encoding", "").lower() == "chunked":
        chunked = _parse_chunks(data, start)
        return chunked and (Reply(status=status, headers=headers, body=chunked[0]), chunked[1])
    if "content-length" in headers:
        stop = start + int(headers["content-length"])
    elif status in (204, 304):
        stop = start
    elif ended:
        stop = len(data)
    else:
        return None
    return (Reply(status=status, headers=headers, body=data[start:stop]), stop) if len(data) >= stop else None


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


class Connection:
    """One keep-alive connection. Sends while it reads, so that an early answer to a large request is seen."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._rest = b""

    @classmethod
    async def open(cls, address: Address, *, buffer_bytes: int | None = None) -> Self:
        """`buffer_bytes`: how much of an answer this side's kernel takes while nobody reads."""
        loop = asyncio.get_running_loop()
        family, kind, protocol, _, target = (
            await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        )[0]
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        try:
            await loop.sock_connect(sock, target)
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    async def ask(self, request: bytes, *, timeout_s: float) -> Reply:
        """Send one request and read its reply; ConnectionError or TimeoutError when there is none."""
        async with asyncio.timeout(timeout_s):
            sending = asyncio.ensure_future(self.send(request))
            try:
                return await self._read()
            finally:
                sending.cancel()
                # A server that refuses a large body may stop reading it; what counts is what it answered.
                await asyncio.gather(sending, return_exceptions=True)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def receive(self, most: int = CHUNK_BYTES) -> bytes:
        """What has come, at most so many bytes of it; nothing when the server has closed. Waits for it."""
        return await asyncio.get_running_loop().sock_recv(self._sock, most)

    async def _read(self) -> Reply:
        loop = asyncio.get_running_loop()
        data, ended = bytearray(self._rest), False
        while (parsed := parse_reply(bytes(data), ended=ended)) is None:
            if ended:
                raise ClosedError(f"closed after {len(data)} bytes of an answer")
            block = await loop.sock_recv(self._sock, CHUNK_BYTES)
            data += block
            ended = not block
        reply, used = parsed
        self._rest = bytes(data[used:])
        return reply

    def close(self, *, reset: bool = False) -> None:
        """Close; with `reset` the server sees ECONNRESET instead of an orderly end."""
        if reset:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()


def fetch(url: str, *, timeout_s: float = 10.0) -> Reply:
    """GET `url`, whatever its status; ConnectionError when nobody answers. Blocks."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:
            return Reply(status=response.status, headers=_lower(response.headers), body=response.read())
    except urllib.error.HTTPError as error:
        return Reply(status=error.code, headers=_lower(error.headers), body=error.read())
    except (OSError, HTTPException) as error:
        raise ConnectionError(f"{url} does not answer ({error}): is the service running there?") from None


def _lower(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
