"""Keys, limits and browsers, as a client sees them: on the short way, on the lean path and on BentoML's routes."""

import asyncio
from pathlib import Path

import pytest

from tests.support.fast_path_connection import Wire, request

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
    for _ in range(1000):
        if b"\r\n\r\n" in wire.transport.written:
            return heads(wire)
        await asyncio.sleep(0.001)
    raise TimeoutError


async def test_a_client_over_its_rate_is_told_when_to_come_back() -> None:
    wire = Wire(settings={"rate_limit": "2/h"})
    found = [await answer(wire, request({"inputs": "a"})) for _ in range(3)]
    assert [each["status"] for each in found] == ["200", "200", "429"]
    assert {each["ratelimit-policy"] for each in found} == {'"rate";q=2;w=3600'}
    assert [each["ratelimit"].rpartition(";")[0] for each in found] == [f'"rate";r={left}' for left in (1, 0, 0)]
    assert 1790 <= int(found[2]["retry-after"]) <= 1800
    assert b"urn:seqserve:error:rate-limited" in wire.transport.written


async def test_a_service_without_limits_says_nothing_of_them() -> None:
    assert "ratelimit" not in await answer(Wire(), request({"inputs": "a"}))


async def test_a_key_has_limits_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("alice alices-key\nbob bobs-keys rate=none\n")
    wire = Wire(settings={"api_keys_file": str(tmp_path / "keys"), "day_requests": 1})
    for key, statuses in (("alices-key", ["200", "429"]), ("bobs-keys", ["200", "429"]), ("nobodys", ["401"] * 2)):
        data = request({"inputs": "a"}, f"authorization: Bearer {key}")
        assert [(await answer(wire, data))["status"] for _ in range(2)] == statuses


@pytest.mark.parametrize("path", ["/v1/tag", "/v1/nothing"])
@pytest.mark.parametrize("body", [{"inputs": "a"}, {"inputs": 1}])
async def test_a_page_of_a_known_origin_sees_every_answer(path: str, body: object) -> None:
    wire = Wire(settings={"cors_origins": ("https://a.example",)})
    for _ in range(2):
        found = await answer(wire, request(body, "origin: https://a.example", path=path))
        assert found["access-control-allow-origin"] == "https://a.example"
        assert found["vary"] == "Origin"
        assert "X-Request-Id" in found["access-control-expose-headers"]
    assert "access-control-allow-origin" not in await answer(wire, request(body, "origin: https://b.example"))
    assert "access-control-allow-origin" not in await answer(wire, request(body))


async def test_all_origins_need_no_vary() -> None:
    wire = Wire(settings={"cors_origins": ("*",)})
    found = await answer(wire, request({"inputs": "a"}, "origin: null"))
    assert (found["access-control-allow-origin"], found.get("vary")) == ("*", None)


async def test_a_browser_may_ask_first_without_a_key() -> None:
    wire = Wire(settings={"cors_origins": ("https://a.example",), "api_keys": ("12345678",)})
    asked = "access-control-request-headers: authorization,x-stainless-os"
    found = await answer(wire, options("/v1/tag", "origin: https://a.example", PREFLIGHT, asked))
    assert (found["status"], found["access-control-allow-methods"]) == ("204", "POST")
    assert found["access-control-allow-headers"] == "authorization,x-stainless-os"
    assert found["access-control-allow-origin"] == "https://a.example"


@pytest.mark.parametrize(
    ("origins", "path", "lines", "status"),
    [
        ((), "/v1/tag", ("origin: https://a.example", PREFLIGHT), "405"),
        (("https://a.example",), "/v1/tag", ("origin: https://b.example", PREFLIGHT), "405"),
        (("https://a.example",), "/v1/tag", ("origin: https://a.example",), "405"),
        (("https://a.example",), "/v1/nothing", ("origin: https://a.example", PREFLIGHT), "404"),
    ],
)
async def test_nobody_else_gets_a_preflight(
    origins: tuple[str, ...], path: str, lines: tuple[str, ...], status: str
) -> None:
    found = await answer(Wire(settings={"cors_origins": origins}), options(path, *lines))
    assert found["status"] == status
