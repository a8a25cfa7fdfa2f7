"""Tries: what is asked again, when, and for how long."""

from collections.abc import AsyncGenerator
from random import Random
from typing import Any

import httpx
import pytest

from seqserve import Broken, InternalError, NotConnected, Overloaded, Tries, Unavailable, asks
from seqserve.core import Core, now

REFUSED = httpx.ConnectError("refused")


class FakeWire:
    """Gives one outcome after the other, and lets time pass only while it sleeps or is asked (0.25 s each)."""

    def __init__(self, *outcomes: httpx.Response | Exception) -> None:
        self.outcomes, self.slept, self.requests = list(outcomes), list[float](), list[httpx.Request]()
        self.now_s = 100.0
        self.build = httpx.Client().build_request

    async def send(self, request: httpx.Request) -> httpx.Response:
        self.now_s += 0.25
        self.requests.append(request)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds

    async def read(self, response: httpx.Response) -> None: ...

    async def end(self, response: httpx.Response) -> None: ...

    async def chunks(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        yield response.content


def refusal(status: int, retry_after: str | None = None) -> httpx.Response:
    return httpx.Response(status, json={}, headers={} if retry_after is None else {"retry-after": retry_after})


def tag(wire: FakeWire, timeout_s: float = 30.0, **tries: Any) -> Any:
    core = Core(
        wire,
        "http://test",
        api_key=None,
        timeout_s=timeout_s,
        tries=Tries(**tries),
        clock=lambda: wire.now_s,
        random=Random(1),
    )
    return now(core.ask(asks.tag("x", {})))


OK = httpx.Response(200, json=[])


@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_is_tried_again_when_the_service_says_so(status: int) -> None:
    wire = FakeWire(refusal(status, "3"), OK)
    assert tag(wire) == []
    assert wire.slept == [3.0]


def test_what_was_never_sent_is_tried_again_after_a_random_pause() -> None:
    wire = FakeWire(REFUSED, REFUSED, OK)
    assert tag(wire) == []
    assert 0 <= wire.slept[0] <= 0.2
    assert 0 <= wire.slept[1] <= 0.4
    assert len(set(wire.slept)) == 2


def test_pauses_grow_to_a_bound() -> None:
    tries, random = Tries(most=100), Random(2)
    pauses = [tries.pause_s(NotConnected(""), number, random) or 0.0 for number in range(1, 60)]
    assert 4.0 < max(pauses) <= 5.0


@pytest.mark.parametrize("outcome", [httpx.ReadError("reset"), httpx.RemoteProtocolError("closed"), refusal(500)])
def test_what_may_have_been_taken_is_not_tried_again(outcome: httpx.Response | Exception) -> None:
    wire = FakeWire(outcome, OK)
    with pytest.raises((Broken, InternalError)):
        tag(wire)
    assert wire.slept == []


def test_tries_have_an_end() -> None:
    wire = FakeWire(*[refusal(503, "1")] * 9)
    with pytest.raises(Unavailable):
        tag(wire, most=3)
    assert len(wire.requests) == 3


def test_nobody_waits_for_a_time_that_lies_behind_the_deadline() -> None:
    wire = FakeWire(refusal(429, "60"), OK)
    with pytest.raises(Overloaded) as caught:
        tag(wire, timeout_s=5.0)
    assert wire.slept == []
    assert caught.value.retry_after_s == 60


def test_every_try_tells_the_service_what_time_is_left() -> None:
    wire = FakeWire(refusal(429, "2"), REFUSED, OK)
    tag(wire, timeout_s=10.0, first_pause_s=0.0)
    assert [request.headers["x-request-timeout-s"] for request in wire.requests] == ["10", "7.75", "7.5"]
    assert wire.requests[1].extensions["timeout"]["read"] == 7.75 + 5.0
