"""open_loop.py: arrivals by a seed, latency from the moment a request was due, refusals apart from answers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from random import Random
from statistics import median
from typing import Any

import pytest

from loadtest import open_loop
from loadtest.open_loop import LOST, Arrivals, arrivals, drive_open
from loadtest.wire import Address

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
BUSY = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\n{}"


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_loop, "WARMUP_S", 0.02)
    monkeypatch.setattr(open_loop, "LAST_ANSWER_S", 0.3)


class Server(asyncio.Protocol):
    """Does with each request what `act` says."""

    def __init__(self, act: Callable[["Server"], None], all_of_them: list[Any]) -> None:
        self.act, self.all_of_them = act, all_of_them

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.all_of_them.append(transport)

    def data_received(self, data: bytes) -> None:
        self.act(self)


@asynccontextmanager
async def served(act: Callable[[Server], None]) -> AsyncIterator[Address]:
    transports: list[Any] = []
    server = await asyncio.get_running_loop().create_server(lambda: Server(act, transports), "127.0.0.1", 0)
    try:
        yield Address(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for transport in transports:
            transport.abort()
        await asyncio.sleep(0.01)


async def load(act: Callable[[Server], None], *, rate_per_s: float = 300.0, **more: Any) -> Arrivals:
    async with served(act) as address:
        return await drive_open(address, [b"x"], rate_per_s=rate_per_s, seconds=0.3, **more)


def answer(server: Server) -> None:
    server.transport.write(OK)


def test_the_same_seed_gives_the_same_arrivals_at_the_rate() -> None:
    times = list(islice(arrivals(50.0, Random(1)), 5000))
    assert times == list(islice(arrivals(50.0, Random(1)), 5000))
    assert times != list(islice(arrivals(50.0, Random(2)), 5000))
    assert times[-1] == pytest.approx(100.0, rel=0.1)


async def test_every_request_that_was_due_is_counted() -> None:
    seen = await load(answer)
    assert seen.statuses() == {200: len(seen.status)}
    assert 50 < len(seen.status) < 150
    assert seen.unanswered == 0
    assert 0 <= seen.summary()["client_late_ms"] < median(seen.latency_ms)
    assert all(0 <= due_s < 0.3 for due_s in seen.due_s)


async def test_waiting_for_a_connection_counts_as_latency() -> None:
    # 10 ms an answer and one connection: a closed loop would see 10 ms for ever, while the queue grows.
    seen = await load(lambda server: slowly(server, 0.01), most=1)
    assert seen.connections == 1
    assert median(seen.latency_ms) > 50


def slowly(server: Server, seconds: float) -> None:
    asyncio.get_running_loop().call_later(seconds, server.transport.write, OK)


async def test_connections_are_opened_as_needed_up_to_the_most() -> None:
    seen = await load(lambda server: slowly(server, 0.05), most=5)
    assert seen.connections == 5


async def test_refusals_are_counted_apart() -> None:
    turns: Iterator[bytes] = iter([OK, BUSY] * 10_000)
    seen = await load(lambda server: server.transport.write(next(turns)))
    found = seen.summary()
    assert found["statuses"].keys() == {"200", "429"}
    assert len(seen.latencies_ms(ok=True)) + len(seen.latencies_ms(ok=False)) == len(seen.status)
    assert found["refused"]["p50_ms"] > 0


def test_goodput_counts_answers_in_time_only() -> None:
    seen = Arrivals(rate_per_s=3.0, seconds=2.0)
    for due_s, latency_ms, status in ((0.5, 10.0, 200), (1.9, 50.0, 200), (1.9, 200.0, 200), (1.0, 1.0, 429)):
        seen.note(due_s, latency_ms, status)
    assert seen.summary()["goodput_per_s"] == 2 / 2.0


async def test_connections_can_be_open_before_the_first_request() -> None:
    seen = await load(answer, rate_per_s=10.0, opened=7)
    assert seen.connections == 7
    assert set(seen.statuses()) <= {200}


async def test_what_is_never_answered_is_counted() -> None:
    seen = await load(lambda server: None)
    assert len(seen.status) == 0
    assert seen.unanswered > 50
    assert seen.summary()["ok"] is None


async def test_a_connection_that_ends_before_its_answer_is_a_lost_request() -> None:
    seen = await load(lambda server: server.transport.close())
    assert set(seen.statuses()) == {LOST}
    assert seen.latencies_ms(ok=False) == []


async def test_a_connection_closed_while_it_was_idle_loses_nothing() -> None:
    def once(server: Server) -> None:
        server.transport.write(OK)
        server.transport.close()

    seen = await load(once, most=2)
    assert set(seen.statuses()) == {200}


async def test_a_connection_closed_before_its_first_request_loses_nothing() -> None:
    closed = iter(range(3))
    seen = await load(
        lambda server: answer(server) if next(closed, None) is None else server.transport.close(), opened=5
    )
    assert set(seen.statuses()) == {200}
    assert next(closed, None) is None


async def test_nobody_there_is_a_lost_request_too() -> None:
    async with served(answer) as address:
        pass
    seen = await drive_open(address, [b"x"], rate_per_s=100.0, seconds=0.1)
    assert set(seen.statuses()) == {LOST}


def test_seconds_are_those_in_which_answers_came() -> None:
    seen = Arrivals(rate_per_s=2.0, seconds=2.0)
    for due_s, latency_ms, status in ((0.1, 10.0, 200), (0.2, 20.0, 200), (0.5, 600.0, 200), (1.0, 5.0, 503)):
        seen.note(due_s, latency_ms, status)
    first, second = seen.per_second()
    assert (first.goodput, first.refused, first.p50_ms, first.p99_ms) == (2, 0, 10.0, 20.0)
    assert (second.goodput, second.refused, second.p50_ms) == (1, 1, 600.0)


def test_an_answer_after_the_end_is_no_goodput() -> None:
    seen = Arrivals(rate_per_s=1.0, seconds=1.0)
    seen.note(0.5, 400.0, 200)
    seen.note(0.5, 600.0, 200)
    assert seen.summary()["goodput_per_s"] == 1.0
