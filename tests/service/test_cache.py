"""Answers that were given before."""

import asyncio

from service.api.cache import OVERHEAD_BYTES, Cache, Kept
from tests.service.wire import TAGGED, Wire, request


def kept(body: bytes = b"a") -> Kept:
    return Kept(body=body, model="m")


def test_an_answer_is_found_by_route_and_body_alone() -> None:
    cache = Cache(10_000)
    cache.keep("/v1/tag", b"{}", kept())
    assert cache.find("/v1/tag", b"{}") == kept()
    assert cache.find("/v1/tag", b"{ }") is None
    assert cache.find("/v1/classify", b"{}") is None


def test_what_was_not_asked_for_longest_goes_first_and_the_bytes_are_bounded() -> None:
    room = OVERHEAD_BYTES + 2
    cache = Cache(10 * room)
    for number in range(10):
        cache.keep("/", b"%d" % number, kept())
    cache.find("/", b"0")
    cache.keep("/", b"x", kept())
    assert [cache.find("/", b"%d" % number) is not None for number in range(3)] == [True, False, True]
    assert cache._size == 10 * room


def test_what_is_big_is_not_kept() -> None:
    cache = Cache(8000)
    cache.keep("/", b"big", kept(b"a" * 1000))
    assert cache.find("/", b"big") is None


async def test_a_body_that_came_before_does_not_reach_the_engine() -> None:
    wire = Wire(settings={"cache_bytes": 1 << 16})
    for number in range(1, 4):
        wire.send(request({"inputs": "a"}))
        assert (await wire.answers(number))[-1] == (200, TAGGED)
    assert len(wire.engine.calls) == 1
    assert wire.transport.written.count(b"x-cache: hit\r\n") == 2
    telemetry = wire.engine.telemetry
    telemetry.flush()
    assert telemetry.registry is not None
    values = [telemetry.registry.get_sample_value("seqserve_cache_total", {"result": r}) for r in ("hit", "miss")]
    assert values == [2, 1]


async def test_what_was_answered_before_needs_no_room() -> None:
    wire = Wire(settings={"cache_bytes": 1 << 16})
    for full, text in ((False, "a"), (True, "a"), (True, "b")):
        wire.engine.full = full
        wire.send(request({"inputs": text}))
        await wire.answers(1)
        await asyncio.sleep(0.01)
    assert [status for status, _ in await wire.answers(3)] == [200, 200, 429]


async def test_errors_and_generated_texts_are_not_kept() -> None:
    wire = Wire(settings={"cache_bytes": 1 << 16})
    number = 0
    for path, text in (("/v1/tag", "!full"), ("/v1/generate", "a")):
        for _ in range(2):
            number += 1
            wire.send(request({"inputs": text}, path=path))
            await wire.answers(number)
    assert len(wire.engine.calls) == 4


async def test_without_room_nothing_is_kept() -> None:
    wire = Wire()
    for number in (1, 2):
        wire.send(request({"inputs": "a"}))
        await wire.answers(number)
    assert len(wire.engine.calls) == 2
