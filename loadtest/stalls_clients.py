"""Clients that a service can do without: they stall, hang up anywhere, or send and read a byte a second.

Each kind is one visit; a crowd of them visits again and again. Knows bytes and sockets, and nothing of answers.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from random import Random

from loadtest.closed_loop import run_loop
from loadtest.wire import Address, Connection

HOLD_S = (2.0, 20.0)  # for how long a stalled client keeps its connection
BETWEEN_S = (1.0, 4.0)  # a hung-up client comes back after
BYTE_S = 1.0
SMALL_BUFFER_BYTES = 1024  # of a slow reader: or its kernel would take the answer
ANSWER_BYTES = 4000  # a client that hangs up in an answer has read fewer


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The requests of which the clients send all or a part. None where the service has no such route."""

    address: Address
    plain: bytes
    stream: bytes | None
    socket: bytes | None  # the handshake of a websocket, and frames behind it


Visit = Callable[[Asked, bytes, Random], Awaitable[None]]


async def stall_in_head(asked: Asked, request: bytes, random: Random) -> None:
    await _stall(asked, request[: random.randrange(1, request.index(b"\r\n\r\n") + 4)], random)


async def stall_in_body(asked: Asked, request: bytes, random: Random) -> None:
    body = request.index(b"\r\n\r\n") + 4
    await _stall(asked, request[: random.randrange(body, len(request))], random)


async def _stall(asked: Asked, part: bytes, random: Random) -> None:
    connection = await Connection.open(asked.address)
    try:
        await connection.send(part)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(random.uniform(*HOLD_S)):
                while await connection.receive():  # until the service has had enough
                    pass
    finally:
        connection.close(reset=random.random() < 0.5)


async def hang_up_in_request(asked: Asked, request: bytes, random: Random) -> None:
    connection = await Connection.open(asked.address)
    try:
        await connection.send(request[: random.randrange(1, len(request))])
    finally:
        connection.close(reset=random.random() < 0.5)


async def hang_up_in_answer(asked: Asked, request: bytes, random: Random) -> None:
    connection = await Connection.open(asked.address)
    left = random.randrange(ANSWER_BYTES)
    try:
        await connection.send(request)
        async with asyncio.timeout(HOLD_S[1]):
            while left > 0 and (block := await connection.receive(left)):
                left -= len(block)
    finally:
        connection.close(reset=random.random() < 0.5)


async def send_by_the_byte(asked: Asked, request: bytes, random: Random) -> None:
    connection = await Connection.open(asked.address)
    try:
        for at in range(len(request)):
            await connection.send(request[at : at + 1])
            await asyncio.sleep(BYTE_S)
    finally:
        connection.close()


async def read_by_the_byte(asked: Asked, request: bytes, random: Random) -> None:
    connection = await Connection.open(asked.address, buffer_bytes=SMALL_BUFFER_BYTES)
    try:
        await connection.send(request)
        while await connection.receive(1):
            await asyncio.sleep(BYTE_S)
    finally:
        connection.close()


def kinds(asked: Asked) -> Mapping[str, tuple[Visit, bytes]]:
    """Every kind that this service can be visited by, and the request of which it sends a part."""
    found: dict[str, tuple[Visit, bytes]] = {
        "stall in the head": (stall_in_head, asked.plain),
        "stall in the body": (stall_in_body, asked.plain),
        "hang up in the request": (hang_up_in_request, asked.plain),
        "hang up in the answer": (hang_up_in_answer, asked.plain),
        "send a byte a second": (send_by_the_byte, asked.plain),
        "read a byte a second": (read_by_the_byte, asked.stream or asked.plain),
    }
    if asked.stream:
        found["hang up in the stream"] = (hang_up_in_answer, asked.stream)
    if asked.socket:
        found["hang up in the websocket's frames"] = (hang_up_in_request, asked.socket)
        found["hang up in the websocket's answers"] = (hang_up_in_answer, asked.socket)
        found["stall in the websocket"] = (stall_in_body, asked.socket)
    return found


def crowd(pipe: Pipe, asked: Asked, count: int, seed: int, arrive_s: float) -> None:
    """In a process of its own: visit until something comes through `pipe`, then send back how often each kind has.

    They arrive within `arrive_s`, not all at once: some of them ask for work, and a burst of work is another test.
    """
    run_loop(_crowd(pipe, asked, count, seed, arrive_s))


async def _crowd(pipe: Pipe, asked: Asked, count: int, seed: int, arrive_s: float) -> None:
    visits: Counter[str] = Counter()
    there = list(kinds(asked).items())
    tasks = [
        asyncio.create_task(
            _come_again(asked, *there[number % len(there)], Random(f"{seed} {number}"), visits, arrive_s)
        )
        for number in range(count)
    ]
    await asyncio.to_thread(pipe.recv)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    pipe.send(visits)


async def _come_again(
    asked: Asked, name: str, how: tuple[Visit, bytes], random: Random, visits: Counter[str], arrive_s: float
) -> None:
    visit, request = how
    await asyncio.sleep(random.uniform(0.0, arrive_s))
    while True:
        visits[name] += 1
        # To be thrown out is what such a client has to expect.
        with contextlib.suppress(OSError, TimeoutError):
            await visit(asked, request, random)
        await asyncio.sleep(random.uniform(*BETWEEN_S))
