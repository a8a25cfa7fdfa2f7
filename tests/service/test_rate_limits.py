"""Rate limits: what a client may send, in each store."""

import asyncio
import multiprocessing
import shutil
import subprocess
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from limits import RateLimitItemPerDay

from service.errors import RateLimited
from service.rate_limits import (
    COUNTERS_MAX,
    OUTAGE_PAUSE_S,
    RateLimiter,
    RateLimitPolicy,
    RateLimitStatus,
    parse_rate,
    shared_store,
)
from tests.support.bentoml_server import free_port
from tests.support.polling import wait_until


class Clock:
    now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


def policy(rate: str = "", day_requests: int | None = None) -> RateLimitPolicy:
    return RateLimitPolicy(rate=parse_rate(rate), day=RateLimitItemPerDay(day_requests) if day_requests else None)


class Client:
    """A client of a rate limiter whose clock the test moves."""

    def __init__(self, rate: str = "", day_requests: int | None = None) -> None:
        self.clock = Clock()
        self.limiter = RateLimiter(clock=self.clock)
        self.policy = policy(rate, day_requests)

    async def count(self) -> tuple[list[RateLimitStatus], RateLimited | None]:
        return await self.limiter.count("client", self.policy)

    async def allowed(self, requests: int) -> int:
        return sum([(await self.count())[1] is None for _ in range(requests)])


async def test_a_window_ends_after_its_first_request() -> None:
    client = Client("60/min")
    assert await client.allowed(61) == 60
    client.clock.now_s += 59
    _, refused = await client.count()
    assert refused is not None
    assert refused.details == {"policy": "rate", "limit": 60, "retry_after_s": 1.0}
    client.clock.now_s += 1
    assert await client.allowed(61) == 60


async def test_refused_requests_do_not_extend_the_window() -> None:
    client = Client("1/s")
    assert await client.allowed(100) == 1
    client.clock.now_s += 1
    assert await client.allowed(1) == 1


async def test_requests_that_were_not_sent_are_not_saved_up() -> None:
    client = Client("2/s")
    await client.allowed(1)
    client.clock.now_s += 3600
    assert await client.allowed(3) == 2


async def test_a_day_has_its_own_limit() -> None:
    client = Client(day_requests=2)
    assert await client.allowed(3) == 2
    _, refused = await client.count()
    assert refused is not None
    assert refused.details == {"policy": "day", "limit": 2, "retry_after_s": 86_400.0}
    client.clock.now_s += 86_400
    assert await client.allowed(1) == 1


async def test_a_request_over_its_rate_does_not_count_against_the_day() -> None:
    client = Client("1/s", day_requests=5)
    for _ in range(5):
        assert await client.allowed(3) == 1
        client.clock.now_s += 1
    assert await client.allowed(3) == 0


async def test_the_status_says_what_is_left() -> None:
    client = Client("10/s", day_requests=100)
    await client.allowed(3)
    client.clock.now_s += 0.25
    statuses, _ = await client.count()
    assert statuses == [
        RateLimitStatus(policy="rate", count=10, window_s=1, remaining=6, reset_s=0.75),
        RateLimitStatus(policy="day", count=100, window_s=86_400, remaining=96, reset_s=86_399.75),
    ]


async def test_clients_are_counted_apart() -> None:
    limiter = RateLimiter()
    for client in ("10.0.0.1", "10.0.0.2", "key alice"):
        assert [(await limiter.count(client, policy("1/h")))[1] is None for _ in range(2)] == [True, False]


async def test_many_clients_do_not_fill_the_memory() -> None:
    clock = Clock()
    limiter = RateLimiter(clock=clock)
    await limiter.count("first", policy("1/h"))
    clock.now_s += 1
    for number in range(COUNTERS_MAX + 2000):
        await limiter.count(f"client {number}", policy("1/h"))
    assert (await limiter.count("first", policy("1/h")))[1] is None  # forgotten
    assert (await limiter.count(f"client {COUNTERS_MAX + 1999}", policy("1/h")))[1] is not None


@pytest.mark.parametrize("text", ["0/s", "1/day", "fast", "1 / s", "-1/s", "1/s "])
def test_a_bad_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="rate"):
        parse_rate(text)


def count_in_a_process(store: str, requests: int, results: "Connection") -> None:
    async def count() -> int:
        limiter = RateLimiter(store)
        answers = [await limiter.count("client", policy("50/h", 1000)) for _ in range(requests)]
        return sum(refused is None for _, refused in answers)

    results.send(asyncio.run(count()))


def allowed_by(store: str, *, processes: int = 4, requests: int = 40) -> int:
    """Count requests of one client in several processes at once; return how many passed."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    workers = [context.Process(target=count_in_a_process, args=(store, requests, send)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    return sum(receive.recv() for _ in workers)


def test_workers_together_enforce_exactly_the_limit() -> None:
    store, folder = shared_store()
    with folder:
        assert allowed_by(store) == 50


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not installed")
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen([server, *options], stdout=subprocess.DEVNULL)
    try:
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def reachable(store: str) -> bool:
    try:
        RateLimiter(store).check()
    except ConnectionError:
        return False
    return True


def test_replicas_with_one_redis_together_enforce_exactly_the_limit(redis: str) -> None:
    wait_until(lambda: reachable(redis))
    assert allowed_by(redis) == 50


async def test_a_redis_counts_in_windows_and_says_what_is_left(redis: str) -> None:
    wait_until(lambda: reachable(redis))
    limiter = RateLimiter(redis, clock=time.time)
    for remaining in (1, 0):
        (status,), refused = await limiter.count("client", policy("2/h"))
        assert (status.remaining, refused) == (remaining, None)
        assert 3590 < status.reset_s <= 3600
    assert (await limiter.count("client", policy("2/h")))[1] is not None


async def test_while_its_redis_fails_a_service_lets_requests_pass_and_does_not_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    attempts = 0

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0)
    port, clock = server.sockets[0].getsockname()[1], Clock()
    async with server:
        limiter = RateLimiter(f"redis://127.0.0.1:{port}", clock=clock)
        assert await limiter.count("client", policy("1/h")) == ([], None)
        tried = attempts
        for _ in range(3):
            assert await limiter.count("client", policy("1/h")) == ([], None)
        assert (attempts, len(caplog.records)) == (tried, 1)
        clock.now_s += OUTAGE_PAUSE_S
        await limiter.count("client", policy("1/h"))
        assert attempts > tried
