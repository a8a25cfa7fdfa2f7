"""The short way: it answers what uvicorn's protocol would have answered, and stays out of what it is not for."""

import asyncio
import gc
from typing import Any, cast

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.server import fast_path as direct
from service.server.fast_path import Direct
from tests.support.fast_path_connection import TAGGED, Wire, known, read, request


async def test_the_second_request_of_its_kind_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire()
    wire.send(request({"inputs": "a"}))
    assert await wire.answers(1) == [(200, TAGGED)]
    monkeypatch.setattr(wire.protocol, "parser", None)
    wire.send(request({"inputs": "a " * 30}))
    (_, (status, tags)) = await wire.answers(2)
    assert (status, len(tags)) == (200, 30)
    assert wire.state.total_requests == 2


async def test_the_first_request_of_a_connection_is_not_parsed_if_another_one_sent_its_head(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire = await known(settings={"header_timeout_s": 1.0})
    wire.connect()
    monkeypatch.setattr(wire.protocol, "parser", None)
    wire.send(request({"inputs": "a a"}))
    ((status, tags),) = await wire.answers(1)
    assert (status, len(tags)) == (200, 2)
    wire.front.known = None  # this connection has it by itself now
    wire.send(request({"inputs": "a"}))
    await wire.answers(2)
    cast(Direct, wire.protocol)._turn_since_s -= 2.0
    cast(Direct, wire.protocol).look()  # it has had a request: it may be idle for longer than a head may take
    assert not wire.transport.closed


async def test_a_head_with_a_key_is_known_to_its_connection_alone() -> None:
    wire = Wire()
    wire.send(request({"inputs": "a"}, "authorization: Bearer secret"))
    await wire.answers(1)
    assert wire.known
    assert wire.front.known is None


async def test_an_answer_has_the_headers_of_every_answer() -> None:
    wire = Wire()
    for _ in range(2):
        wire.send(request({"inputs": "a"}, "x-request-id: mine"))
    await wire.answers(2)
    first, second = (part.split(b"\r\n\r\n")[0] for part in wire.transport.written.split(b"HTTP/1.1 ")[1:])
    assert [line.split(b":")[0] for line in second.split(b"\r\n")] == [
        line.split(b":")[0] for line in first.split(b"\r\n")
    ]
    assert b"x-request-id: mine" in second


@pytest.mark.parametrize(
    "data",
    [
        request({"inputs": "a"}, version="1.0"),
        request({"inputs": "a"}, "connection: close"),
        request({"inputs": "a"}, "connection: upgrade, keep-alive", "upgrade: h2c"),
        request({"inputs": "a"}, "expect: 100-continue"),
        request({"inputs": "a"}, path="/v1/tag?x=1"),
        request({"inputs": "a"}, path="/tag"),
        request({"inputs": "a"}, "content-length: 15"),
        request({"inputs": "a"}, "x: " + "y" * 5000),
        b'POST /v1/tag HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nf\r\n{"inputs": "a"}\r\n0\r\n\r\n',
        request({"inputs": "a"}) + request({"inputs": "a"}),
        request({"inputs": "a"})[:-1],
    ],
)
async def test_what_is_not_plain_is_left_to_uvicorn(data: bytes) -> None:
    wire = Wire()
    wire.send(data)
    await asyncio.sleep(0)
    assert not wire.known


async def test_what_comes_while_a_request_runs_is_answered_after_it() -> None:
    wire = Wire()
    wire.send(request({"inputs": "a"}))
    await wire.answers(1)
    wire.send(request({"inputs": "!slow 0.02"}))
    wire.send(request({"inputs": "a b"}))
    assert wire.transport.paused
    answers = await wire.answers(3)
    assert [len(tags) for _, tags in answers] == [1, 2, 2]
    assert answers[1][1][0]["word"] == "!slow"
    assert not wire.transport.paused


async def test_a_body_is_never_taken_for_a_request() -> None:
    wire = await known()
    inner = request({"inputs": "a"})
    wire.send(f"POST /v1/nothing HTTP/1.1\r\nhost: test\r\ncontent-length: {len(inner)}\r\n\r\n".encode())
    await wire.answers(1)
    wire.send(inner)
    await asyncio.sleep(0.02)
    assert [status for status, _ in read(wire.transport.written)] == [404]


async def test_a_known_request_does_not_overtake_one_that_uvicorn_has() -> None:
    wire = await known()
    wire.send(request({"inputs": "!slow 0.02"}, "x-a: b"))
    wire.send(request({"inputs": "a"}))
    assert [tags[0]["word"] for _, tags in await wire.answers(2)] == ["!slow", "a"]


async def test_a_client_that_does_not_read_is_written_nothing_more() -> None:
    wire = await known()
    wire.protocol.pause_writing()
    wire.send(request({"inputs": "a"}))
    await asyncio.sleep(0.02)
    assert wire.transport.written == b""
    wire.protocol.resume_writing()
    assert await wire.answers(1) == [(200, TAGGED)]


async def test_a_connection_that_is_being_closed_takes_nothing() -> None:
    wire = await known()
    wire.transport.close()
    wire.send(request({"inputs": "a"}))
    assert not cast(Direct, wire.protocol)._running


async def test_half_a_request_is_waited_for_beyond_the_idle_time() -> None:
    wire = await known(keep_alive_s=cast(int, 0.03))
    wire.send(request({"inputs": "a"}))
    await wire.answers(1)
    wire.send(request({"inputs": "a"})[:-3])
    await asyncio.sleep(0.1)
    assert not wire.transport.closed


async def test_a_request_that_a_bug_left_unanswered_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = await known()

    async def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(wire.front.lean, "answer", fail)
    wire.send(request({"inputs": "a"}))
    assert wire.transport.written.startswith(b"HTTP/1.1 500 ")
    assert b"connection: close" in wire.transport.written
    assert wire.transport.closed


async def test_a_request_leaves_no_cycle_and_no_body_behind() -> None:
    wire = await known()
    gc.collect()
    for number in range(1, 41):
        wire.send(request({"inputs": "a " * 50}))
        await wire.answers(number)
    assert gc.collect() < 40
    assert cast(Direct, wire.protocol)._body == b""


async def test_what_waits_is_not_walked_through_at_every_arrival() -> None:
    before = gc.get_threshold()
    try:
        await known()
        collections = gc.get_stats()[0]["collections"]
        waiting = [[] for _ in range(15_000)]  # type: ignore[var-annotated]
        assert gc.get_stats()[0]["collections"] - collections <= 1
        assert waiting
    finally:
        gc.set_threshold(*before)


async def test_an_error_keeps_the_connection() -> None:
    wire = Wire()
    bodies = ({"inputs": "a"}, {"inputs": 1}, {"inputs": "a" * 400}, {"inputs": "!bug"}, {"inputs": "a"})
    for number, body in enumerate(bodies, 1):
        wire.send(request(body))
        await wire.answers(number)
    assert [status for status, _ in await wire.answers(5)] == [200, 422, 413, 500, 200]
    assert not wire.transport.closed


async def test_who_has_gone_is_known_to_the_work() -> None:
    wire = Wire()
    wire.send(request({"inputs": "a"}))
    await wire.answers(1)
    wire.transport.written = b""
    wire.send(request({"inputs": "!slow 0.02"}))
    call = wire.engine.calls[-1][-1]
    assert not call.is_disconnected()
    wire.protocol.connection_lost(None)
    assert call.is_disconnected()
    await asyncio.sleep(0.05)
    assert wire.transport.written == b""


async def test_a_shutdown_waits_for_the_answer_and_ends_the_connection() -> None:
    wire = Wire()
    wire.send(request({"inputs": "a"}))
    await wire.answers(1)
    wire.send(request({"inputs": "!slow 0.02"}))
    wire.protocol.shutdown()
    assert not wire.transport.closed
    await wire.answers(2)
    await asyncio.sleep(0)
    assert wire.transport.closed
    assert wire.transport.written.count(b"connection: close") == 1


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    wire = Wire(keep_alive_s=cast(int, 0.05))
    for _ in range(2):
        wire.send(request({"inputs": "a"}))
        await asyncio.sleep(0.01)
    wire.send(request({"inputs": "!slow 0.1"}))
    await wire.answers(3)
    assert not wire.transport.closed
    await asyncio.sleep(0.12)
    assert wire.transport.closed


def test_uvicorn_takes_the_protocol_where_it_picks_one_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "HTTP_PROTOCOLS", dict(direct.HTTP_PROTOCOLS))
    monkeypatch.setattr(uvicorn.config, "HTTP_PROTOCOLS", direct.HTTP_PROTOCOLS)
    direct.install()
    config = uvicorn.Config(app=Starlette(), log_config=None)
    config.load()
    assert config.http_protocol_class is Direct


