"""The fast path: the same answers as uvicorn's way, for the requests that it is meant for."""

import asyncio
import gc
from collections.abc import AsyncGenerator
from typing import Any
from unittest import mock

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.api.application import ROUTES
from service.api.pipeline import RequestContext
from service.api.routes import EventStream, Route
from service.errors import ClientGone, InvalidRequest, ServiceError
from service.server import http_protocol, install, refusals
from service.server.http_protocol import HttpProtocol
from tests.support.http_connection import TAGGED, Wire, read, request
from tests.support.polling import eventually, turns


async def is_fast(wire: Wire, data: bytes) -> bool:
    """Send a request that waits in the engine; return whether it got there without a task, then let it go on."""
    before, calls = len(asyncio.all_tasks()), len(wire.engine.calls)
    wire.send(data)
    fast = len(wire.engine.calls) > calls and len(asyncio.all_tasks()) == before
    await turns()
    wire.engine.proceed.set()
    await turns()
    return fast


WAIT = {"inputs": "!wait"}


@pytest.mark.parametrize(
    "data",
    [
        request(WAIT),
        request(WAIT, "x-request-id: mine", "x-request-timeout-s: 3"),
        request(WAIT, "content-type: application/json; charset=utf-8", path="/v1/classify"),
        request(WAIT, path="/models/pos-en/tag"),
        request(WAIT, path="/models/sentiment-en"),
        request(WAIT, "origin: https://a.example", "content-type: application/json"),
        b"POST /v1/tag HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n"
        b'13\r\n{"inputs": "!wait"}\r\n0\r\n\r\n',
    ],
)
async def test_a_native_request_takes_the_fast_path(data: bytes) -> None:
    wire = Wire()
    assert await is_fast(wire, data)
    assert [status for status, _ in await wire.answers(1)] == [200]
    assert wire.state.total_requests == 1


@pytest.mark.parametrize(
    "data",
    [
        request(WAIT, version="1.0"),
        request(WAIT, "connection: close"),
        request(WAIT, "expect: 100-continue"),
        request(WAIT, path="/v1/tag?model=pos-en"),
        request(WAIT, path="/v1/%74ag"),
        request(WAIT, path="/tag"),
    ],
)
async def test_any_other_request_takes_uvicorns_way(data: bytes) -> None:
    wire = Wire()
    assert not await is_fast(wire, data)


async def test_with_cors_requests_of_browsers_take_uvicorns_way() -> None:
    wire = Wire(settings={"cors_origins": ("https://a.example",)})
    assert not await is_fast(wire, request(WAIT, "origin: https://a.example"))
    assert await is_fast(Wire(settings={"cors_origins": ("https://a.example",)}), request(WAIT))


async def test_a_body_in_a_second_read_takes_the_fast_path() -> None:
    wire, data = Wire(), request(WAIT)
    wire.send(data[:-10])
    assert await is_fast(wire, data[-10:])


async def test_a_body_that_is_slow_takes_uvicorns_way() -> None:
    wire, data = Wire(), request(WAIT)
    wire.send(data[:-10])
    wire.limits.check()  # about once a second
    assert not await is_fast(wire, data[-10:])
    assert [status for status, _ in await wire.answers(1)] == [200]


async def test_a_body_that_is_long_takes_uvicorns_way() -> None:
    wire = Wire(settings={"body_bytes": 1 << 20})
    data = request(b" " * 70_000 + b'{"inputs": "a"}')
    wire.send(data[:-1])
    await turns()
    wire.send(data[-1:])
    assert await wire.answers(1) == [(200, TAGGED)]


async def test_both_ways_send_the_same_headers() -> None:
    wire = Wire()
    for heads in (["x-request-id: mine"], ["x-request-id: mine", "expect: nothing"]):
        wire.send(request({"inputs": "a"}, *heads))
    await wire.answers(2)
    first, second = (part.split(b"\r\n\r\n")[0] for part in wire.transport.written.split(b"HTTP/1.1 ")[1:])
    assert first == second


async def test_requests_of_one_connection_are_answered_in_order() -> None:
    wire = Wire()
    wire.send(request({"inputs": "!wait"}))
    wire.send(request({"inputs": "a"}, "expect: nothing") + request({"inputs": "b"}))
    wire.send(request({"inputs": "c"}))
    await turns()
    assert wire.transport.written == b""
    wire.engine.proceed.set()
    assert [tags[0]["word"] for _, tags in await wire.answers(4)] == ["!wait", "a", "b", "c"]
    assert not wire.transport.paused


async def test_a_fast_request_does_not_overtake_one_on_uvicorns_way() -> None:
    wire = Wire()
    wire.send(request({"inputs": "!wait"}, "expect: nothing"))
    wire.send(request({"inputs": "a"}))
    await turns()
    assert wire.transport.written == b""
    wire.engine.proceed.set()
    assert [tags[0]["word"] for _, tags in await wire.answers(2)] == ["!wait", "a"]


