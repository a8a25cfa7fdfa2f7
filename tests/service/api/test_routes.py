"""The table of routes, and answers in parts, over ASGI and on the short way."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from service.api import native as lean
from service.api.request_context import RequestContext
from service.api.routes import EventStream, Route, Routes
from service.errors import ClientGone, InvalidRequest, ServiceError
from tests.support import fast_path_connection as wire


async def nothing(exchange: RequestContext, body: bytes) -> Any:
    return None


def test_a_literal_path_comes_before_a_pattern_and_patterns_name_their_parts() -> None:
    table = Routes(Route(pattern, ("GET",), nothing) for pattern in ("/a/{x}", "/a/b", "/a/{x}/c/{y}"))
    found = [(route and route.pattern, dict(names)) for route, names in map(table.find, ("/a/b", "/a/q", "/a/q/c/r"))]
    assert found == [("/a/b", {}), ("/a/{x}", {"x": "q"}), ("/a/{x}/c/{y}", {"x": "q", "y": "r"})]
    assert [table.find(path)[0] for path in ("/a", "/a/", "/a//c/r", "/a/q/d/r", "")] == [None] * 5


class Parts:
    """A route whose parts the test hands out one by one."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self.closed = False

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        try:
            while (part := await self.queue.get()) is not None:
                if isinstance(part, Exception):
                    raise part
                yield part
        finally:
            self.closed = True

    async def run(self, exchange: RequestContext, body: bytes) -> EventStream:
        return EventStream(media=b"text/plain", chunks=self.chunks(), on_error=_failed)


def _failed(error: ServiceError) -> bytes:
    return b"failed: " + error.message.encode()


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Parts:
    parts = Parts()
    table = Routes([*lean.ROUTES.all, Route("/v1/parts", ("POST",), parts.run)])
    monkeypatch.setattr(lean, "ROUTES", table)
    return parts


async def streaming(parts: Parts) -> wire.Wire:
    """A connection on the short way with an answer of which one part is out."""
    line = wire.Wire()
    for _ in range(2):  # the first request goes uvicorn's way, and its head is remembered
        line.transport.written = b""
        line.send(wire.request({}, path="/v1/parts"))
        for part in (b"one", b"two"):
            parts.queue.put_nowait(part)
            await until(line, part)
        if line.protocol._running:  # type: ignore[attr-defined]
            return line
        parts.queue.put_nowait(None)
        await until(line, b"0\r\n\r\n")
    raise AssertionError("the second request did not take the short way")


async def until(line: wire.Wire, data: bytes) -> None:
    async with asyncio.timeout(5):
        while data not in line.transport.written:
            await asyncio.sleep(0.001)


async def test_parts_go_out_as_they_come_and_the_connection_goes_on(parts: Parts) -> None:
    line = await streaming(parts)
    head, _, body = line.transport.written.partition(b"\r\n\r\n")
    assert (b"transfer-encoding: chunked" in head, body) == (True, b"3\r\none\r\n3\r\ntwo\r\n")
    parts.queue.put_nowait(None)
    await until(line, b"0\r\n\r\n")
    line.transport.written = b""
    line.send(wire.request({"inputs": "a"}))
    assert await line.answers(1) == [(200, wire.TAGGED)]


async def test_an_error_before_the_first_part_is_answered_as_ever(parts: Parts) -> None:
    line = wire.Wire()
    parts.queue.put_nowait(InvalidRequest("no"))
    line.send(wire.request({}, path="/v1/parts"))
    assert [status for status, _ in await line.answers(1)] == [422]


@pytest.mark.parametrize(
    ("cause", "told"), [(InvalidRequest("no"), b"failed: no"), (KeyError("secret"), b"unexpected")]
)
async def test_an_error_after_it_is_the_last_part(parts: Parts, cause: Exception, told: bytes) -> None:
    line = await streaming(parts)
    parts.queue.put_nowait(cause)
    await until(line, b"0\r\n\r\n")
    assert told in line.transport.written
    assert b"secret" not in line.transport.written


async def test_a_client_that_leaves_ends_the_work_at_the_next_part(parts: Parts) -> None:
    line = await streaming(parts)
    line.protocol.connection_lost(None)
    parts.queue.put_nowait(b"three")
    async with asyncio.timeout(5):
        while not parts.closed:
            await asyncio.sleep(0.001)
    assert b"three" not in line.transport.written


async def test_a_client_that_does_not_read_holds_the_parts_back(parts: Parts) -> None:
    line = await streaming(parts)
    line.protocol.pause_writing()
    for part in (b"three", b"four"):
        parts.queue.put_nowait(part)
    await asyncio.sleep(0.02)
    assert (b"three" in line.transport.written, parts.queue.qsize()) == (True, 1)
    line.protocol.resume_writing()
    await until(line, b"four")


async def test_an_answer_that_breaks_off_is_never_ended(parts: Parts) -> None:
    line = await streaming(parts)
    parts.queue.put_nowait(ClientGone())
    async with asyncio.timeout(5):
        while not line.transport.closed:
            await asyncio.sleep(0.001)
    assert not line.transport.written.endswith(b"0\r\n\r\n")


async def test_parts_go_out_over_asgi(parts: Parts) -> None:
    for part in (b"one", b"two", None):
        parts.queue.put_nowait(part)
    transport = httpx.ASGITransport(lean.Lean(wire.Wire().front.lean.worker))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post("/v1/parts", content=b"{}")
    assert (answer.text, answer.headers["content-type"]) == ("onetwo", "text/plain")


async def test_http_1_0_gets_the_whole_at_its_end(parts: Parts) -> None:
    line = wire.Wire()
    line.send(wire.request({}, path="/v1/parts", version="1.0"))
    for part in (b"one", b"two", None):
        parts.queue.put_nowait(part)
    await until(line, b"onetwo")
    head = line.transport.written.partition(b"\r\n\r\n")[0]
    assert (b"content-length: 6" in head, b"transfer-encoding" in head) == (True, False)
