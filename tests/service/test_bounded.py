"""Slow and hostile clients: each holds its own connection, and that not for long."""

import asyncio
import re
from typing import Any

import pytest

from service.server.connection_limits import FIELDS_MOST, Bounds
from tests.support.fast_path_connection import TAGGED, Transport, Wire, request

HALF = b"POST /v1/tag HTTP/1.1\r\nhost: te"


class Clocked(Wire):
    """A connection whose time the test moves."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(settings=settings, keep_alive_s=60)
        self.passed_s = 0.0
        loop = asyncio.get_running_loop()
        self.protocol.loop = _Loop(loop, self)  # type: ignore[assignment]

    @property
    def bounds(self) -> Bounds:
        return self.front.bounds

    def after(self, seconds: float) -> None:
        self.passed_s += seconds
        self.bounds.sweep()

    @property
    def status(self) -> int:
        found = re.match(rb"HTTP/1.1 (\d+)", self.transport.written)
        return int(found[1]) if found else 0


class _Loop:
    def __init__(self, loop: asyncio.AbstractEventLoop, wire: Clocked) -> None:
        self._loop, self._wire = loop, wire

    def time(self) -> float:
        return self._loop.time() + self._wire.passed_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


async def test_a_head_that_does_not_come_is_given_up_and_had_no_task() -> None:
    wire, tasks = Clocked(header_timeout_s=5), asyncio.all_tasks()
    for byte in HALF:
        wire.send(bytes([byte]))
        wire.after(0.15)
        assert asyncio.all_tasks() == tasks
    assert not wire.transport.closed
    wire.after(1)
    assert (wire.status, wire.transport.closed) == (408, True)
    assert b"urn:seqserve:error:head-too-slow" in wire.transport.written


@pytest.mark.parametrize("data", [b"", b"\r\n"])
async def test_a_client_that_asks_nothing_is_let_go(data: bytes) -> None:
    wire = Clocked(header_timeout_s=5)
    wire.send(data) if data else None
    wire.after(4.5)
    assert not wire.transport.closed
    wire.after(1)
    assert (wire.status, wire.transport.closed) == (0, True)


async def test_line_breaks_keep_no_connection() -> None:
    wire = Clocked(header_timeout_s=5)
    wire.send(request({"inputs": "a"}, "x-a: b"))
    await wire.answers(1)
    for _ in range(62):
        wire.send(b"\r\n")
        wire.after(1)
    assert wire.transport.closed


async def test_a_request_that_is_being_worked_on_has_all_its_time() -> None:
    wire = Clocked(header_timeout_s=5)
    for head in ("x-a: b", "x-a: b"):  # the second takes the short way
        wire.send(request({"inputs": "!slow 0.02"}, head))
        wire.after(20)
    assert [status for status, _ in await wire.answers(2)] == [200, 200]


async def test_a_body_that_goes_on_after_its_answer_is_not_heard_for_long() -> None:
    wire = Clocked(header_timeout_s=5)
    wire.send(request({"inputs": "a" * 1000})[:-1])
    assert (await wire.answers(1))[0][0] == 413
    wire.after(4)
    assert not wire.transport.closed
    wire.after(2)
    assert wire.transport.closed


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"a" * 2000,
        b"GET / HTTP/1.1\r\nx: " + b"a" * 2000,
        b"GET /v1/models HTTP/1.1\r\nx: " + b"a" * 2000 + b"\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\n" + b"x:\r\n" * (FIELDS_MOST + 1) + b"\r\n",
    ],
)
@pytest.mark.parametrize("piece", [100, 10_000])
async def test_a_head_over_its_limit_is_refused(data: bytes, piece: int) -> None:
    wire = Clocked(header_bytes=1000)
    for start in range(0, len(data), piece):
        if not wire.transport.closed:
            wire.send(data[start : start + piece])
    assert (wire.status, wire.transport.closed) == (431, True)
    assert wire.transport.written.count(b"HTTP/1.1") == 1


async def test_a_long_body_makes_no_long_head() -> None:
    wire = Clocked(header_bytes=100)
    wire.send(request({"inputs": "a " * 100}))
    assert (await wire.answers(1))[0][0] == 200


async def test_what_comes_after_a_body_is_not_kept() -> None:
    wire = Clocked()
    wire.send(b"POST /v1/tag HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")
    wire.send(b'f\r\n{"inputs": "a"}\r\n0\r\n' + b"x-trailer: b\r\n" * 1000)
    assert len(wire.protocol.headers) == 1
    wire.send(b"\r\n")
    assert await wire.answers(1) == [(200, TAGGED)]


async def test_what_is_no_http_is_answered_once() -> None:
    wire = Clocked()
    wire.send(b"\x16\x03\x01 hello\r\n\r\n")
    assert (wire.status, wire.transport.closed) == (400, True)
    assert b"application/problem+json" in wire.transport.written


async def test_a_client_that_takes_nothing_is_cut_off() -> None:
    wire = Clocked(write_timeout_s=5)
    wire.protocol.pause_writing()
    wire.after(4)
    wire.protocol.resume_writing()  # it has taken some
    wire.protocol.pause_writing()
    wire.after(4)
    assert not wire.transport.aborted
    wire.after(2)
    assert wire.transport.aborted


async def test_a_client_on_a_slow_line_may_take_a_long_answer() -> None:
    wire = Clocked(write_timeout_s=5)
    wire.transport.left = 100_000
    wire.protocol.pause_writing()
    for _ in range(5):  # and never so much that writing goes on
        wire.after(4)
        wire.transport.left -= 1000
    wire.after(4)
    assert not wire.transport.aborted
    wire.after(6)
    assert wire.transport.aborted


async def test_a_connection_that_cannot_be_closed_is_cut_off() -> None:
    wire = Clocked(write_timeout_s=5)
    wire.transport.close()
    wire.after(0)
    wire.after(6)
    assert wire.transport.aborted


async def test_a_connection_too_many_is_told_so() -> None:
    wire = Clocked(connections_max=1)
    second = type(wire.protocol)(config=wire.protocol.config, server_state=wire.state, app_state={})
    transport = Transport()
    second.connection_made(transport)
    assert transport.written.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1\r\n" in transport.written
    assert transport.closed
    second.connection_lost(None)
    assert wire.bounds.connections == {wire.protocol}
    wire.send(request({"inputs": "a"}))
    assert await wire.answers(1) == [(200, TAGGED)]