async def test_a_body_is_never_parsed_as_a_request() -> None:
    wire, inner = Wire(), request({"inputs": "a"})
    wire.send(f"POST /v1/nothing HTTP/1.1\r\nhost: test\r\ncontent-length: {len(inner)}\r\n\r\n".encode())
    await wire.answers(1)
    wire.send(inner)
    await turns()
    assert [status for status, _ in read(wire.transport.written)] == [404]


async def test_nothing_is_written_to_a_client_that_does_not_read() -> None:
    wire = Wire()
    wire.protocol.pause_writing()
    wire.send(request({"inputs": "a"}))
    await turns()
    assert wire.transport.written == b""
    wire.protocol.resume_writing()
    assert await wire.answers(1) == [(200, TAGGED)]


async def test_a_closing_connection_starts_no_fast_request() -> None:
    wire = Wire()
    wire.transport.close()
    assert not await is_fast(wire, request(WAIT))


@pytest.mark.parametrize("error", [RuntimeError("a bug"), asyncio.CancelledError()])
async def test_a_bug_in_the_pipeline_closes_the_connection(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(http_protocol, "handle", fail)
    wire = Wire()
    wire.send(request({"inputs": "a"}))
    assert wire.transport.written.startswith(b"HTTP/1.1 500 ")
    assert b"connection: close" in wire.transport.written
    assert wire.transport.ended


async def test_a_request_leaves_no_reference_cycle() -> None:
    wire = Wire()
    wire.send(request({"inputs": "a " * 50}))
    await wire.answers(1)
    gc.collect()
    for number in range(2, 42):
        wire.send(request({"inputs": "a " * 50}))
        await wire.answers(number)
    assert gc.collect() < 40


async def test_an_error_keeps_the_connection_open() -> None:
    wire = Wire()
    bodies = ({"inputs": "a"}, {"inputs": 1}, {"inputs": "a" * 400}, {"inputs": "!bug"}, {"inputs": "a"})
    for number, body in enumerate(bodies, 1):
        wire.send(request(body))
        await wire.answers(number)
    assert [status for status, _ in await wire.answers(5)] == [200, 422, 413, 500, 200]
    assert not wire.transport.ended


async def test_a_disconnect_is_known_to_the_engine() -> None:
    wire = Wire()
    wire.send(request(WAIT))
    call = wire.engine.calls[-1][-1]
    assert not call.is_disconnected()
    wire.protocol.connection_lost(None)
    assert call.is_disconnected()
    wire.engine.proceed.set()
    await turns()
    assert wire.transport.written == b""


async def test_a_shutdown_waits_for_the_answer_and_closes_the_connection() -> None:
    wire = Wire()
    wire.send(request(WAIT))
    wire.protocol.shutdown()
    assert not wire.transport.ended
    wire.engine.proceed.set()
    await wire.answers(1)
    assert wire.transport.ended
    assert wire.transport.written.count(b"connection: close") == 1


async def test_the_handler_continues_after_a_future_a_task_and_a_bare_yield() -> None:
    """The fast path drives coroutines itself, by the protocol between asyncio's tasks and futures."""
    seen: list[str] = []

    async def run(context: RequestContext, body: bytes) -> Any:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, "future")
        seen.append(await future)
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        seen.append(await asyncio.get_running_loop().create_task(asyncio.sleep(0, "task")))
        seen.append(await asyncio.to_thread(lambda: "thread"))
        failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(failed.set_exception, InvalidRequest("no"))
        try:
            await failed
        except InvalidRequest:
            seen.append("error")
        canceled: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(canceled.cancel)
        await canceled

    wire = Wire(routes=(*ROUTES, Route("/v1/run", ("POST",), run)))
    wire.send(request({}, path="/v1/run"))
    await eventually(lambda: wire.transport.ended)
    assert seen == ["future", "task", "thread", "error"]
    assert wire.transport.written.startswith(b"HTTP/1.1 500 ")


async def test_uvicorn_picks_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn.config, "HTTP_PROTOCOLS", install.HTTP_PROTOCOLS)
    assert Wire().config.http_protocol_class is install.open_protocol


async def test_without_our_application_the_protocol_is_uvicorns() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})

    wire = Wire(install.open_protocol)
    wire.config = uvicorn.Config(app=app, log_config=None)
    wire.connect()
    wire.send(request({"inputs": "a"}))
    assert await wire.answers(1) == [(200, {})]


