"""Limits on slow, large and malformed requests, and on clients that do not read."""

import asyncio

import pytest

from service.server.http_protocol import HEADER_FIELDS_MAX
from tests.support.http_connection import TAGGED, Clocked, Transport, read, request
from tests.support.polling import eventually, turns

HALF_HEAD = b"POST /v1/tag HTTP/1.1\r\nhost: te"


async def test_a_slow_head_times_out_and_needs_no_task() -> None:
    wire, tasks = Clocked(header_timeout_s=5), asyncio.all_tasks()
    for byte in HALF_HEAD:
        wire.send(bytes([byte]))
        wire.after(0.15)
        assert asyncio.all_tasks() == tasks
    assert not wire.transport.ended
    wire.after(1)
    assert (wire.status, wire.transport.ended) == (408, True)
    assert b"urn:seqserve:error:head-too-slow" in wire.transport.written


@pytest.mark.parametrize("data", [b"", b"\r\n"])
async def test_a_connection_without_a_request_is_closed(data: bytes) -> None:
    wire = Clocked(header_timeout_s=5)
    wire.send(data) if data else None
    wire.after(4.5)
    assert not wire.transport.ended
    wire.after(1)
    assert (wire.status, wire.transport.ended) == (0, True)


@pytest.mark.parametrize("head", ["connection: keep-alive", "expect: nothing"])  # the fast path, and uvicorn's way
async def test_an_idle_connection_is_closed_after_the_keep_alive_time(head: str) -> None:
    wire = Clocked(header_timeout_s=5, idle_timeout_s=60)
    wire.send(request({"inputs": "a"}, head))
    await wire.answers(1)
    wire.after(55)
    assert not wire.transport.ended
    wire.after(10)
    assert wire.transport.ended


async def test_line_breaks_do_not_keep_a_connection_open() -> None:
    wire = Clocked(header_timeout_s=5, idle_timeout_s=60)
    wire.send(request({"inputs": "a"}))
    await wire.answers(1)
    for _ in range(62):
        wire.send(b"\r\n")
        wire.after(1)
    assert wire.transport.ended


@pytest.mark.parametrize("path", ["/v1/tag", "/tag"])  # the fast path, and uvicorn's way
async def test_a_request_that_is_being_worked_on_is_not_idle(path: str) -> None:
    wire = Clocked(header_timeout_s=5)
    for count in (1, 2):
        wire.send(request({"inputs": "!wait"}, path=path))
        await eventually(lambda count=count: len(wire.engine.calls) == count)  # type: ignore[misc]
        wire.after(20)
        wire.engine.proceed.set()
        assert [status for status, _ in await wire.answers(count)] == [200] * count
        wire.engine.proceed.clear()


async def test_half_a_head_behind_a_request_does_not_cost_the_request_its_answer() -> None:
    wire = Clocked(header_timeout_s=5)
    wire.send(request({"inputs": "!wait"}) + HALF_HEAD)
    wire.after(20)
    assert not wire.transport.ended
    wire.engine.proceed.set()
    await eventually(lambda: wire.transport.ended)
    assert [status for status, _ in read(wire.transport.written)] == [200, 408]


async def test_a_body_that_continues_after_its_answer_is_not_read_for_long() -> None:
    wire = Clocked(header_timeout_s=5)
    wire.send(request({"inputs": "a" * 1000})[:-1])
    wire.after(0)  # it takes uvicorn's way
    assert (await wire.answers(1))[0][0] == 413
    wire.after(4)
    assert not wire.transport.ended
    wire.after(2)
    assert wire.transport.ended


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"a" * 2000,
        b"GET / HTTP/1.1\r\nx: " + b"a" * 2000,
        b"GET /v1/models HTTP/1.1\r\nhost: test\r\nx: " + b"a" * 2000 + b"\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\n" + b"x:\r\n" * (HEADER_FIELDS_MAX + 1) + b"\r\n",
    ],
)
@pytest.mark.parametrize("piece", [100, 10_000])
async def test_a_head_over_its_limit_is_rejected(data: bytes, piece: int) -> None:
    wire = Clocked(header_bytes=1000)
    for start in range(0, len(data), piece):
        if not wire.transport.ended:
            wire.send(data[start : start + piece])
    assert (wire.status, wire.transport.ended) == (431, True)
    assert wire.transport.written.count(b"HTTP/1.1") == 1


async def test_a_long_body_does_not_count_as_head() -> None:
    wire = Clocked(header_bytes=100)
    wire.send(request({"inputs": "a " * 100}))
    assert (await wire.answers(1))[0][0] == 200


@pytest.mark.parametrize("path", ["/v1/tag", "/tag"])
async def test_a_long_body_with_the_next_head_behind_it_is_answered(path: str) -> None:
    wire = Clocked(header_bytes=16_384, body_bytes=1 << 20)
    first = request({"inputs": "a " * 10_000}, path=path)
    wire.send(first + HALF_HEAD)
    assert [status for status, _ in await wire.answers(1)] == [200]
    wire.send(request({"inputs": "a"})[len(HALF_HEAD) :])
    assert [status for status, _ in await wire.answers(2)] == [200, 200]