BODIES = (
    *(b'{"inputs": "a"}', b'{"inputs": "a b", "parameters": {"aggregation_strategy": "simple"}}', b'{"inputs": 1}'),
    *(b"", b"{", b'{"inputs": ["a", "b c"]}', b'{"inputs": "!full"}', b" " * 400),
)
REQUESTS = st.sampled_from(
    [
        request(body, *heads)
        for body in BODIES
        for heads in ((), ("Content-Type: application/json",), ("Connection: Keep-Alive", "x-a: b"))
    ]
    + [request(BODIES[0], path=path) for path in ("/v1/classify", "/v1/nothing", "/v1/tag?a=b")]
)


@settings(max_examples=60, deadline=None)
@given(requests=st.lists(REQUESTS, min_size=1, max_size=8), cuts=st.lists(st.integers(1, 400), max_size=12))
def test_however_the_bytes_come_the_answers_are_uvicorns(requests: list[bytes], cuts: list[int]) -> None:
    async def answered(protocol: type[HttpToolsProtocol]) -> list[tuple[int, Any]]:
        wire = Wire(protocol)
        pieces = list(requests)
        data = b"".join(requests)
        if cuts:  # else request by request: each may take the short way
            pieces = [
                data[start:end] for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True)
            ]
        for piece in pieces:
            if piece:
                wire.send(piece)
                if not cuts:
                    await asyncio.sleep(0.001)
        return await wire.answers(len(requests))

    assert asyncio.run(answered(Direct)) == asyncio.run(answered(HttpToolsProtocol))