class Chunks:
    """A route that streams what the test puts into a queue."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self.closed = False
        self.route = Route("/v1/chunks", ("POST",), self.run)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        try:
            while (chunk := await self.queue.get()) is not None:
                if isinstance(chunk, Exception):
                    raise chunk
                yield chunk
        finally:
            self.closed = True

    async def run(self, context: RequestContext, body: bytes) -> EventStream:
        return EventStream(media=b"text/plain", chunks=self.chunks(), on_error=_last_chunk)

    async def streaming(self, *heads: str, version: str = "1.1") -> Wire:
        """Return a connection with an answer of which two chunks are sent."""
        wire = Wire(routes=(*ROUTES, self.route))
        wire.send(request({}, *heads, path="/v1/chunks", version=version))
        for chunk in (b"one", b"two"):
            self.queue.put_nowait(chunk)
            if version == "1.1":
                await eventually(lambda chunk=chunk: chunk in wire.transport.written)  # type: ignore[misc]
        return wire


def _last_chunk(error: ServiceError) -> bytes:
    return b"failed: " + type(error).__name__.encode()


WAYS = pytest.mark.parametrize("head", ["x-a: b", "expect: nothing"], ids=["fast path", "uvicorn"])


@WAYS
async def test_chunks_are_sent_as_they_come_and_the_connection_stays_open(head: str) -> None:
    chunks = Chunks()
    wire = await chunks.streaming(head)
    lines, _, body = wire.transport.written.partition(b"\r\n\r\n")
    assert (b"transfer-encoding: chunked" in lines, body) == (True, b"3\r\none\r\n3\r\ntwo\r\n")
    chunks.queue.put_nowait(None)
    await eventually(lambda: wire.transport.written.endswith(b"0\r\n\r\n"))
    wire.transport.written = b""
    wire.send(request({"inputs": "a"}))
    assert await wire.answers(1) == [(200, TAGGED)]


@WAYS
async def test_an_error_before_the_first_chunk_is_a_problem(head: str) -> None:
    chunks = Chunks()
    wire = Wire(routes=(*ROUTES, chunks.route))
    chunks.queue.put_nowait(InvalidRequest("no"))
    wire.send(request({}, head, path="/v1/chunks"))
    assert [status for status, _ in await wire.answers(1)] == [422]


@WAYS
@pytest.mark.parametrize(("cause", "name"), [(InvalidRequest("no"), b"InvalidRequest"), (KeyError("x"), b"Internal")])
async def test_an_error_after_it_is_the_last_chunk(head: str, cause: Exception, name: bytes) -> None:
    chunks = Chunks()
    wire = await chunks.streaming(head)
    chunks.queue.put_nowait(cause)
    await eventually(lambda: wire.transport.written.endswith(b"0\r\n\r\n"))
    assert b"failed: " + name in wire.transport.written


@WAYS
async def test_a_disconnect_ends_the_stream_at_the_next_chunk(head: str) -> None:
    chunks = Chunks()
    wire = await chunks.streaming(head)
    wire.protocol.connection_lost(None)
    chunks.queue.put_nowait(b"three")
    await eventually(lambda: chunks.closed)
    assert b"three" not in wire.transport.written


@WAYS
async def test_a_client_that_does_not_read_holds_the_chunks_back(head: str) -> None:
    chunks = Chunks()
    wire = await chunks.streaming(head)
    wire.protocol.pause_writing()
    for chunk in (b"three", b"four", b"five"):
        chunks.queue.put_nowait(chunk)
    await turns()
    assert chunks.queue.qsize() >= 1
    wire.protocol.resume_writing()
    await eventually(lambda: b"five" in wire.transport.written)


@WAYS
async def test_a_broken_answer_is_never_ended(head: str) -> None:
    chunks = Chunks()
    wire = await chunks.streaming(head)
    chunks.queue.put_nowait(ClientGone())
    await eventually(lambda: wire.transport.ended)
    assert not wire.transport.written.endswith(b"0\r\n\r\n")


async def test_http_1_0_gets_the_stream_as_it_comes_until_the_connection_ends() -> None:
    chunks = Chunks()
    wire = await chunks.streaming(version="1.0")
    await eventually(lambda: b"onetwo" in wire.transport.written)
    assert not wire.transport.ended
    chunks.queue.put_nowait(None)
    await eventually(lambda: wire.transport.ended)
    head = wire.transport.written.partition(b"\r\n\r\n")[0]
    assert (b"content-length" in head, b"transfer-encoding" in head) == (False, False)


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
    + [request(BODIES[0], path=path) for path in ("/v1/classify", "/v1/nothing", "/v1/tag?model=pos-en")]
)


@settings(max_examples=60, deadline=None)
@given(requests=st.lists(REQUESTS, min_size=1, max_size=8), cuts=st.lists(st.integers(1, 400), max_size=12))
def test_the_answers_are_uvicorns_however_the_bytes_are_cut(requests: list[bytes], cuts: list[int]) -> None:
    async def answered(protocol: type[HttpToolsProtocol]) -> list[tuple[int, Any]]:
        wire = Wire(protocol)
        pieces = list(requests)
        data = b"".join(requests)
        if cuts:  # otherwise request by request
            pieces = [
                data[start:end] for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True)
            ]
        for piece in pieces:
            if piece:
                wire.send(piece)
                if not cuts:
                    await turns()
        return await wire.answers(len(requests))

    with mock.patch.object(refusals, "REPEAT_S", -1.0):  # uvicorn's way repeats no refusal
        assert asyncio.run(answered(HttpProtocol)) == asyncio.run(answered(HttpToolsProtocol))