async def test_a_head_that_began_behind_a_body_is_bounded_too() -> None:
    wire = Clocked(header_bytes=1000)
    wire.send(request({"inputs": "a"}) + b"GET / HTTP/1.1\r\nx: ")
    await wire.answers(1)
    for _ in range(3):
        wire.send(b"a" * 500)
    assert wire.transport.ended
    assert [status for status, _ in read(wire.transport.written)] == [200, 431]


@pytest.mark.parametrize("path", ["/v1/tag", "/tag"])
@pytest.mark.parametrize("behind", [b"\x00garbage\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"a" * 2000 + b"\r\n\r\n"])
async def test_a_bad_request_behind_a_good_one_does_not_cost_it_its_answer(path: str, behind: bytes) -> None:
    wire = Clocked(header_bytes=1000)
    wire.send(request({"inputs": "!wait"}, path=path) + request({"inputs": "b"}, path=path) + behind)
    await eventually(lambda: len(wire.engine.calls) == 1)
    assert not wire.transport.ended
    wire.engine.proceed.set()
    await eventually(lambda: wire.transport.ended)
    assert [status for status, _ in read(wire.transport.written)][:2] == [200, 200]
    assert wire.transport.written.count(b"HTTP/1.1") == 3


async def test_a_malformed_body_is_rejected_after_the_answer_before_it() -> None:
    wire = Clocked()
    chunked = b"POST /v1/tag HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\nnot a size\r\n"
    wire.send(request({"inputs": "!wait"}) + chunked)
    assert not wire.transport.ended
    wire.engine.proceed.set()
    await eventually(lambda: wire.transport.ended)
    assert [status for status, _ in read(wire.transport.written)] == [200, 400]
    wire = Clocked()
    wire.send(chunked)
    await turns()
    assert (wire.status, wire.transport.ended) == (400, True)


async def test_trailers_are_not_kept() -> None:
    wire = Clocked()
    wire.send(b"POST /v1/tag HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n")
    wire.send(b'f\r\n{"inputs": "a"}\r\n0\r\n' + b"x-trailer: b\r\n" * 1000)
    assert len(wire.protocol.headers) == 2
    wire.send(b"\r\n")
    assert await wire.answers(1) == [(200, TAGGED)]


async def test_bytes_that_are_not_http_are_rejected_once() -> None:
    wire = Clocked()
    wire.send(b"\x16\x03\x01 hello\r\n\r\n")
    assert (wire.status, wire.transport.ended) == (400, True)
    assert b"application/problem+json" in wire.transport.written


async def test_a_client_that_reads_nothing_is_disconnected() -> None:
    wire = Clocked(write_timeout_s=5)
    wire.protocol.pause_writing()
    wire.after(4)
    wire.protocol.resume_writing()  # it has read something
    wire.protocol.pause_writing()
    wire.after(4)
    assert not wire.transport.aborted
    wire.after(2)
    assert wire.transport.aborted


async def test_a_client_on_a_slow_line_may_read_a_long_answer() -> None:
    wire = Clocked(write_timeout_s=5)
    wire.transport.left = 100_000
    wire.protocol.pause_writing()
    for _ in range(5):  # but never so much that writing resumes
        wire.after(4)
        wire.transport.left -= 1000
    wire.after(4)
    assert not wire.transport.aborted
    wire.after(6)
    assert wire.transport.aborted


async def test_a_connection_that_does_not_close_is_aborted() -> None:
    wire = Clocked(write_timeout_s=5)
    wire.transport.close()
    wire.after(0)
    wire.after(6)
    assert wire.transport.aborted


async def test_a_connection_over_the_limit_is_rejected() -> None:
    wire = Clocked(connections_max=1)
    second = type(wire.protocol)(config=wire.protocol.config, server_state=wire.state, app_state={})
    transport = Transport()
    second.connection_made(transport)
    second.data_received(b"GET /v1/models HTTP/1.1\r\nhost: test\r\n\r\n")
    assert transport.written.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1\r\n" in transport.written
    assert transport.ended
    second.connection_lost(None)
    assert wire.limits.connections == {wire.protocol}
    wire.send(request({"inputs": "a"}))
    assert await wire.answers(1) == [(200, TAGGED)]


async def test_a_disconnect_ends_all_requests_of_the_connection() -> None:
    wire = Clocked()
    wire.send(request({"inputs": "!wait"}, path="/tag") + request({"inputs": "b"}, path="/tag"))
    await eventually(lambda: len(wire.engine.calls) == 1)
    assert not wire.engine.calls[0][-1].is_disconnected()
    wire.protocol.connection_lost(None)
    assert wire.engine.calls[0][-1].is_disconnected()
    wire.engine.proceed.set()
    await turns()
