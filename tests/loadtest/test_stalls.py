"""stalls: the clients do what they are named for, a good service passes, what is left over fails."""

import asyncio
import contextlib
import re
from pathlib import Path
from random import Random

import pytest

from loadtest import stalls, stalls_clients
from loadtest.open_loop import Arrivals
from loadtest.stalls import Left
from loadtest.stalls_clients import Asked
from loadtest.websocket import frame
from loadtest.wire import Address, request_bytes
from tests.loadtest.fakes import run

REQUEST = request_bytes(Address(host="127.0.0.1", port=1), "/v1/tag", b'{"inputs": "abcdef"}')


def test_a_service_that_keeps_nothing_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stalls, "RATIO_MOST", 1000.0)  # what a busy machine does to it is not the point here
    code, result = run("stalls", tmp_path / "stalls.json")
    assert code == 0, result["checks"]
    assert {"hang up in the stream", "send a byte a second", "stall in the head"} <= result["visits"].keys()
    assert result["beside"]["read"]["statuses"]["200"] > 10
    assert result["after"]["memory_mb"] > 1


def test_a_slot_that_is_left_over_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stalls, "SETTLE_S", 0.1)
    code, result = run("stalls", tmp_path / "stalls.json", broken="leak")
    assert code == 1
    assert "left over: seqserve_active_slots" in [each["what"] for each in result["checks"] if not each["met"]]


def broken_crowd(*how: object) -> None:
    """The crowd's process ends at once."""


def test_a_crowd_that_has_broken_is_no_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stalls, "crowd", broken_crowd)
    assert run("stalls", tmp_path / "stalls.json") == (2, {})


def missed(before: Left, after: Left) -> list[str]:
    return [each["what"] for each in stalls.left_over(before, after) if not each["met"]]


def test_more_sockets_files_or_memory_than_before_fail() -> None:
    before = Left(gauges={"slots": 0.0}, sockets=3, files=20, memory_mb=100.0)
    assert missed(before, before) == []
    after = Left(gauges={"slots": 1.0}, sockets=4, files=21, memory_mb=120.0)
    assert missed(before, after) == [
        "left over: slots",
        "left over: sockets",
        "left over: files",
        "memory after over before",
    ]


def seen(*latencies_ms: float, status: int = 200) -> Arrivals:
    found = Arrivals(rate_per_s=1.0, seconds=1.0)
    for ms in latencies_ms:
        found.note(0.0, ms, status)
    return found


def test_the_p99_may_grow_by_half_and_no_more() -> None:
    (ratio, lost) = stalls.ratios({"read": seen(10.0)}, {"read": seen(16.0)})
    assert (ratio["is"], ratio["met"], lost["met"]) == (1.6, False, True)
    assert stalls.ratios({"read": seen(10.0)}, {"read": seen(15.0)})[0]["met"]
    assert not stalls.ratios({"read": seen(10.0)}, {"read": seen(1.0, status=503)})[1]["met"]


async def heard(visit: stalls_clients.Visit, answer: bytes = b"") -> bytes:
    """What the visitor sends to a server that says `answer` and hangs up after half a second."""
    data, ended = bytearray(), asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(TimeoutError, ConnectionError):
            writer.write(answer)
            async with asyncio.timeout(0.5):
                while block := await reader.read(1000):
                    data.extend(block)
        writer.close()
        ended.set()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        address = Address(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
        asked = Asked(address=address, plain=REQUEST, stream=None, socket=None)
        with contextlib.suppress(ConnectionError):
            await visit(asked, REQUEST, Random(1))
        await ended.wait()
    return bytes(data)


async def test_a_client_stalls_where_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert REQUEST.startswith(await heard(stalls_clients.stall_in_head))
    assert b"\r\n\r\n" in await heard(stalls_clients.stall_in_body)
    assert len(await heard(stalls_clients.send_by_the_byte)) == 1
    assert await heard(stalls_clients.hang_up_in_answer, b"x" * 10_000) in (REQUEST, b"")


def test_a_frame_is_masked_as_the_standard_wants_it() -> None:
    assert frame(b"Hello", bytes.fromhex("37fa213d")).hex() == "818537fa213d7f9f4d5158"  # RFC 6455, 5.7
    assert re.match(rb"\x81\xfe\x00\xc8....", frame(b"a" * 200, b"mask"), re.DOTALL)
