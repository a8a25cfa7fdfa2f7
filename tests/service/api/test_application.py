"""The application: rate limits and CORS as clients see them, routing, and BentoML's routes."""

import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.routing import Route as StarletteRoute
from starlette.staticfiles import StaticFiles

from service.api.application import create_app
from service.api.pipeline import RequestContext
from service.api.routes import EventStream, Route
from service.worker import Worker
from tests.support.http_connection import Wire, request
from tests.support.polling import eventually

PREFLIGHT = "access-control-request-method: POST"


def heads(wire: Wire, number: int = -1) -> dict[str, str]:
    """The status and the fields of an answer's head."""
    first, *lines = wire.transport.written.split(b"HTTP/1.1 ")[number].split(b"\r\n\r\n")[0].decode().split("\r\n")
    found: dict[str, str] = {"status": first.split()[0]}
    for line in lines:
        name, _, value = line.partition(": ")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def options(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"OPTIONS {path} HTTP/1.1", "host: test", *lines, "", ""]).encode()


async def answer(wire: Wire, data: bytes) -> dict[str, str]:
    wire.transport.written = b""
    wire.send(data)
    await eventually(lambda: b"\r\n\r\n" in wire.transport.written)
    return heads(wire)


async def test_a_client_over_its_rate_limit_gets_429_and_retry_after() -> None:
    wire = Wire(settings={"rate_limit": "2/h"})
    found = [await answer(wire, request({"inputs": "a"})) for _ in range(3)]
    assert [each["status"] for each in found] == ["200", "200", "429"]
    assert {each["ratelimit-policy"] for each in found} == {'"rate";q=2;w=3600'}
    assert [each["ratelimit"].rpartition(";")[0] for each in found] == [f'"rate";r={left}' for left in (1, 0, 0)]
    assert 3590 <= int(found[2]["retry-after"]) <= 3600
    assert b"urn:seqserve:error:rate-limited" in wire.transport.written


async def test_without_limits_there_are_no_rate_limit_headers() -> None:
    assert "ratelimit" not in await answer(Wire(), request({"inputs": "a"}))


