"""Healthy requests among clients that stall, hang up, or send and read slowly.

Every healthy request is answered, and nothing remains of the others: no slot, no queue, no socket, no file. The full
mode runs 200 such clients for a minute and also checks p99 and memory.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from loadtest import payloads
from loadtest.http_client import request_bytes
from loadtest.load_loops import OpenLoopResult, open_loop, run_loop
from tests.support.live_service import FULL, LiveService, ServiceResources
from tests.support.slow_clients import VisitTiming, slow_clients, visit_kinds, visit_plan

SECONDS, CLIENTS, RATE_PER_S = (60.0, 200, 200.0) if FULL else (1.5, 24, 40.0)
ARRIVE_S = 10.0 if FULL else 0.3
P99_RATIO = 1.5  # among slow clients over alone
MEMORY_RATIO = 1.1  # caches and arenas may grow a little further
NEW_TOKENS = 20  # of a healthy text
# Slow clients request little work. Real work would slow the healthy requests, which is not tested here.
PLAIN_TOKENS = 50
STREAM_TOKENS = 400 if FULL else 200  # more than the buffers of a slow reader hold
GENERATE_SHARE = 0.1
TIMING = VisitTiming(
    hold_s=(2.0, 20.0) if FULL else (0.3, 1.0),
    between_s=(1.0, 4.0) if FULL else (0.1, 0.3),
    byte_s=1.0 if FULL else 0.02,
    arrive_s=ARRIVE_S,
)


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
    plan = run_loop(visit_plan(live_service, TIMING, plain_tokens=PLAIN_TOKENS, stream_tokens=STREAM_TOKENS))
    # The first such clients make the service allocate arenas, tables and buffers. What the next ones add is a leak.
    with slow_clients(plan, CLIENTS):
        healthy_load(live_service, 2 * ARRIVE_S)
    alone = healthy_load(live_service, SECONDS)
    before = live_service.settle()
    with slow_clients(plan, CLIENTS) as visits:
        among = healthy_load(live_service, SECONDS)
    after = live_service.settle(before)
    return SlowClientsResult(
        alone=alone,
        among=among,
        before=before,
        after=after,
        leaks=after.leaks(before),
        visits=visits,
        kinds=set(visit_kinds(plan)),
    )


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
