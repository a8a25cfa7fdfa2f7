"""Clients that stall, hang up anywhere, or send and read one byte at a time. Each function is one visit."""

import asyncio
import contextlib
import json
import multiprocessing
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from random import Random

from loadtest.http_client import ServiceAddress, request_bytes
from loadtest.load_loops import run_loop
from tests.support.live_service import LiveService
from tests.support.raw_http import RawConnection, websocket_frame, websocket_handshake

SMALL_BUFFER_BYTES = 1024  # for a slow reader, whose kernel would otherwise accept the whole answer
ANSWER_BYTES = 4000  # a client that hangs up during an answer has read fewer


@dataclass(frozen=True, kw_only=True)
class VisitTiming:
    """How fast the clients are."""

    hold_s: tuple[float, float]  # how long a stalled client keeps its connection
    between_s: tuple[float, float]  # until a client returns
    byte_s: float  # pause after each byte of a slow reader or writer
    arrive_s: float  # all clients arrive within this time


@dataclass(frozen=True, kw_only=True)
class VisitPlan:
    """What the clients send, and how fast. None where the service has no such route."""

    address: ServiceAddress
    plain: bytes
    stream: bytes | None  # a request for server-sent events
    websocket: bytes | None  # a handshake and frames
    timing: VisitTiming


async def visit_plan(service: LiveService, timing: VisitTiming, *, plain_tokens: int, stream_tokens: int) -> VisitPlan:
    """Return a plan for the routes of a service. The tokens are those of a generated text and of an event stream."""
    address, text = service.address, "the king and a good old film "
    task = "generate" if "generate" in service.tasks else min(service.tasks)
    parameters = {"parameters": {"max_new_tokens": plain_tokens}} if task == "generate" else {}
    plain = json.dumps({"inputs": text, **parameters}).encode()
    long = json.dumps({"inputs": text, "parameters": {"max_new_tokens": stream_tokens}}).encode()
    stream = request_bytes(address, "/v1/generate_stream", long)
    opening = websocket_handshake(address, "/v1/stream")
    words = (b"the", b"king", b"and", b"a", b"film") * 40
    frames = b"".join(websocket_frame(b'{"inputs": "%b"}' % word) for word in words)
    return VisitPlan(
        address=address,
        plain=request_bytes(address, f"/v1/{task}", plain),
        stream=stream if await _status(address, stream) == 200 else None,
        websocket=opening + frames if await _status(address, opening) == 101 else None,
        timing=timing,
    )


async def _status(address: ServiceAddress, request: bytes) -> int:
    connection = await RawConnection.open(address)
    try:
        await connection.send(request)
        async with asyncio.timeout(10.0):
            return int((await connection.receive())[9:12])
    finally:
        connection.close()


Visit = Callable[[VisitPlan, bytes, Random], Awaitable[None]]


async def stall_in_head(plan: VisitPlan, request: bytes, random: Random) -> None:
    await _stall(plan, request[: random.randrange(1, request.index(b"\r\n\r\n") + 4)], random)


async def stall_in_body(plan: VisitPlan, request: bytes, random: Random) -> None:
    body = request.index(b"\r\n\r\n") + 4
    await _stall(plan, request[: random.randrange(body, len(request))], random)


async def _stall(plan: VisitPlan, part: bytes, random: Random) -> None:
    connection = await RawConnection.open(plan.address)
    try:
        await connection.send(part)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(random.uniform(*plan.timing.hold_s)):
                while await connection.receive():  # until the service closes it
                    pass
    finally:
        connection.close(reset=random.random() < 0.5)


async def hang_up_in_request(plan: VisitPlan, request: bytes, random: Random) -> None:
    connection = await RawConnection.open(plan.address)
    try:
        await connection.send(request[: random.randrange(1, len(request))])
    finally:
        connection.close(reset=random.random() < 0.5)