async def test_each_key_has_its_own_limits(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("alice alices-key\nbob bobs-keys rate=none\n")
    wire = Wire(settings={"api_keys_file": str(tmp_path / "keys"), "day_requests": 1})
    for key, statuses in (("alices-key", ["200", "429"]), ("bobs-keys", ["200", "429"]), ("nobodys", ["401"] * 2)):
        data = request({"inputs": "a"}, f"authorization: Bearer {key}")
        assert [(await answer(wire, data))["status"] for _ in range(2)] == statuses


@pytest.mark.parametrize("path", ["/v1/tag", "/v1/nothing"])
@pytest.mark.parametrize("body", [{"inputs": "a"}, {"inputs": 1}])
async def test_a_page_of_an_allowed_origin_can_read_every_answer(path: str, body: object) -> None:
    wire = Wire(settings={"cors_origins": ("https://a.example",)})
    for _ in range(2):
        found = await answer(wire, request(body, "origin: https://a.example", path=path))
        assert found["access-control-allow-origin"] == "https://a.example"
        assert "Origin" in found["vary"]
        assert "X-Request-Id" in found["access-control-expose-headers"]
    assert "access-control-allow-origin" not in await answer(wire, request(body, "origin: https://b.example"))
    assert "access-control-allow-origin" not in await answer(wire, request(body))


async def test_all_origins_may_be_allowed() -> None:
    wire = Wire(settings={"cors_origins": ("*",)})
    found = await answer(wire, request({"inputs": "a"}, "origin: null"))
    assert found["access-control-allow-origin"] == "*"


async def test_a_preflight_needs_no_key() -> None:
    wire = Wire(settings={"cors_origins": ("https://a.example",), "api_keys": ("right-key",)})
    asked = "access-control-request-headers: authorization,x-stainless-os"
    found = await answer(wire, options("/v1/tag", "origin: https://a.example", PREFLIGHT, asked))
    assert found["status"] == "200"
    assert "POST" in found["access-control-allow-methods"]
    assert found["access-control-allow-headers"] == "authorization,x-stainless-os"
    assert found["access-control-allow-origin"] == "https://a.example"


@pytest.mark.parametrize(
    ("origins", "lines", "status"),
    [
        ((), ("origin: https://a.example", PREFLIGHT), "405"),
        (("https://a.example",), ("origin: https://b.example", PREFLIGHT), "400"),
        (("https://a.example",), ("origin: https://a.example",), "405"),
    ],
)
async def test_other_preflights_are_refused(origins: tuple[str, ...], lines: tuple[str, ...], status: str) -> None:
    found = await answer(Wire(settings={"cors_origins": origins}), options("/v1/tag", *lines))
    assert found["status"] == status
    assert "https://b.example" not in found.values()


async def test_options_of_the_whole_service_lists_its_methods() -> None:
    wire = Wire()
    found = await answer(wire, options("*"))
    assert (found["status"], found["allow"], found["content-length"]) == ("200", "GET, HEAD, POST", "0")
    found = await answer(wire, b"GET * HTTP/1.1\r\nhost: test\r\n\r\n")
    assert (found["status"], found["content-type"]) == ("405", "application/problem+json")


@pytest.mark.parametrize("media", ["application/json", "", "Application/JSON; charset=utf-8"])
@pytest.mark.parametrize("task", ["tag", "classify", "generate"])
async def test_the_routes_of_bentoml_answer_as_the_native_ones(task: str, media: str) -> None:
    wire = Wire()
    heads = [f"content-type: {media}"] if media else []
    for number, path in enumerate((f"/{task}", f"/v1/{task}"), 1):
        wire.send(request({"inputs": "a"}, *heads, path=path))
        await wire.answers(number)
    first, second = await wire.answers(2)
    assert first == second
    assert first[0] == 200


async def test_the_generate_route_of_bentoml_does_not_stream() -> None:
    wire = Wire()
    wire.send(request({"inputs": "a", "stream": True}, path="/generate"))
    assert [status for status, _ in await wire.answers(1)] == [422]


async def test_a_readiness_probe_that_fails_says_when_to_retry() -> None:
    worker = Wire().worker
    worker.refuse_requests()
    app = create_app(worker, Starlette())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        response = await client.get("/readyz")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert {"x-request-id", "server-timing"} <= set(response.headers)


async def ask_readiness(worker: Worker, query: str = "?verbose", **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(create_app(worker, Starlette()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get(f"/readyz{query}", headers=headers)


@pytest.mark.parametrize("query", ["?verbose", "?verbose=1", "?x=1&verbose"])
async def test_a_verbose_probe_lists_the_parts_of_the_service(query: str) -> None:
    worker = Wire().worker
    found = (await ask_readiness(worker, query)).json()
    assert (found["ready"], found["worker"]) == (True, os.getpid())
    assert {"running", "loaded", "model pos-en", "task metrics flush"} <= set(found["checks"])
    assert all(found["checks"].values())


async def test_a_verbose_probe_that_fails_names_the_part() -> None:
    worker = Wire().worker
    worker.stopping = True
    response = await ask_readiness(worker)
    assert response.status_code == 503
    assert [name for name, ok in response.json()["checks"].items() if not ok] == ["running"]
    assert "checks" not in (await ask_readiness(worker, "?quiet")).json()


async def test_a_verbose_probe_needs_the_key() -> None:
    worker = Wire(settings={"api_keys": ("secret-key",)}).worker
    assert (await ask_readiness(worker)).status_code == 401
    assert (await ask_readiness(worker, authorization="Bearer secret-key")).status_code == 200
    assert (await ask_readiness(worker, "")).status_code == 200


async def test_literal_paths_come_before_patterns() -> None:
    async def run(context: RequestContext, _: bytes) -> Any:
        return [context.route, dict(context.path_params)]

    table = tuple(Route(pattern, ("GET",), run) for pattern in ("/a/{x}", "/a/b", "/a/{x}/c/{y}"))
    app = create_app(Wire().worker, Starlette(), routes=table)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        found = [(await client.get(path)).json() for path in ("/a/b", "/a/q", "/a/q/c/r")]
        missing = [(await client.get(path)).status_code for path in ("/a", "/a/", "/a//c/r", "/a/q/d/r", "/a/b/")]
    assert found == [["/a/b", {}], ["/a/{x}", {"x": "q"}], ["/a/{x}/c/{y}", {"x": "q", "y": "r"}]]
    assert missing == [404] * 5


async def test_chunks_are_streamed_on_any_asgi_server() -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"one"
        yield b"two"

    async def run(context: RequestContext, _: bytes) -> Any:
        return EventStream(media=b"text/plain", chunks=chunks(), on_error=lambda error: b"")

    app = create_app(Wire().worker, Starlette(), routes=(Route("/v1/chunks", ("POST",), run),))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        found = await client.post("/v1/chunks", content=b"{}")
    assert (found.text, found.headers["content-type"]) == ("onetwo", "text/plain")


async def page(wire: Wire, method: str, path: str) -> tuple[dict[str, str], bytes]:
    found = await answer(wire, f"{method} {path} HTTP/1.1\r\nhost: test\r\n\r\n".encode())
    return found, wire.transport.written.partition(b"\r\n\r\n")[2]


async def test_a_path_with_several_routes_names_all_of_their_methods() -> None:
    assert (await page(Wire(), "HEAD", "/"))[0]["status"] == "200"
    head, _ = await page(Wire(), "DELETE", "/")
    assert (head["status"], head["allow"]) == ("405", "GET, HEAD, POST")


async def test_the_files_of_the_page_of_bentoml_are_not_served(tmp_path: Path) -> None:
    (tmp_path / "ui.js").write_text("load('https://example.org')")

    def of_bentoml(_: Request) -> Response:
        return Response("of BentoML")

    routes = [
        StarletteRoute("/metrics", of_bentoml),
        StarletteRoute("/openapi.html", of_bentoml),
        Mount("/static_content", StaticFiles(directory=tmp_path)),
    ]
    app = create_app(Wire().worker, Starlette(routes=routes))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/metrics")).text == "of BentoML"
        assert (await client.get("/metrics?name[]=up")).status_code == 422
        for path in ("/openapi.html", "/static_content/ui.js"):
            assert (await client.get(path)).status_code == 404
