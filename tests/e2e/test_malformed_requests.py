"""Malformed requests among healthy ones: each gets its documented status, and no other request notices.

The full mode mixes them for a minute at one request in ten. The quick mode sends each of them once.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

import pytest

from loadtest import answers, payloads
from loadtest.http_client import ServiceAddress, request_bytes
from loadtest.load_loops import run_loop
from tests.support.live_service import FULL, LiveService
from tests.support.malformed_requests import MalformedRequest, build_malformed
from tests.support.raw_http import RawConnection

SECONDS = 60.0 if FULL else 0.0
SHARE = 0.1 if FULL else 0.5  # of malformed requests
CONNECTIONS = 16
# The service closes idle connections. A connection that has been idle longer is replaced.
IDLE_S = 2.0
HEALTHY = {"tag": 60, "classify": 30, "generate": 15}  # different healthy requests per task


@dataclass(frozen=True, kw_only=True)
class HealthyRequest:
    """A good request, and its answer without any load."""

    request: bytes
    answer: object


@dataclass(kw_only=True)
class MixedLoad:
    """Results of one load. `waiting` holds the malformed requests that have not been sent yet."""

    waiting: list[MalformedRequest]
    kinds: Sequence[MalformedRequest]
    random: Random
    statuses: dict[str, Counter[int | str]] = field(default_factory=lambda: defaultdict(Counter))
    complaints: list[str] = field(default_factory=list)
    healthy: int = 0
    wrong: list[str] = field(default_factory=list)

    def next_malformed(self) -> MalformedRequest | None:
        if not self.waiting and FULL:
            self.waiting = self.random.sample(self.kinds, len(self.kinds))
        return self.waiting.pop() if self.waiting else None


async def reference_answers(service: LiveService, prefix: str) -> list[HealthyRequest]:
    """Send every healthy request alone and check its answer."""
    found = []
    connection = await RawConnection.open(service.address)
    for task in sorted(service.tasks & HEALTHY.keys()):
        for payload in payloads.build(service.models, task, count=HEALTHY[task], seed=0):
            request = request_bytes(service.address, f"{prefix}/{payload.task}", payload.encoded)
            reply = await connection.ask(request)
            assert reply.status == 200, reply.body[:200]
            answers.check(payload, reply.json())
            found.append(HealthyRequest(request=request, answer=reply.json()))
    connection.close()
    return found


async def mixed_load(service: LiveService, prefix: str) -> MixedLoad:
    """Send both kinds of requests at once, then every healthy request alone."""
    healthy = await reference_answers(service, prefix)
    kinds, random = build_malformed(service.address, prefix, service.models), Random(0)
    load = MixedLoad(waiting=random.sample(kinds, len(kinds)), kinds=kinds, random=random)
    end_s = time.monotonic() + SECONDS
    async with asyncio.TaskGroup() as group:
        for number in range(CONNECTIONS):
            group.create_task(client(service.address, healthy, load, Random(number), end_s))
    connection = await RawConnection.open(service.address)
    for one in healthy:
        await ask_healthy(connection, one, load)
    connection.close()
    return load


async def client(
    address: ServiceAddress, healthy: Sequence[HealthyRequest], load: MixedLoad, random: Random, end_s: float
) -> None:
    """Send healthy requests on one connection, and each malformed one on a connection of its own."""
    connection: RawConnection | None = None
    used_s = 0.0
    while load.waiting or time.monotonic() < end_s:
        if random.random() < SHARE:
            if (malformed := load.next_malformed()) is not None:
                await send_malformed(address, malformed, load)
            continue
        if connection is not None and time.monotonic() - used_s > IDLE_S:
            connection.close()
            connection = None
        connection = connection or await RawConnection.open(address)
        if not await ask_healthy(connection, random.choice(healthy), load):
            connection.close()
            connection = None
        used_s = time.monotonic()
    if connection is not None:
        connection.close()


async def ask_healthy(connection: RawConnection, one: HealthyRequest, load: MixedLoad) -> bool:
    """Compare the answer with the reference. Return False if the connection cannot be used again."""
    load.healthy += 1
    try:
        reply = await connection.ask(one.request)
        if reply.status != 200 or reply.json() != one.answer:
            load.wrong.append(f"status {reply.status}, {reply.body[:160]!r} to {one.request[-160:]!r}")
    except (OSError, ValueError) as error:
        load.wrong.append(f"{type(error).__name__}: {error}")
        return False
    return reply.headers.get("connection", "").lower() != "close"


async def send_malformed(address: ServiceAddress, malformed: MalformedRequest, load: MixedLoad) -> None:
    status: int | str
    complaint = ""
    connection = await RawConnection.open(address)
    try:
        if malformed.sent is not None:
            await connection.send(malformed.request[: malformed.sent])
            status = "hung up"
        else:
            reply = await connection.ask(malformed.request)
            status, complaint = reply.status, malformed.complaint(reply)
    except (OSError, ValueError) as error:
        status, complaint = "no answer", f"{type(error).__name__}: {error}"
    finally:
        connection.close(reset=malformed.reset)
    load.statuses[malformed.kind][status] += 1
    if complaint:
        load.complaints.append(f"{malformed.kind} ({malformed.task}): {complaint}")


@pytest.fixture(scope="module", params=["/v1", ""], ids=["native", "bentoml"])
def load(request: pytest.FixtureRequest, live_service: LiveService) -> Iterator[MixedLoad]:
    before = live_service.start_times()
    yield run_loop(mixed_load(live_service, request.param))
    assert live_service.start_times() == before, "a worker has restarted"


def test_malformed_requests_get_their_documented_status(load: MixedLoad) -> None:
    assert load.complaints == []
    assert set(load.statuses) == {kind.kind for kind in load.kinds}


def test_healthy_requests_keep_their_answers(load: MixedLoad) -> None:
    assert load.wrong == []
    assert load.healthy > sum(HEALTHY.values())
