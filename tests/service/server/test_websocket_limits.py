"""Limits on WebSockets: pings, fragments and clients that do not read."""

import asyncio
import logging
from typing import Any

import pytest

from service.rate_limits import RateLimitPolicy, parse_rate
from service.server.websocket_limits import FRAGMENTS_MAX, PIECE_BYTES, POLICY_VIOLATION, LimitedWebSocketProtocol
from tests.support.http_connection import Wire, request
from tests.support.polling import eventually, turns

TEXT, CONT, PING = 1, 0, 9
PONG = bytes([0x80 | 10, 0])


def frame(kind: int, data: bytes = b"", *, last: bool = True) -> bytes:
    assert len(data) < 126
    return bytes([last << 7 | kind, 0x80 | len(data), 0, 0, 0, 0]) + data


def handshake(path: str = "/v1/stream", heads: str = "") -> bytes:
    lines = [f"GET {path} HTTP/1.1", "host: test", "connection: upgrade", "upgrade: websocket"]
    lines += ["sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", "sec-websocket-version: 13", heads]
    return "\r\n".join([line for line in lines if line] + ["", ""]).encode()


class Socket(Wire):
    """A connection that asks for a stream, and what the service has written since."""

    def __init__(self, path: str = "/v1/stream", heads: str = "", **settings: Any) -> None:
        super().__init__(settings=settings)
        self.websocket = LimitedWebSocketProtocol(config=self.config, server_state=self.state, app_state={})
        self.transport.peer = ("127.0.0.1", 9)
        self.websocket.connection_made(self.transport)
        self.websocket.data_received(handshake(path, heads))

    def say(self, *frames: bytes) -> None:
        self.websocket.data_received(b"".join(frames))

    def taken(self) -> bytes:
        taken, self.transport.written = self.transport.written, b""
        return taken


async def opened(**settings: Any) -> Socket:
    socket = Socket(**settings)
    await turns()
    assert socket.taken().startswith(b"HTTP/1.1 101 ")
    return socket


async def test_pings_are_answered_but_not_to_a_client_that_does_not_read() -> None:
    socket = await opened()
    socket.say(frame(PING))
    assert socket.taken() == PONG
    socket.websocket.pause_writing()
    assert socket.transport.paused
    socket.say(frame(PING))  # was on its way
    await turns()
    assert socket.taken() == b""
    socket.websocket.resume_writing()
    await turns()
    assert socket.taken() == PONG
    assert not socket.transport.paused


async def test_many_frames_are_handled_in_pieces() -> None:
    socket = await opened()
    count = 3 * PIECE_BYTES // len(frame(PING))
    socket.say(*[frame(PING)] * count)
    first = len(socket.taken()) // len(PONG)
    assert first <= PIECE_BYTES // len(frame(PING))
    assert socket.transport.paused
    await eventually(lambda: not socket.transport.paused)
    assert len(socket.taken()) // len(PONG) == count - first
    assert not socket.transport.paused


async def test_messages_behind_an_unanswered_one_are_not_read() -> None:
    socket = await opened()
    socket.say(frame(TEXT, b'{"inputs": "!wait"}'), *[frame(TEXT, b"{}")] * PIECE_BYTES)
    await turns()
    assert socket.transport.paused
    assert socket.websocket.queue.qsize() <= PIECE_BYTES // len(frame(TEXT, b"{}"))
    socket.websocket.connection_lost(None)
    socket.engine.proceed.set()


async def test_a_message_with_too_many_fragments_ends_the_stream() -> None:
    socket = await opened()
    few = [frame(TEXT, b"{", last=False), *[frame(CONT, last=False)] * (FRAGMENTS_MAX - 2), frame(CONT, b"}")]
    socket.say(*few)
    await eventually(lambda: b'"steps":0' in socket.transport.written)
    socket.taken()
    socket.say(frame(TEXT, last=False), *[frame(CONT, last=False)] * FRAGMENTS_MAX)
    await eventually(lambda: socket.transport.closed)
    assert POLICY_VIOLATION.to_bytes(2, "big") in socket.taken()
    assert not socket.websocket.frames


class Clock:
    """The event loop of a connection, with a clock that the test moves."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop, self.passed_s = loop, 0.0

    def time(self) -> float:
        return self.loop.time() + self.passed_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loop, name)


async def test_a_client_that_reads_nothing_is_disconnected_and_no_longer_counted() -> None:
    socket = await opened(write_timeout_s=5)
    clock = socket.websocket.loop = Clock(asyncio.get_running_loop())  # type: ignore[assignment]
    assert socket.websocket in socket.limits.connections
    socket.websocket.pause_writing()
    socket.limits.check()
    assert not socket.transport.aborted
    clock.passed_s += 6  # type: ignore[attr-defined]
    socket.limits.check()
    assert socket.transport.aborted
    socket.websocket.connection_lost(None)
    assert socket.websocket not in socket.limits.connections


async def test_a_connection_that_does_not_close_is_aborted() -> None:
    socket = await opened(write_timeout_s=5)
    clock = socket.websocket.loop = Clock(asyncio.get_running_loop())  # type: ignore[assignment]
    socket.transport.close()
    socket.limits.check()
    clock.passed_s += 6  # type: ignore[attr-defined]
    socket.limits.check()
    assert socket.transport.aborted


async def test_handshakes_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "uvicorn.error")
    handshakes = (
        ("/v1/stream?model=secret", b"101"),
        ("/v1/stream?key=secret", b"422"),
        ("/v1/other?key=secret", b"404"),
    )
    for path, status in handshakes:
        socket = Socket(path)
        await turns()
        assert socket.taken().startswith(b"HTTP/1.1 " + status)
    assert not caplog.records


@pytest.mark.parametrize("forwarded", ["203.0.113.7", "a:zz"])
async def test_limits_ignore_forwarded_addresses(forwarded: str) -> None:
    socket = Socket(heads=f"x-forwarded-for: {forwarded}", rate_limit="2/h")
    await turns()
    assert socket.taken().startswith(b"HTTP/1.1 101 ")
    limiter = socket.worker.rate_limiter
    assert limiter is not None
    left = []
    for client in ("127.0.0.1", forwarded):
        (status,), _ = await limiter.count(client, RateLimitPolicy(rate=parse_rate("2/h")))
        left.append(status.remaining)
    assert left == [0, 1]


async def test_a_connection_that_became_a_websocket_is_still_under_limits() -> None:
    wire = Wire()
    wire.protocol.ws_protocol_class = LimitedWebSocketProtocol  # type: ignore[assignment]
    wire.send(request({"inputs": "a"}))
    await wire.answers(1)
    wire.send(handshake())
    await eventually(lambda: b"HTTP/1.1 101 " in wire.transport.written)
    assert not wire.transport.closed
    assert wire.limits.connections == {wire.transport.protocol}
