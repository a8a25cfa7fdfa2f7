"""429 before the body is read: the same answer as on the long way, counted, and only where nothing else comes first."""

from typing import Any

import orjson
import pytest

from service.api.problems import OPENAI_ERROR
from service.api.request_headers import Head
from tests.support.fast_path_connection import TAGGED, Wire, known, request


async def test_a_full_engine_refuses_before_it_reads() -> None:
    wire = await known()
    wire.engine.full = True
    wire.send(request(b"no JSON"))
    wire.send(request(b"no JSON", "x-a: b"))  # a head that is new: refused on the long way
    assert [status for status, _ in await wire.answers(2)] == [429, 429]
    heads = []
    for answer in wire.transport.written.split(b"HTTP/1.1 ")[1:]:
        head, _, body = answer.partition(b"\r\n\r\n")
        lines = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
        assert orjson.loads(body)["request_id"].encode() == lines.pop(b"x-request-id")
        heads.append((lines, {**orjson.loads(body), "request_id": ""}))
    assert heads[0] == heads[1]
    wire.engine.full = False
    wire.send(request({"inputs": "a"}))
    assert (await wire.answers(3))[2] == (200, TAGGED)


async def test_of_several_bundles_the_one_that_is_named_may_have_room() -> None:
    wire = await known()
    wire.engine.full, wire.engine.bundles = True, 2
    for body in (
        b'{"inputs": "a"}',
        b'{"inputs": "a", "model": "pos-en"}',
        b'{"inputs": "a", "mod\\u0065l": "pos-en"}',
    ):
        wire.send(request(body))
    assert [status for status, _ in await wire.answers(3)] == [429, 200, 200]


async def test_what_is_refused_at_once_is_counted() -> None:
    wire = await known()
    wire.engine.full = True
    wire.send(request({"inputs": "a"}))
    telemetry = wire.engine.telemetry
    telemetry.flush()
    assert telemetry.registry is not None
    labels = {"route": "/v1/tag", "model": "pos-en", "outcome": "queue-full"}
    assert telemetry.registry.get_sample_value("seqserve_requests_total", labels) == 1
    assert telemetry.registry.get_sample_value("seqserve_rejected_total", {"reason": "queue-full"}) == 1


@pytest.mark.parametrize(
    ("settings", "head", "draining", "status"),
    [
        ({"api_keys": ("12345678",)}, "authorization: Bearer 87654321", False, 401),
        ({}, "x-request-timeout-s: never", False, 422),
        ({}, "content-type: text/plain", False, 415),
        ({}, "x-a: b", True, 503),
    ],
)
async def test_other_reasons_to_refuse_come_first(
    settings: dict[str, Any], head: str, draining: bool, status: int
) -> None:
    wire = Wire(settings=settings)
    for _ in range(2):
        wire.send(request({"inputs": "a"}, head))
    wire.engine.full = True
    wire.front.lean.worker.draining = draining
    wire.send(request({"inputs": "a"}, head))
    assert wire.known
    assert (await wire.answers(3))[2][0] == status


async def test_a_dialect_that_tells_no_id_has_none_in_its_body() -> None:
    wire = Wire()
    wire.engine.full = True
    found = wire.front.refusals.find(Head.of("POST", "/v1/completions", [(b"x-request-id", b"r-1")]), b"{}")
    assert found is not None
    assert (b"r-1" in found[0], found[1]) == (True, OPENAI_ERROR.body(wire.engine.overload("generate"), ""))
