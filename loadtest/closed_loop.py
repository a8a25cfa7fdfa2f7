"""A closed loop over keep-alive connections, cheap enough not to be what is measured.

Each connection sends its next request when it has the answer to the last. Requests are bytes made beforehand and of
an answer only its status and length are read: one core of this drives several times what a Python service gives,
which `measure_ceiling` shows on the machine at hand, against a server that answers without thinking.
"""

import asyncio
import multiprocessing
import os
import socket
import time
from array import array
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from typing import Any, TypeVar

from loadtest.report import percentile
from loadtest.wire import Address

try:
    from uvloop import new_event_loop
except ImportError:  # a convenience: the loop of the standard library is about half as fast
    from asyncio import new_event_loop  # type: ignore[assignment]

WARMUP_S = 1.0
LAST_ANSWER_S = 30.0
T = TypeVar("T")


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on the fastest event loop there is."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


@dataclass(kw_only=True)
class Drive:
    """What one closed loop has seen between its warm-up and its end; the connections write into it."""

    seconds: float
    answers: int = 0  # of the warm-up and of the last requests, too: what the server's CPU time was spent on
    statuses: Counter[int] = field(default_factory=Counter)
    latencies_ms: "array[float]" = field(default_factory=lambda: array("d"))

    @property
    def per_s(self) -> float:
        return len(self.latencies_ms) / self.seconds

    @property
    def failed(self) -> int:
        """Answers other than 200, and connections that were lost (status 0)."""
        return sum(count for status, count in self.statuses.items() if status != 200)

    def percentile_ms(self, percent: float) -> float:
        """Of at least one answer."""
        return percentile(sorted(self.latencies_ms), percent)


class _Client(asyncio.Protocol):
    """One connection: next request, answer, next request, until `end_s` of the loop's clock."""

    def __init__(self, requests: Sequence[bytes], drive: Drive, begin_s: float, end_s: float) -> None:
        self._requests, self._next, self._drive = requests, 0, drive
        self._begin_s, self._end_s = begin_s, end_s
        self._answer = Answer()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._send()

    def _send(self) -> None:
        request = self._requests[self._next]
        self._next = (self._next + 1) % len(self._requests)
        self._sent_s = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        status = self._answer.feed(data)
        if status is None:
            return
        self._drive.answers += 1
        now_s = time.perf_counter()
        if self._begin_s <= now_s < self._end_s:
            self._drive.statuses[status] += 1
            self._drive.latencies_ms.append((now_s - self._sent_s) * 1000)
        if now_s < self._end_s:
            self._send()
        else:
            self._finish()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():  # in the middle of an answer: that request has failed, and this connection's load ends
            self._drive.statuses[0] += 1
            self._finish()

    def _finish(self) -> None:
        self.done.set_result(None)
        self._transport.close()


class Answer:
    """What has come of an answer."""

    def __init__(self) -> None:
        self.data = b""

    def feed(self, data: bytes) -> int | None:
        """The status once it is whole, and the next one begins; None before."""
        self.data = self.data + data if self.data else data
        status = answered(self.data)
        if status is not None:
            self.data = b""
        return status


def answered(data: bytes) -> int | None:
    """The status once `data` holds a whole answer, None before; ValueError for an answer that hides its length."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = data[:end].lower()
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        raise ValueError("an answer without content-length: this client cannot tell where it ends")
    length = int(head[at + 17 :].split(b"\r\n", 1)[0])
    return int(head[9:12]) if len(data) >= end + 4 + length else None


async def drive(address: Address, requests: Sequence[bytes], *, connections: int, seconds: float) -> Drive:
    """Ask for WARMUP_S, then measure for `seconds`; each connection starts elsewhere in `requests`.

    OSError where the service cannot be connected to.
    """
    loop = asyncio.get_running_loop()
    result = Drive(seconds=seconds)
    begin_s = time.perf_counter() + WARMUP_S
    clients = []
    for number in range(connections):
        start = number * len(requests) // connections
        turned = [*requests[start:], *requests[:start]]
        client = _Client(turned, result, begin_s, begin_s + seconds)
        await loop.create_connection(lambda client=client: client, address.host, address.port)  # type: ignore[misc]
        clients.append(client)
    _, late = await asyncio.wait([client.done for client in clients], timeout=WARMUP_S + seconds + LAST_ANSWER_S)
    result.statuses[0] += len(late)  # never answered
    return result


class _Trivial(asyncio.Protocol):
    """Answers every read with the same bytes: a closed loop has one request at a time on a connection."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._answer)


def _serve_trivially(pipe: Pipe, answer: bytes, core: int | None) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: _Trivial(answer), "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(_wait_closed, pipe)
        server.close()

    if core is not None:
        os.sched_setaffinity(0, {core})
    run_loop(serve())


def _wait_closed(pipe: Pipe) -> None:
    try:
        pipe.recv()
    except EOFError:
        return


def measure_ceiling(
    requests: Sequence[bytes], *, connections: int, seconds: float, core: int | None, answer_bytes: int
) -> Drive:
    """What this client can do at all: the same requests to a server on `core` that returns `answer_bytes` at once."""
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (answer_bytes, b" " * answer_bytes)
    context = multiprocessing.get_context("spawn")  # a fork would take this process's threads and loops along
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve_trivially, args=(theirs, answer, core), daemon=True)
    process.start()
    try:
        theirs.close()
        if not ours.poll(30.0):
            raise ConnectionError("the trivial server did not start in 30 s")
        address = Address(host="127.0.0.1", port=ours.recv())
        return run_loop(drive(address, requests, connections=connections, seconds=seconds))
    finally:
        ours.close()
        process.join(5.0)
        process.kill()
        process.join()


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
