"""An open loop: requests at the times of a Poisson process, whether or not the service keeps up.

Latency counts from the moment that a request was due, not from when a connection was free for it: a service that
falls behind cannot hide it by slowing its clients down (coordinated omission). As cheap as closed_loop.py, and like
it knows statuses and lengths only. Connections are kept alive and opened as needed, at most `most` of them, since
files and ports have an end: a request that finds all of them busy waits here, and its clock runs.
"""

import asyncio
import resource
import statistics
import time
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from loadtest.closed_loop import WARMUP_S, Answer
from loadtest.report import percentile
from loadtest.wire import Address

MOST_CONNECTIONS = 4096
LAST_ANSWER_S = 10.0  # after the last request; what has not been answered then counts as unanswered
# The loop's timers tick in milliseconds: a request is sent up to so much late, and its clock runs. Asking for the time
# again and again would be in time, but keeps a core busy: a virtual machine that may not have all of its cores all the
# time is then stopped for tenths of a second (seen: 100 to 500 ms, every few seconds), and that is what is measured.
TICK_S = 0.001
# Of the requests that are due already, when this client itself is late: then it reads what was answered.
SENT_AT_ONCE = 8
# What stands for no answer at all among the statuses.
LOST = 0


@dataclass(frozen=True, kw_only=True)
class Second:
    """What was answered in one second of the load; percentiles are those of the 200s."""

    second: int
    goodput: int  # 200s
    refused: int  # other statuses
    p50_ms: float | None
    p99_ms: float | None


@dataclass(kw_only=True)
class Arrivals:
    """Every request that was due in the measured time and its end, in the order of the answers."""

    rate_per_s: float
    seconds: float
    due_s: "array[float]" = field(default_factory=lambda: array("d"))  # since the measured time began
    latency_ms: "array[float]" = field(default_factory=lambda: array("d"))
    status: "array[int]" = field(default_factory=lambda: array("i"))
    late_ms: "array[float]" = field(default_factory=lambda: array("d"))  # by how much this client sent too late
    unanswered: int = 0  # still under way, or waiting for a connection, LAST_ANSWER_S after the end
    connections: int = 0  # that were open at once

    def note(self, due_s: float, latency_ms: float, status: int) -> None:
        self.due_s.append(due_s)
        self.latency_ms.append(latency_ms)
        self.status.append(status)

    def statuses(self) -> dict[int, int]:
        """How often each status came; LOST is a connection that ended before its answer."""
        return {status: self.status.count(status) for status in sorted(set(self.status))}

    def latencies_ms(self, *, ok: bool) -> list[float]:
        """In ascending order: of the 200s, or of the refusals (every other answer)."""
        pairs = zip(self.status, self.latency_ms, strict=True)
        return sorted(ms for status, ms in pairs if status != LOST and (status == 200) == ok)

    def per_second(self) -> list[Second]:
        """By the second in which the answer came, those after the end included; seconds without answers too."""
        good: dict[int, list[float]] = {}
        refused: dict[int, int] = {}
        for due_s, ms, status in zip(self.due_s, self.latency_ms, self.status, strict=True):
            second = int(due_s + ms / 1000)
            if status == 200:
                good.setdefault(second, []).append(ms)
            else:
                refused[second] = refused.get(second, 0) + 1
        last = max([*good, *refused], default=-1)
        return [_second(second, sorted(good.get(second, [])), refused.get(second, 0)) for second in range(last + 1)]

    def summary(self) -> dict[str, Any]:
        """For a file: goodput, percentiles apart for 200s and refusals, statuses, what was never answered.

        Goodput is what was answered with 200 while the load lasted: answers to a backlog after its end are none.
        """
        in_time = sum(
            status == 200 and due_s + ms / 1000 < self.seconds
            for due_s, ms, status in zip(self.due_s, self.latency_ms, self.status, strict=True)
        )
        return {
            "rate_per_s": self.rate_per_s,
            "seconds": self.seconds,
            "goodput_per_s": in_time / self.seconds,
            "ok": percentiles(self.latencies_ms(ok=True)),
            "refused": percentiles(self.latencies_ms(ok=False)),
            "statuses": {str(status): count for status, count in self.statuses().items()},
            "unanswered": self.unanswered,
            "connections": self.connections,
            # A part of every latency above: where they are short, of the difference between two percentiles as well.
            "client_late_ms": statistics.median(self.late_ms) if self.late_ms else None,
        }


def percentiles(ordered: Sequence[float]) -> dict[str, float] | None:
    """p50, p90, p99, p99.9 and the highest; None of no values."""
    if not ordered:
        return None
    found = {f"p{percent:g}_ms": percentile(ordered, percent) for percent in (50, 90, 99, 99.9)}
    return {**found, "max_ms": ordered[-1]}


def _second(second: int, good: Sequence[float], refused: int) -> Second:
    p50_ms, p99_ms = (percentile(good, percent) if good else None for percent in (50, 99))
    return Second(second=second, goodput=len(good), refused=refused, p50_ms=p50_ms, p99_ms=p99_ms)


