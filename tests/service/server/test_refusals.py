"""Repeated refusals: what is refused without asking admission again, and what is not."""

import time
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from service.api.caption import CAPTION
from service.api.routes import Route
from service.api.translate import TRANSLATE_ROUTE
from service.errors import Overloaded
from service.server import refusals
from tests.support.http_connection import Wire, request


@pytest.fixture(autouse=True)
def long_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take longer than 10 ms for two requests."""
    monkeypatch.setattr(refusals, "REPEAT_S", 10.0)


def overloaded(text: str = "a", path: str = "/v1/tag") -> Wire:
    """A connection whose service has just refused a request because the queue is full, and has room again."""
    wire = Wire()
    wire.engine.full = True
    wire.send(request({"inputs": text}, path=path))
    wire.engine.full = False
    return wire


async def statuses(wire: Wire, count: int) -> list[int]:
    return [status for status, _ in await wire.answers(count)]


async def test_a_refusal_is_repeated_without_asking_the_engine() -> None:
    wire = overloaded()
    wire.send(request({"inputs": "second"}, "x-request-id: mine"))
    assert await statuses(wire, 2) == [429, 429]
    assert wire.engine.calls == []
    head, _, body = wire.transport.written.rpartition(b"\r\n\r\n")
    assert b"x-request-id: mine\r\n" in head
    assert orjson.loads(body)["request_id"] == "mine"
    assert b"retry-after: 1\r\n" in head
    assert b"content-length: %d\r\n" % len(body) in head + b"\r\n"


async def test_a_repeated_refusal_has_the_members_of_the_first() -> None:
    wire = overloaded()
    wire.send(request({"inputs": "second"}))
    await wire.answers(2)
    bodies = [part.partition(b"HTTP/1.1")[0] for part in wire.transport.written.split(b"\r\n\r\n")[1:]]
    first, second = ({**orjson.loads(body), "request_id": ""} for body in bodies)
    assert first == second


async def test_a_refusal_of_one_model_is_not_repeated_for_another() -> None:
    wire = overloaded(path="/models/pos-en/tag")
    wire.send(request({"inputs": "second"}, path="/models/other/tag"))
    wire.send(request({"inputs": "third"}, path="/models/pos-en/tag"))
    assert await statuses(wire, 3) == [429, 404, 200]


async def test_repeated_refusals_are_counted() -> None:
    wire = overloaded()
    wire.send(request({"inputs": "second"}))
    await wire.answers(2)
    wire.worker.telemetry.flush()
    registry = wire.worker.telemetry.registry
    assert registry is not None
    counted = registry.get_sample_value("seqserve_rejected_total", {"reason": "queue-full"})
    assert counted == 2


@pytest.mark.parametrize(
    "data",
    [
        request({"inputs": "a", "model": "fake-tag"}),
        request({"inputs": "a"}, path="/v1/classify"),
        request({"inputs": "a"}, "x-request-timeout-s: 3"),
        request({"inputs": "a"}, "content-type: application/json; charset=utf-8"),
        b'POST /v1/tag HTTP/1.1\r\nhost: test\r\ncontent-length: 24\r\n\r\n{"inputs": "a\\u0041aaaa"}'[:-2] + b'"}',
    ],
)
async def test_a_request_that_may_get_another_answer_asks_admission(data: bytes) -> None:
    wire = overloaded()
    wire.send(data)
    await wire.answers(2)
    assert len(wire.engine.calls) == 1 or (await statuses(wire, 2))[1] != 429


async def test_a_model_whose_field_arrives_in_two_pieces_is_seen() -> None:
    wire = overloaded()
    first, second = request({"inputs": "a", "model": "other"}).split(b"del")
    wire.send(first)
    wire.send(b"del" + second)
    assert await statuses(wire, 2) == [429, 404]


async def test_a_shorter_request_asks_admission() -> None:
    wire = overloaded("a" * 100)
    wire.send(request({"inputs": "a" * 99}))
    wire.send(request({"inputs": "a" * 100}))
    assert await statuses(wire, 3) == [429, 200, 429]


async def test_a_refusal_of_any_size_is_repeated_for_a_shorter_request() -> None:
    wire = Wire()
    wire.engine.full = wire.engine.full_for_any_size = True
    wire.send(request({"inputs": "a" * 100}))
    wire.engine.full = False
    wire.send(request({"inputs": "a"}))
    assert await statuses(wire, 2) == [429, 429]


async def test_a_request_to_generate_asks_admission() -> None:
    wire = overloaded("then", path="/v1/generate")
    wire.send(request({"inputs": "then"}, path="/v1/generate"))
    assert await statuses(wire, 2) == [429, 200]


@pytest.mark.parametrize("route", [TRANSLATE_ROUTE, CAPTION], ids=lambda route: route.pattern)
def test_a_refusal_to_translate_is_not_kept(route: Route) -> None:
    defaults = dict.fromkeys(("translate", "caption"), "model")
    worker: Any = SimpleNamespace(authenticator=None, observers=(), default_models=defaults)
    context: Any = SimpleNamespace(model="model", model_labels=lambda: ("model", "1"))
    cache = refusals.RefusalCache(worker)
    cache.store(route, "10.0.0.9", context, Overloaded("full", retry_after_s=1.0, limit=1), body_bytes=10)
    assert not cache.active


async def test_another_client_asks_admission() -> None:
    wire = overloaded()
    wire.connect()
    wire.protocol.client = ("10.0.0.9", 5)
    wire.send(request({"inputs": "a"}))
    assert await statuses(wire, 1) == [200]


async def test_a_refusal_is_repeated_for_a_short_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = overloaded()
    now_s = time.monotonic()
    monkeypatch.setattr(refusals.time, "monotonic", lambda: now_s + 2 * refusals.REPEAT_S)
    wire.send(request({"inputs": "a"}))
    assert await statuses(wire, 2) == [429, 200]
    assert not wire.app.state.edge.refusals.active


async def test_with_api_keys_every_request_asks_admission() -> None:
    wire = Wire(settings={"api_keys": ("a-secret-key",)})
    wire.engine.full = True
    wire.send(request({"inputs": "a"}, "authorization: Bearer a-secret-key"))
    wire.engine.full = False
    wire.send(request({"inputs": "a"}))
    assert await statuses(wire, 2) == [429, 401]
