"""wire.py and closed_loop.py: replies are found in bytes, whole or in parts."""

import asyncio
from contextlib import suppress

import pytest

from loadtest import closed_loop
from loadtest.wire import Address, ClosedError, Connection, parse_reply, request_bytes

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 413 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nto\r\n3;x\r\nday\r\n0\r\n\r\n"


@pytest.mark.parametrize(("data", "status", "body"), [(PLAIN, 200, b"ok"), (CHUNKED, 413, b"today")])
def test_a_reply_is_complete_with_its_last_byte_and_no_sooner(data: bytes, status: int, body: bytes) -> None:
    assert all(parse_reply(data[:length]) is None for length in range(len(data)))
    parsed = parse_reply(data + b"next")
    assert parsed is not None
    assert (parsed[0].status, parsed[0].body, parsed[1]) == (status, body, len(data))


def test_the_end_of_the_connection_ends_a_body_without_length() -> None:
    data = b"HTTP/1.0 200 OK\r\n\r\nall of it"
    assert parse_reply(data) is None
    parsed = parse_reply(data, ended=True)
    assert parsed is not None
    assert parsed[0].body == b"all of it"


def test_continue_is_no_answer() -> None:
    parsed = parse_reply(b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN)
    assert parsed is not None
    assert parsed[0].status == 200


@pytest.mark.parametrize("url", ["https://a:1", "localhost:3000", "http://a:1/path"])
def test_an_address_is_http_host_and_port(url: str) -> None:
    with pytest.raises(ValueError, match="http://HOST:PORT"):
        Address.parse(url)


async def test_an_answer_that_comes_before_the_whole_body_was_read_is_seen() -> None:
    ended = asyncio.Event()  # or the loop may close under the server's connection

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 413 Too large\r\ncontent-length: 0\r\n\r\n")
        with suppress(ConnectionError):
            while await reader.read(1 << 16):
                pass
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        ended.set()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        address = Address(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
        connection = await Connection.open(address)
        reply = await connection.ask(request_bytes(address, "/", b"x" * 30_000_000), timeout_s=5.0)
        connection.close()
        await ended.wait()
    assert reply.status == 413


async def test_a_connection_that_closes_instead_of_answering_is_an_error() -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
        address = Address(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
        connection = await Connection.open(address)
        with pytest.raises(ClosedError):
            await connection.ask(request_bytes(address, "/"), timeout_s=5.0)
        connection.close()


def test_closed_loop_sees_status_and_end_of_an_answer() -> None:
    assert all(closed_loop.answered(PLAIN[:length]) is None for length in range(len(PLAIN)))
    assert closed_loop.answered(PLAIN) == 200
    with pytest.raises(ValueError, match="content-length"):
        closed_loop.answered(CHUNKED)


def test_closed_loop_measures_every_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_loop, "WARMUP_S", 0.0)
    requests = [request_bytes(Address(host="127.0.0.1", port=1), "/", b"{}")]
    seen = closed_loop.measure_ceiling(requests, connections=4, seconds=0.3, core=None, answer_bytes=100)
    assert seen.failed == 0
    assert seen.statuses[200] == len(seen.latencies_ms) > 100
    assert 0 < seen.percentile_ms(50) <= seen.percentile_ms(99)


async def test_closed_loop_counts_a_lost_connection_as_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    monkeypatch.setattr(closed_loop, "WARMUP_S", 0.0)
    async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
        address = Address(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
        seen = await closed_loop.drive(address, [request_bytes(address, "/")], connections=2, seconds=0.1)
    assert seen.failed == 2
