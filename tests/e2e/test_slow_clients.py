"""Healthy requests among clients that stall, hang up, or send and read slowly.

Every healthy request is answered, and nothing remains of the others: no slot, no queue, no socket, no file. The full
mode runs 200 such clients for a minute and also checks p99 and memory.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from loadtest import payloads
from loadtest.http_client import request_bytes
from loadtest.load_loops import OpenLoopResult, open_loop, run_loop
from tests.support.live_service import FULL, LiveService, ServiceResources
from tests.support.polling import wait_until
from tests.support.raw_http import RawConnection, websocket_frame, websocket_handshake
from tests.support.slow_clients import VisitPlan, slow_clients, visit_kinds

SECONDS, CLIENTS, RATE_PER_S = (60.0, 200, 200.0) if FULL else (1.5, 24, 40.0)
ARRIVE_S = 10.0 if FULL else 0.3
P99_RATIO = 1.5  # among slow clients over alone
MEMORY_RATIO = 1.1  # caches and arenas may grow a little further
SETTLE_S = 15.0  # the service still has to notice resets, and timers have to expire
NEW_TOKENS = 20  # of a healthy text
# Slow clients request little work. Real work would slow the healthy requests, which is not tested here.
PLAIN_TOKENS = 50
STREAM_TOKENS = 400 if FULL else 200  # more than the buffers of a slow reader hold
GENERATE_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class SlowClientsResult:
    alone: Mapping[str, OpenLoopResult]
    among: Mapping[str, OpenLoopResult]
    before: ServiceResources
    after: ServiceResources
    leaks: list[str]
    visits: Counter[str]
    kinds: set[str]


@pytest.fixture(scope="module")
def result(live_service: LiveService) -> SlowClientsResult:
    plan = run_loop(visit_plan(live_service))
    # The first such clients make the service allocate arenas, tables and buffers. What the next ones add is a leak.
    with slow_clients(plan, CLIENTS):
        healthy_load(live_service, 2 * ARRIVE_S)
    alone = healthy_load(live_service, SECONDS)
    before = settle(live_service, None)
    with slow_clients(plan, CLIENTS) as visits:
        among = healthy_load(live_service, SECONDS)
    after = settle(live_service, before)
    return SlowClientsResult(
        alone=alone,
        among=among,
        before=before,
        after=after,
        leaks=after.leaks(before),
        visits=visits,
        kinds=set(visit_kinds(plan)),
    )


async def visit_plan(service: LiveService) -> VisitPlan:
    address, text = service.address, "the king and a good old film "
    task = "generate" if "generate" in service.tasks else min(service.tasks)
    parameters = {"parameters": {"max_new_tokens": PLAIN_TOKENS}} if task == "generate" else {}
    plain = json.dumps({"inputs": text, **parameters}).encode()
    long = json.dumps({"inputs": text, "parameters": {"max_new_tokens": STREAM_TOKENS}}).encode()
    stream = request_bytes(address, "/v1/generate_stream", long)
    opening = websocket_handshake(address, "/v1/stream")
    words = (b"the", b"king", b"and", b"a", b"film") * 40
    frames = b"".join(websocket_frame(b'{"inputs": "%b"}' % word) for word in words)
    return VisitPlan(
        address=address,
        plain=request_bytes(address, f"/v1/{task}", plain),
        stream=stream if await status(service, stream) == 200 else None,
        websocket=opening + frames if await status(service, opening) == 101 else None,
        hold_s=(2.0, 20.0) if FULL else (0.3, 1.0),
        between_s=(1.0, 4.0) if FULL else (0.1, 0.3),
        byte_s=1.0 if FULL else 0.02,
        arrive_s=ARRIVE_S,
    )


async def status(service: LiveService, request: bytes) -> int:
    connection = await RawConnection.open(service.address)
    try:
        await connection.send(request)
        async with asyncio.timeout(10.0):
            return int((await connection.receive())[9:12])
    finally:
        connection.close()


def healthy_load(service: LiveService, seconds: float) -> dict[str, OpenLoopResult]:
    """Run an open loop of texts to read and one of texts to generate. Their p99 differ, so they are kept apart."""
    reading = [
        request_bytes(service.address, f"/v1/{payload.task}", payload.encoded)
        for task in sorted({"tag", "classify"} & service.tasks)
        for payload in payloads.build(service.models, task, count=500, seed=1)
    ]
    body = {"inputs": "ROMEO:", "parameters": {"max_new_tokens": NEW_TOKENS, "seed": 7}}
    writing = [request_bytes(service.address, "/v1/generate", json.dumps(body).encode())]
    loads = {"read": (reading, 1 - GENERATE_SHARE), "generate": (writing, GENERATE_SHARE)}

    async def run() -> list[OpenLoopResult]:
        loops = (
            open_loop(service.address, requests, rate_per_s=RATE_PER_S * share, seconds=seconds)
            for requests, share in loads.values()
        )
        return await asyncio.gather(*loops)

    return dict(zip(loads, run_loop(run()), strict=True))


def settle(service: LiveService, before: ServiceResources | None) -> ServiceResources:
    """Wait until the service holds no more than `before`, and return what it holds."""
    end_s = time.monotonic() + SETTLE_S
    found = service.resources()

    def settled() -> bool:
        nonlocal found
        found = service.resources()
        return not found.leaks(before or found) or time.monotonic() > end_s

    wait_until(settled, timeout_s=2 * SETTLE_S)
    return found


def test_every_kind_of_client_has_visited(result: SlowClientsResult) -> None:
    assert {"hang up in the event stream", "stall in the WebSocket"} <= result.kinds
    assert set(result.visits) == result.kinds


@pytest.mark.parametrize("kind", ["read", "generate"])
def test_every_healthy_request_is_answered(result: SlowClientsResult, kind: str) -> None:
    found = result.among[kind]
    assert set(found.statuses()) == {200}
    assert found.unanswered == 0


def test_disconnected_clients_leave_nothing_behind(result: SlowClientsResult) -> None:
    assert result.leaks == []


@pytest.mark.skipif(not FULL, reason="timings need the full mode")
@pytest.mark.parametrize("kind", ["read", "generate"])
def test_p99_is_at_most_half_as_much_again(result: SlowClientsResult, kind: str) -> None:
    alone, among = (load[kind].summary()["ok"]["p99_ms"] for load in (result.alone, result.among))
    assert among <= P99_RATIO * alone


@pytest.mark.skipif(not FULL, reason="memory needs the full mode")
def test_memory_does_not_grow(result: SlowClientsResult) -> None:
    assert result.after.memory_mb <= MEMORY_RATIO * result.before.memory_mb
