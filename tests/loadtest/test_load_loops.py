"""Tests of loadtest.load_loops: reply parsing, closed loops, and open loops with Poisson arrivals."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from random import Random
from statistics import median
from typing import Any

import pytest

from loadtest import load_loops
from loadtest.http_client import ServiceAddress, request_bytes
from loadtest.load_loops import (
    LOST,
    OpenLoopResult,
    ReplyReader,
    closed_loop,
    measure_ceiling,
    open_loop,
    poisson_times,
    send_all,
)

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
BUSY = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\n{}"
EVENT = b"b\r\ndata: 123\n\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + 2 * EVENT + b"0\r\n\r\n"


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_loops, "WARMUP_S", 0.02)
    monkeypatch.setattr(load_loops, "OPEN_DRAIN_S", 0.3)


class Server(asyncio.Protocol):
    """Calls `act` for each request."""

    def __init__(self, act: Callable[["Server"], None], transports: list[Any]) -> None:
        self.act, self.transports = act, transports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.transports.append(transport)

    def data_received(self, data: bytes) -> None:
        self.act(self)


@asynccontextmanager
async def served(act: Callable[[Server], None]) -> AsyncIterator[ServiceAddress]:
    transports: list[Any] = []
    server = await asyncio.get_running_loop().create_server(lambda: Server(act, transports), "127.0.0.1", 0)
    try:
        yield ServiceAddress(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for transport in transports:
            transport.abort()
        await asyncio.sleep(0)


async def load(act: Callable[[Server], None], *, rate_per_s: float = 300.0, **more: Any) -> OpenLoopResult:
    async with served(act) as address:
        return await open_loop(address, [b"x"], rate_per_s=rate_per_s, seconds=0.3, **more)


def answer(server: Server) -> None:
    server.transport.write(OK)


def answer_after(seconds: float) -> Callable[[Server], None]:
    return lambda server: asyncio.get_running_loop().call_later(seconds, server.transport.write, OK)  # type: ignore[return-value]


@pytest.mark.parametrize("data", [OK, CHUNKED])
def test_reply_ends_with_its_last_byte(data: bytes) -> None:
    for size in (1, 3, 7, len(data)):
        reader = ReplyReader()
        found = [reader.feed(data[at : at + size]) for at in range(0, len(data), size)]
        assert found == [None] * (len(found) - 1) + [200]
        assert reader.feed(OK) == 200


@pytest.mark.parametrize("size", [1, 2, 4, 5, 1000])
def test_events_are_counted_across_reads(size: int) -> None:
    reader = ReplyReader()
    for at in range(0, len(CHUNKED), size):
        reader.feed(CHUNKED[at : at + size])
    assert reader.events == 2


def test_reply_without_length_raises() -> None:
    with pytest.raises(ValueError, match="content-length"):
        ReplyReader().feed(b"HTTP/1.1 200 OK\r\n\r\n")


def test_closed_loop_measures_every_connection() -> None:
    requests = [request_bytes(ServiceAddress(host="127.0.0.1", port=1), "/", b"{}")]
    found = measure_ceiling(requests, connections=4, seconds=0.3, core=None, reply_bytes=100)
    assert found.failed == 0
    assert found.statuses[200] == len(found.latencies_ms) > 100
    assert 0 < found.percentile_ms(50) <= found.percentile_ms(99)


async def test_closed_loop_counts_lost_connections_as_failures() -> None:
    async with served(lambda server: server.transport.close()) as address:
        found = await closed_loop(address, [b"x"], connections=2, seconds=0.1)
    assert found.failed == 2


async def test_send_all_sends_every_request_once() -> None:
    requests: list[Server] = []

    def act(server: Server) -> None:
        requests.append(server)
        answer(server)

    async with served(act) as address:
        found = await send_all(address, [b"x"] * 10, connections=3, timeout_s=5.0)
    assert found.statuses == {200: 10}
    assert len(requests) == 10
    assert found.seconds >= max(found.latencies_ms) / 1000


def test_arrival_times_follow_seed_and_rate() -> None:
    times = list(islice(poisson_times(50.0, Random(1)), 5000))
    assert times == list(islice(poisson_times(50.0, Random(1)), 5000))
    assert times != list(islice(poisson_times(50.0, Random(2)), 5000))
    assert times[-1] == pytest.approx(100.0, rel=0.1)


async def test_open_loop_counts_every_request_that_was_due() -> None:
    found = await load(answer)
    assert found.statuses() == {200: len(found.status)}
    assert 50 < len(found.status) < 150
    assert found.unanswered == 0
    assert found.summary()["client_late_ms"] >= 0
    assert all(0 <= due_s < 0.3 for due_s in found.due_s)


async def test_waiting_for_a_connection_counts_as_latency() -> None:
    # A closed loop would measure 10 ms at any rate while the queue grows.
    found = await load(answer_after(0.01), max_connections=1)
    assert found.connections == 1
    assert median(found.latency_ms) > 50


async def test_connections_are_opened_up_to_the_limit() -> None:
    found = await load(answer_after(0.05), max_connections=5)
    assert found.connections == 5


async def test_connections_can_be_open_before_the_first_request() -> None:
    found = await load(answer, rate_per_s=10.0, open_first=7)
    assert found.connections == 7
    assert set(found.statuses()) <= {200}


async def test_refusals_are_counted_apart() -> None:
    replies: Iterator[bytes] = iter([OK, BUSY] * 10_000)
    found = await load(lambda server: server.transport.write(next(replies)))
    summary = found.summary()
    assert summary["statuses"].keys() == {"200", "429"}
    assert len(found.latencies_ms(ok=True)) + len(found.latencies_ms(ok=False)) == len(found.status)
    assert summary["refused"]["p50_ms"] > 0


async def test_requests_without_reply_are_unanswered() -> None:
    found = await load(lambda server: None)
    assert len(found.status) == 0
    assert found.unanswered > 50
    assert found.summary()["ok"] is None


async def test_connection_closed_before_the_reply_is_a_lost_request() -> None:
    found = await load(lambda server: server.transport.close())
    assert set(found.statuses()) == {LOST}
    assert found.latencies_ms(ok=False) == []


async def test_request_on_a_connection_closed_while_idle_is_sent_again() -> None:
    def answer_and_close(server: Server) -> None:
        server.transport.write(OK)
        server.transport.close()

    found = await load(answer_and_close, max_connections=2)
    assert set(found.statuses()) == {200}


async def test_request_on_a_connection_closed_before_its_first_one_is_sent_again() -> None:
    closed = iter(range(3))
    found = await load(
        lambda server: answer(server) if next(closed, None) is None else server.transport.close(), open_first=5
    )
    assert set(found.statuses()) == {200}
    assert next(closed, None) is None


async def test_refused_connection_is_a_lost_request() -> None:
    async with served(answer) as address:
        pass
    found = await open_loop(address, [b"x"], rate_per_s=100.0, seconds=0.1)
    assert set(found.statuses()) == {LOST}


def result(seconds: float, *replies: tuple[float, float, int]) -> OpenLoopResult:
    found = OpenLoopResult(rate_per_s=1.0, seconds=seconds)
    for due_s, latency_ms, status in replies:
        found.add(due_s, latency_ms, status)
    return found


def test_goodput_counts_200s_that_arrive_before_the_end() -> None:
    found = result(2.0, (0.5, 10.0, 200), (1.9, 50.0, 200), (1.9, 200.0, 200), (1.0, 1.0, 429))
    assert found.summary()["goodput_per_s"] == 2 / 2.0
