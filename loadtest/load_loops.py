"""Closed and open loops over keep-alive connections, cheap enough not to dominate the measurement.

In a closed loop, each connection sends its next request after the reply to the last. In an open loop, requests follow a
Poisson process, whether or not the service keeps up. Latency counts from the moment a request was due. A slow service
therefore cannot hide queueing by slowing its clients down (coordinated omission).

Requests are bytes encoded in advance. Only the status and the end of a reply are read. One core drives several times
what a Python service serves; `measure_ceiling` shows how much.
"""

import asyncio
import itertools
import math
import multiprocessing
import os
import resource
import statistics
import time
from array import array
from collections import Counter, deque
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from random import Random
from typing import Any, TypeVar

from loadtest.http_client import ServiceAddress

try:
    from uvloop import new_event_loop
except ImportError:  # optional: the standard loop is about half as fast
    from asyncio import new_event_loop  # type: ignore[assignment]

WARMUP_S = 1.0
DRAIN_S = 30.0  # wait this long for the last replies of a closed loop
OPEN_DRAIN_S = 10.0  # the same for an open loop; later replies count as unanswered
MAX_CONNECTIONS = 4096
# Resolution of the event loop's timers. Polling the clock instead would keep the core busy, and a shared virtual
# machine then loses its core for 100 to 500 ms every few seconds.
TICK_S = 0.001
# Requests to send in a row when the client is late. Then it reads replies.
SEND_BURST = 8
LOST = 0  # status of a request whose connection closed before its reply
EVENT, LAST_CHUNK = b"data:", b"\r\n0\r\n\r\n"  # 5 and 7 bytes
T = TypeVar("T")


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on uvloop where it is installed."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile of a non-empty list of sorted values."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def percentiles(ordered: Sequence[float]) -> dict[str, float] | None:
    """Return p50, p90, p99, p99.9 and the maximum of sorted values, or None if there are none."""
    if not ordered:
        return None
    found = {f"p{percent:g}_ms": percentile(ordered, percent) for percent in (50, 90, 99, 99.9)}
    return {**found, "max_ms": ordered[-1]}


class ReplyReader:
    """A reader that finds the end of each reply in the bytes of one connection."""

    def __init__(self) -> None:
        self.pending = b""  # bytes of an incomplete reply; of a chunked body only the last few
        self.events = 0  # server-sent events so far
        self._chunked_status = 0

    def feed(self, data: bytes) -> int | None:
        """Return the status when `data` completes a reply, else None.

        Raises ValueError for a reply with neither content-length nor chunks.
        """
        if self._chunked_status:
            return self._feed_chunks(data)
        self.pending = data = self.pending + data if self.pending else data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = data[:end].lower()
        at = head.find(b"\r\ncontent-length:")
        if at < 0:
            if b"\r\ntransfer-encoding: chunked" not in head:
                raise ValueError("a reply has neither content-length nor chunks: its end cannot be found")
            self._chunked_status, self.pending = int(head[9:12]), b""
            return self._feed_chunks(data[end + 2 :])
        length = int(head[at + 17 :].split(b"\r\n", 1)[0])
        if len(data) < end + 4 + length:
            return None
        self.pending = b""
        return int(head[9:12])

    def _feed_chunks(self, data: bytes) -> int | None:
        # A marker may be split between two reads.
        self.events += data.count(EVENT) + (self.pending[-4:] + data[:4]).count(EVENT)
        self.pending = data[-7:] if len(data) >= 7 else (self.pending + data)[-7:]
        if self.pending != LAST_CHUNK:
            return None
        status, self._chunked_status, self.pending = self._chunked_status, 0, b""
        return status


@dataclass(kw_only=True)
class ClosedLoopResult:
    """Replies of one closed loop between its warm-up and its end."""

    seconds: float
    replies: int = 0  # includes the warm-up and the last replies: all that the server's CPU time was spent on
    events: int = 0  # server-sent events
    statuses: Counter[int] = field(default_factory=Counter)
    latencies_ms: "array[float]" = field(default_factory=lambda: array("d"))

    @property
    def per_s(self) -> float:
        return len(self.latencies_ms) / self.seconds

    @property
    def failed(self) -> int:
        """Replies other than 200, and lost connections."""
        return sum(count for status, count in self.statuses.items() if status != 200)

    def percentile_ms(self, percent: float) -> float:
        return percentile(sorted(self.latencies_ms), percent)


