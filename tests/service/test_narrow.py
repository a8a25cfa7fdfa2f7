"""A WebSocket's bounds: pings, fragments and silence hold no more than a little; no line tells what was asked."""

import asyncio
import logging
from typing import Any, cast

import pytest

from service.server.websocket_limits import FRAGMENTS_MOST, PIECE_BYTES, POLICY_VIOLATION, Narrow
from tests.support.fast_path_connection import Wire, known, request

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
        self.narrow = Narrow(config=self.protocol.config, server_state=self.state, app_state={})
        self.transport.peer = ("127.0.0.1", 9)
        self.narrow.connection_made(self.transport)
        self.narrow.data_received(handshake(path, heads))

    def say(self, *frames: bytes) -> None:
        self.narrow.data_received(b"".join(frames))

    def taken(self) -> bytes:
        taken, self.transport.written = self.transport.written, b""
        return taken


async def opened(**settings: Any) -> Socket:
    socket = Socket(**settings)
    await asyncio.sleep(0.01)
    assert socket.taken().startswith(b"HTTP/1.1 101 ")
    return socket


async def test_a_ping_is_answered_and_a_client_that_takes_no_answers_is_not_read() -> None:
    socket = await opened()
    socket.say(frame(PING))
    assert socket.taken() == PONG
    socket.narrow.pause_writing()
    assert socket.transport.paused
    socket.say(frame(PING))  # had come already
    await asyncio.sleep(0.01)
    assert socket.taken() == b""
    socket.narrow.resume_writing()
    await asyncio.sleep(0.01)
    assert socket.taken() == PONG
    assert not socket.transport.paused


async def test_a_flood_of_frames_is_handled_a_piece_a_turn() -> None:
    socket = await opened()
    count = 3 * PIECE_BYTES // len(frame(PING))
    socket.say(*[frame(PING)] * count)
    first = len(socket.taken()) // len(PONG)
    assert first <= PIECE_BYTES // len(frame(PING))
    assert socket.transport.paused
    await asyncio.sleep(0.05)
    assert len(socket.taken()) // len(PONG) == count - first
    assert not socket.transport.paused


async def test_messages_behind_one_that_is_not_answered_yet_wait_unread() -> None:
    socket = await opened()
    socket.say(frame(TEXT, b'{"inputs": "!slow 0.05"}'), *[frame(TEXT, b"{}")] * PIECE_BYTES)
    await asyncio.sleep(0.02)
    assert socket.transport.paused
    assert socket.narrow.queue.qsize() <= PIECE_BYTES // len(frame(TEXT, b"{}"))


async def test_a_message_of_many_fragments_ends_the_stream_and_one_of_few_does_not() -> None:
    socket = await opened()
    few = [frame(TEXT, b"{", last=False), *[frame(CONT, last=False)] * (FRAGMENTS_MOST - 2), frame(CONT, b"}")]
    socket.say(*few)
    await asyncio.sleep(0.05)
    assert b'"steps":0' in socket.taken()
    socket.say(frame(TEXT, last=False), *[frame(CONT, last=False)] * FRAGMENTS_MOST)
    await asyncio.sleep(0.05)
    assert POLICY_VIOLATION.to_bytes(2, "big") in socket.taken()
    assert socket.transport.closed
    assert not socket.narrow.frames


async def test_a_client_that_takes_nothing_is_cut_off_and_its_place_is_free() -> None:
    socket = await opened(write_timeout_s=0.02)
    bounds = socket.front.bounds
    assert socket.narrow in bounds.connections
    socket.narrow.pause_writing()
    bounds.sweep()
    assert not socket.transport.aborted
    await asyncio.sleep(0.03)
    bounds.sweep()
    assert socket.transport.aborted
    socket.narrow.connection_lost(None)
    assert socket.narrow not in bounds.connections


async def test_a_connection_that_cannot_be_closed_is_cut_off() -> None:
    socket = await opened(write_timeout_s=0.02)
    socket.transport.close()
    socket.front.bounds.sweep()
    await asyncio.sleep(0.03)
    socket.front.bounds.sweep()
    assert socket.transport.aborted


async def test_neither_a_handshake_nor_its_refusal_writes_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "uvicorn.error")
    for path, status in (("/v1/stream?key=secret", b"101"), ("/v1/other?key=secret", b"404")):
        socket = Socket(path)
        await asyncio.sleep(0.02)
        assert socket.taken().startswith(b"HTTP/1.1 " + status)
    assert not caplog.records


@pytest.mark.parametrize("forwarded", ["203.0.113.7", "a:zz"])
async def test_a_header_does_not_say_whose_limits_count(forwarded: str) -> None:
    socket = Socket(heads=f"x-forwarded-for: {forwarded}", rate_limit="2/h")
    await asyncio.sleep(0.02)
    assert socket.taken().startswith(b"HTTP/1.1 101 ")
    gate = socket.front.lean.worker.gate
    assert gate is not None
    assert [*gate._addresses] == ["127.0.0.1"]


async def test_a_connection_that_became_a_websocket_is_not_closed_as_an_idle_one_and_is_still_looked_at() -> None:
    wire = await known(keep_alive_s=cast(int, 0.05))
    wire.protocol.ws_protocol_class = Narrow  # type: ignore[assignment]
    wire.send(request({"inputs": "a"}))
    await wire.answers(1)
    wire.send(handshake())
    await asyncio.sleep(0.15)
    assert b"HTTP/1.1 101 " in wire.transport.written
    assert not wire.transport.closed
    assert wire.front.bounds.connections == {wire.transport.protocol}