class _Connection(asyncio.Protocol):
    """One connection: idle, or with one request under way."""

    def __init__(self, load: "_Load") -> None:
        self._load = load
        self._answer = Answer()
        self._due_s: float | None = None
        self.kept = False  # was open before this request: the service may be closing it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def send(self, due_s: float, request: bytes) -> None:
        self._due_s, self._request = due_s, request
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        status = self._answer.feed(data)
        if status is None:
            return
        self.kept = True
        due_s, self._due_s = self._due_s, None
        if due_s is not None:  # not an answer that nobody asked for, such as 408 before an idle connection is closed
            self._load.ended(due_s, status)
            if not self._transport.is_closing():
                self._load.free(self)

    def connection_lost(self, error: Exception | None) -> None:
        due_s, self._due_s = self._due_s, None
        # A server may close an idle connection, used or not, while a request is on its way: clients send it again.
        again = due_s is not None and self.kept and not self._answer.data
        self._load.gone(self, due_s, self._request if again else None)

    def close(self) -> None:
        self._due_s = None  # what was under way has been counted as unanswered
        self._transport.close()


class _Load:
    """The pool and the requests that wait for it."""

    def __init__(self, address: Address, requests: Sequence[bytes], seen: Arrivals, most: int) -> None:
        self._address, self._requests, self._seen, self._most = address, requests, seen, most
        self._next = 0
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._waiting: deque[tuple[float, bytes]] = deque()
        self.begin_s = 0.0  # of what is measured
        self.under_way = 0  # sent or waiting

    def due(self, due_s: float) -> None:
        """A request whose time has come."""
        request = self._requests[self._next]
        self._next = (self._next + 1) % len(self._requests)
        self.under_way += 1
        self._start(due_s, request)

    def _start(self, due_s: float, request: bytes) -> None:
        if self._idle:
            self._idle.pop().send(due_s, request)
            return
        self._waiting.append((due_s, request))
        count = len(self._open) + len(self._opening)
        if count < self._most:
            task = asyncio.get_running_loop().create_task(self._connect())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
            self._seen.connections = max(self._seen.connections, count + 1)

    async def open(self, count: int) -> None:
        """Open so many connections, one after the other. Raises OSError."""
        for _ in range(count):
            self.free(await self._reach())
        self._seen.connections = len(self._open)

    async def _connect(self) -> None:
        try:
            self.free(await self._reach())
        except OSError:
            if self._waiting:
                self.ended(self._waiting.popleft()[0], LOST)

    async def _reach(self) -> _Connection:
        connection = _Connection(self)
        await asyncio.get_running_loop().create_connection(lambda: connection, self._address.host, self._address.port)
        self._open.add(connection)
        return connection

    def free(self, connection: _Connection) -> None:
        if self._waiting:
            connection.send(*self._waiting.popleft())
        else:
            connection.kept = True
            self._idle.append(connection)

    def ended(self, due_s: float, status: int) -> None:
        self.under_way -= 1
        at_s = due_s - self.begin_s
        if 0 <= at_s < self._seen.seconds:
            self._seen.note(at_s, (time.perf_counter() - due_s) * 1000, status)

    def gone(self, connection: _Connection, due_s: float | None, again: bytes | None) -> None:
        self._open.discard(connection)
        if due_s is None:
            if connection in self._idle:
                self._idle.remove(connection)
        elif again is not None:
            self._start(due_s, again)
        else:
            self.ended(due_s, LOST)

    async def close(self) -> None:
        for task in self._opening:
            task.cancel()
        for connection in list(self._open):
            connection.close()
        await asyncio.sleep(0)


def allow_connections() -> None:
    """Raise the limit of open files as far as is needed and allowed; servers started afterwards inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MOST_CONNECTIONS
    if soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )


def arrivals(rate_per_s: float, random: Random) -> Iterator[float]:
    """Times of a Poisson process, in seconds from 0, without end."""
    at_s = 0.0
    while True:
        at_s += random.expovariate(rate_per_s)
        yield at_s


async def drive_open(
    address: Address,
    requests: Sequence[bytes],
    *,
    rate_per_s: float,
    seconds: float,
    seed: int = 0,
    most: int = MOST_CONNECTIONS,
    opened: int = 0,
) -> Arrivals:
    """Send for WARMUP_S, then measure what is due in `seconds`; the same seed gives the same times.

    `opened` connections are open before the first request, as those of a pool are. OSError where they cannot be.
    """
    seen = Arrivals(rate_per_s=rate_per_s, seconds=seconds)
    load = _Load(address, requests, seen, most)
    await load.open(opened)
    start_s = time.perf_counter()
    load.begin_s = begin_s = start_s + WARMUP_S
    end_s = begin_s + seconds
    sent = 0  # since answers were last read
    for after_s in arrivals(rate_per_s, Random(f"open {seed}")):
        due_s = start_s + after_s
        if due_s >= end_s:
            break
        while (left_s := due_s - time.perf_counter()) > 0:
            await asyncio.sleep(max(left_s, TICK_S))
            sent = 0
        if sent == SENT_AT_ONCE:
            await asyncio.sleep(0)
            sent = 0
        load.due(due_s)
        seen.late_ms.append((time.perf_counter() - due_s) * 1000)
        sent += 1
    last_s = end_s + LAST_ANSWER_S
    while load.under_way and time.perf_counter() < last_s:
        await asyncio.sleep(0.01)
    seen.unanswered = load.under_way
    await load.close()
    return seen