class _ClosedLoopClient(asyncio.Protocol):
    """One connection of a closed loop."""

    def __init__(self, requests: Iterator[bytes], result: ClosedLoopResult) -> None:
        self._requests, self._result = requests, result
        self._reader = ReplyReader()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def start(self, begin_s: float, end_s: float) -> None:
        self._begin_s, self._end_s = begin_s, end_s
        self._send()

    def _send(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self._finish()
            return
        self._sent_s = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        status = self._reader.feed(data)
        if status is None:
            return
        self._result.replies += 1
        now_s = time.perf_counter()
        if self._begin_s <= now_s < self._end_s:
            self._result.statuses[status] += 1
            self._result.latencies_ms.append((now_s - self._sent_s) * 1000)
        if now_s < self._end_s:
            self._send()
        else:
            self._finish()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self._result.statuses[LOST] += 1
            self._finish()

    def _finish(self) -> None:
        self._result.events += self._reader.events
        self.done.set_result(None)
        self._transport.close()


async def closed_loop(
    address: ServiceAddress,
    requests: Sequence[bytes],
    *,
    connections: int,
    seconds: float,
    warmup_s: float | None = None,
) -> ClosedLoopResult:
    """Send for `warmup_s`, then measure for `seconds`.

    Each connection starts at another place of `requests` and repeats them. Raises OSError if it cannot connect.
    """
    warmup_s = WARMUP_S if warmup_s is None else warmup_s
    starts = [number * len(requests) // connections for number in range(connections)]
    streams = [itertools.cycle([*requests[start:], *requests[:start]]) for start in starts]
    result = ClosedLoopResult(seconds=seconds)
    await _run_clients(address, streams, result, warmup_s=warmup_s, seconds=seconds, drain_s=DRAIN_S)
    return result


async def send_all(
    address: ServiceAddress, requests: Sequence[bytes], *, connections: int, timeout_s: float
) -> ClosedLoopResult:
    """Send every request once. `seconds` of the result end with the last reply, so no reply is cut by a window."""
    shared = iter(requests)
    result = ClosedLoopResult(seconds=0.0)
    begin_s = await _run_clients(address, [shared] * connections, result, warmup_s=0.0, seconds=timeout_s, drain_s=0.0)
    result.seconds = time.perf_counter() - begin_s
    return result


async def _run_clients(
    address: ServiceAddress,
    streams: Sequence[Iterator[bytes]],
    result: ClosedLoopResult,
    *,
    warmup_s: float,
    seconds: float,
    drain_s: float,
) -> float:
    """Run one connection per stream of requests; return when the first request was sent."""
    loop = asyncio.get_running_loop()
    clients = [_ClosedLoopClient(stream, result) for stream in streams]
    for client in clients:
        await loop.create_connection(lambda client=client: client, address.host, address.port)  # type: ignore[misc]
    start_s = time.perf_counter()
    for client in clients:
        client.start(start_s + warmup_s, start_s + warmup_s + seconds)
    _, late = await asyncio.wait([client.done for client in clients], timeout=warmup_s + seconds + drain_s)
    if late:
        result.statuses[LOST] += len(late)
    return start_s


@dataclass(kw_only=True)
class OpenLoopResult:
    """Requests that were due in the measured time, in the order of their replies."""

    rate_per_s: float
    seconds: float
    due_s: "array[float]" = field(default_factory=lambda: array("d"))  # since the measurement began
    latency_ms: "array[float]" = field(default_factory=lambda: array("d"))
    status: "array[int]" = field(default_factory=lambda: array("i"))
    late_ms: "array[float]" = field(default_factory=lambda: array("d"))  # delay of the client itself
    unanswered: int = 0  # no reply within OPEN_DRAIN_S after the end
    connections: int = 0  # open at once

    def add(self, due_s: float, latency_ms: float, status: int) -> None:
        self.due_s.append(due_s)
        self.latency_ms.append(latency_ms)
        self.status.append(status)

    def statuses(self) -> dict[int, int]:
        return dict(sorted(Counter(self.status).items()))

    def latencies_ms(self, *, ok: bool) -> list[float]:
        """Return sorted latencies, either of status 200 or of refusals."""
        pairs = zip(self.status, self.latency_ms, strict=True)
        return sorted(ms for status, ms in pairs if status != LOST and (status == 200) == ok)

    @property
    def goodput_per_s(self) -> float:
        """Replies with status 200 per second that arrived while the load lasted."""
        in_time = sum(
            status == 200 and due_s + ms / 1000 < self.seconds
            for due_s, ms, status in zip(self.due_s, self.latency_ms, self.status, strict=True)
        )
        return in_time / self.seconds

    def summary(self) -> dict[str, Any]:
        """Return the figures for a JSON report, with 200s and refusals apart."""
        return {
            "rate_per_s": self.rate_per_s,
            "seconds": self.seconds,
            "goodput_per_s": self.goodput_per_s,
            "ok": percentiles(self.latencies_ms(ok=True)),
            "refused": percentiles(self.latencies_ms(ok=False)),
            "statuses": {str(status): count for status, count in self.statuses().items()},
            "unanswered": self.unanswered,
            "connections": self.connections,
            # A part of every latency above, so it matters where latencies are short.
            "client_late_ms": statistics.median(self.late_ms) if self.late_ms else None,
        }


class _OpenLoopConnection(asyncio.Protocol):
    """One connection of the pool, with at most one request in flight."""

    def __init__(self, pool: "_OpenLoopPool") -> None:
        self._pool = pool
        self._reader = ReplyReader()
        self._due_s: float | None = None
        self.reused = False  # open before its request: the service may be closing it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def send(self, due_s: float, request: bytes) -> None:
        self._due_s, self._request = due_s, request
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        status = self._reader.feed(data)
        if status is None:
            return
        self.reused = True
        due_s, self._due_s = self._due_s, None
        if due_s is not None:  # else an unsolicited reply, such as 408 before an idle connection is closed
            self._pool.end_request(due_s, status)
            if not self._transport.is_closing():
                self._pool.release(self)

    def connection_lost(self, error: Exception | None) -> None:
        due_s, self._due_s = self._due_s, None
        # A server may close an idle connection while a request is on its way. HTTP clients send it again.
        again = due_s is not None and self.reused and not self._reader.pending
        self._pool.remove(self, due_s, self._request if again else None)

    def close(self) -> None:
        self._due_s = None  # already counted as unanswered
        self._transport.close()


class _OpenLoopPool:
    """The connections, and the requests that wait for one."""

    def __init__(
        self, address: ServiceAddress, requests: Sequence[bytes], result: OpenLoopResult, max_connections: int
    ) -> None:
        self._address, self._result, self._max_connections = address, result, max_connections
        self._requests = itertools.cycle(requests)
        self._idle: list[_OpenLoopConnection] = []
        self._open: set[_OpenLoopConnection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._waiting: deque[tuple[float, bytes]] = deque()
        self.begin_s = 0.0  # of the measurement
        self.in_flight = 0  # sent or waiting

    def send_next(self, due_s: float) -> None:
        self.in_flight += 1
        self._send(due_s, next(self._requests))

    def _send(self, due_s: float, request: bytes) -> None:
        if self._idle:
            self._idle.pop().send(due_s, request)
            return
        self._waiting.append((due_s, request))
        count = len(self._open) + len(self._opening)
        if count < self._max_connections:
            task = asyncio.get_running_loop().create_task(self._open_one())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
            self._result.connections = max(self._result.connections, count + 1)

    async def open(self, count: int) -> None:
        """Open `count` connections. Raises OSError."""
        for _ in range(count):
            self.release(await self._connect())
        self._result.connections = len(self._open)

    async def _open_one(self) -> None:
        try:
            self.release(await self._connect())
        except OSError:
            if self._waiting:
                self.end_request(self._waiting.popleft()[0], LOST)

    async def _connect(self) -> _OpenLoopConnection:
        connection = _OpenLoopConnection(self)
        await asyncio.get_running_loop().create_connection(lambda: connection, self._address.host, self._address.port)
        self._open.add(connection)
        return connection

    def release(self, connection: _OpenLoopConnection) -> None:
        if self._waiting:
            connection.send(*self._waiting.popleft())
        else:
            connection.reused = True
            self._idle.append(connection)

    def end_request(self, due_s: float, status: int) -> None:
        self.in_flight -= 1
        at_s = due_s - self.begin_s
        if 0 <= at_s < self._result.seconds:
            self._result.add(at_s, (time.perf_counter() - due_s) * 1000, status)

    def remove(self, connection: _OpenLoopConnection, due_s: float | None, again: bytes | None) -> None:
        """Forget a closed connection; send its request `again`, or count it as lost."""
        self._open.discard(connection)
        if due_s is None:
            if connection in self._idle:
                self._idle.remove(connection)
        elif again is not None:
            self._send(due_s, again)
        else:
            self.end_request(due_s, LOST)

    async def close(self) -> None:
        for task in self._opening:
            task.cancel()
        for connection in list(self._open):
            connection.close()
        await asyncio.sleep(0)


def raise_file_limit() -> None:
    """Raise the limit of open files for MAX_CONNECTIONS. Child processes inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MAX_CONNECTIONS
    if soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def poisson_times(rate_per_s: float, random: Random) -> Iterator[float]:
    """Yield arrival times of a Poisson process, in seconds from 0, without end."""
    at_s = 0.0
    while True:
        at_s += random.expovariate(rate_per_s)
        yield at_s


async def open_loop(
    address: ServiceAddress,
    requests: Sequence[bytes],
    *,
    rate_per_s: float,
    seconds: float,
    seed: int = 0,
    max_connections: int = MAX_CONNECTIONS,
    open_first: int = 0,
    warmup_s: float | None = None,
) -> OpenLoopResult:
    """Send for `warmup_s`, then measure the requests that are due in `seconds`. A seed fixes the times.

    `open_first` connections are open before the first request. More are opened as needed. A request that finds all
    `max_connections` busy waits, and its latency grows. Raises OSError if it cannot connect at first.
    """
    warmup_s = WARMUP_S if warmup_s is None else warmup_s
    result = OpenLoopResult(rate_per_s=rate_per_s, seconds=seconds)
    pool = _OpenLoopPool(address, requests, result, max_connections)
    await pool.open(open_first)
    start_s = time.perf_counter()
    pool.begin_s = start_s + warmup_s
    end_s = pool.begin_s + seconds
    sent = 0  # since replies were last read
    for after_s in poisson_times(rate_per_s, Random(f"open {seed}")):
        due_s = start_s + after_s
        if due_s >= end_s:
            break
        while (left_s := due_s - time.perf_counter()) > 0:
            await asyncio.sleep(max(left_s, TICK_S))
            sent = 0
        if sent == SEND_BURST:
            await asyncio.sleep(0)
            sent = 0
        pool.send_next(due_s)
        result.late_ms.append((time.perf_counter() - due_s) * 1000)
        sent += 1
    give_up_s = end_s + OPEN_DRAIN_S
    while pool.in_flight and time.perf_counter() < give_up_s:
        await asyncio.sleep(0.01)
    result.unanswered = pool.in_flight
    await pool.close()
    return result


class _ConstantServer(asyncio.Protocol):
    """A server that answers every read with the same bytes."""

    def __init__(self, reply: bytes) -> None:
        self._reply = reply

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._reply)


def _serve_constant(pipe: Pipe, reply: bytes, core: int | None) -> None:
    def wait_closed() -> None:
        try:
            pipe.recv()
        except EOFError:
            return

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: _ConstantServer(reply), "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(wait_closed)
        server.close()

    if core is not None:
        os.sched_setaffinity(0, {core})
    run_loop(serve())


def measure_ceiling(
    requests: Sequence[bytes], *, connections: int, seconds: float, core: int | None, reply_bytes: int
) -> ClosedLoopResult:
    """Measure this client against a server on `core` that returns `reply_bytes` bytes without any work."""
    reply = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (reply_bytes, b" " * reply_bytes)
    context = multiprocessing.get_context("spawn")  # a fork would copy this process's threads and loops
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve_constant, args=(theirs, reply, core), daemon=True)
    process.start()
    try:
        theirs.close()
        if not ours.poll(DRAIN_S):
            raise ConnectionError(f"the constant server did not start in {DRAIN_S:g} s")
        address = ServiceAddress(host="127.0.0.1", port=ours.recv())
        return run_loop(closed_loop(address, requests, connections=connections, seconds=seconds))
    finally:
        ours.close()
        process.join(5.0)
        process.kill()
        process.join()