async def hang_up_in_answer(plan: VisitPlan, request: bytes, random: Random) -> None:
    connection = await RawConnection.open(plan.address)
    left = random.randrange(ANSWER_BYTES)
    try:
        await connection.send(request)
        async with asyncio.timeout(plan.timing.hold_s[1]):
            while left > 0 and (block := await connection.receive(left)):
                left -= len(block)
    finally:
        connection.close(reset=random.random() < 0.5)


async def send_slowly(plan: VisitPlan, request: bytes, random: Random) -> None:
    connection = await RawConnection.open(plan.address)
    try:
        for at in range(len(request)):
            await connection.send(request[at : at + 1])
            await asyncio.sleep(plan.timing.byte_s)
    finally:
        connection.close()


async def read_slowly(plan: VisitPlan, request: bytes, random: Random) -> None:
    connection = await RawConnection.open(plan.address, buffer_bytes=SMALL_BUFFER_BYTES)
    try:
        await connection.send(request)
        while await connection.receive(1):
            await asyncio.sleep(plan.timing.byte_s)
    finally:
        connection.close()


def visit_kinds(plan: VisitPlan) -> Mapping[str, tuple[Visit, bytes]]:
    """Return every kind of visit that this service allows, with the request to use."""
    found: dict[str, tuple[Visit, bytes]] = {
        "stall in the head": (stall_in_head, plan.plain),
        "stall in the body": (stall_in_body, plan.plain),
        "hang up in the request": (hang_up_in_request, plan.plain),
        "hang up in the answer": (hang_up_in_answer, plan.plain),
        "send slowly": (send_slowly, plan.plain),
        "read slowly": (read_slowly, plan.stream or plan.plain),
    }
    if plan.stream:
        found["hang up in the event stream"] = (hang_up_in_answer, plan.stream)
    if plan.websocket:
        found["hang up in the WebSocket's frames"] = (hang_up_in_request, plan.websocket)
        found["hang up in the WebSocket's answers"] = (hang_up_in_answer, plan.websocket)
        found["stall in the WebSocket"] = (stall_in_body, plan.websocket)
    return found


@contextlib.contextmanager
def slow_clients(plan: VisitPlan, count: int) -> Iterator[Counter[str]]:
    """Run `count` clients in a process of their own, whose CPU time is not the load generator's.

    The counter has the visits of each kind once the block has ended. Raises ConnectionError if the process died.
    """
    visits: Counter[str] = Counter()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run_clients, args=(theirs, plan, count), daemon=True)
    process.start()
    theirs.close()  # else the end of the process would go unnoticed
    try:
        yield visits
        try:
            ours.send("stop")
            visits.update(ours.recv())
        except (OSError, EOFError):
            raise ConnectionError("the process of the slow clients died: nothing was tested") from None
    finally:
        ours.close()
        process.join(5.0)
        process.kill()
        process.join()


def _run_clients(pipe: Pipe, plan: VisitPlan, count: int) -> None:
    run_loop(_visit_until_stopped(pipe, plan, count))


async def _visit_until_stopped(pipe: Pipe, plan: VisitPlan, count: int) -> None:
    visits: Counter[str] = Counter()
    kinds = list(visit_kinds(plan).items())
    tasks = [
        asyncio.create_task(_visit_again(plan, *kinds[number % len(kinds)], Random(number), visits))
        for number in range(count)
    ]
    await asyncio.to_thread(pipe.recv)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    pipe.send(visits)


async def _visit_again(
    plan: VisitPlan, name: str, kind: tuple[Visit, bytes], random: Random, visits: Counter[str]
) -> None:
    visit, request = kind
    await asyncio.sleep(random.uniform(0.0, plan.timing.arrive_s))
    while True:
        visits[name] += 1
        with contextlib.suppress(OSError, TimeoutError):  # the service may close the connection
            await visit(plan, request, random)
        await asyncio.sleep(random.uniform(*plan.timing.between_s))
