"""streams: a whole run against the fake service, and a stream that ends too early."""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from rich.progress import Progress

from loadtest import streams, streams_words
from loadtest.streams import PLAIN, STREAMED
from loadtest.websocket import parse_frame
from loadtest.wire import Address
from tests.loadtest.fakes import run


def test_the_figures_and_the_picture_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "FIRST_EVENT_MS", 10_000.0)
    monkeypatch.setattr(streams, "SHARE_LEAST", 0.0)
    code, result = run("streams", tmp_path / "streams.json")
    assert code == 0, result["checks"]
    assert result["first"]["first_event"]["p50_ms"] > 0
    assert min(result["medians"].values()) > 0
    assert (tmp_path / "streams.png").read_bytes().startswith(b"\x89PNG")


def test_a_stream_with_too_few_events_is_no_measurement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("streams", tmp_path / "streams.json", broken="cut")[0] == 2
    assert "events of" in capsys.readouterr().err


def conclusion(first_ms: float, streamed: float) -> list[bool]:
    spread = {"p50_ms": first_ms, "p99_ms": first_ms}
    first: dict[str, Any] = {"first_event": spread, "one_token": spread, "step_ms": 1.0}
    found = streams.conclude(first, {PLAIN: [100.0], STREAMED: [streamed]}, None)
    return [each["met"] for each in found["checks"]]


def test_the_targets_are_a_step_and_five_milliseconds_and_three_quarters() -> None:
    assert conclusion(6.0, 75.0) == [True, True]
    assert conclusion(6.1, 75.0) == [False, True]
    assert conclusion(6.0, 74.0) == [True, False]


class Tagger(asyncio.Protocol):
    """A websocket that answers each message; `forgets`: it counts one step too few."""

    def __init__(self, forgets: bool) -> None:
        self._steps, self._opened = -1 - forgets, False  # the first message names the model

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if not self._opened:
            self._opened = True
            self._transport.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x89\x02hi")
            return
        if data[0] & 0x0F == 10:  # the pong: two bytes, the mask, "hi"; perhaps with what comes after it
            data = data[8:]
        if not data:
            return
        self._steps += 1
        answer = json.dumps({"entities": [], "steps": self._steps, "padding": "x" * 200}).encode()
        self._transport.write(b"\x81\x7e" + len(answer).to_bytes(2, "big") + answer)


def words(forgets: bool) -> dict[str, Any]:
    ready, found = threading.Event(), list[Any]()

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: Tagger(forgets), "127.0.0.1", 0)
        found.extend([server.sockets[0].getsockname()[1], asyncio.get_running_loop(), asyncio.Event()])
        ready.set()
        await found[2].wait()
        await asyncio.sleep(0.1)  # for the end of the connection to arrive
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    ready.wait()
    try:
        address = Address(host="127.0.0.1", port=found[0])
        with Progress(disable=True) as progress:
            return streams_words.measure(address, "live", 300, progress)
    finally:
        found[1].call_soon_threadsafe(found[2].set)
        thread.join()


def test_the_cost_of_a_word_is_taken_along_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_words, "memory_mb", lambda address: 1.0)
    found = words(forgets=False)
    assert (found["words"], len(found["medians_ms"]), found["memory_mb"]) == (300, 100, [1.0, 1.0])
    streams_words.draw(found, Figure().subplots())


def test_a_stream_that_loses_a_word_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_words, "memory_mb", lambda address: 1.0)
    with pytest.raises(ConnectionError, match="counts 299 steps"):
        words(forgets=True)


def test_a_word_may_not_become_dearer() -> None:
    first, last = {"p50_ms": 1.0}, {"p50_ms": 1.2}
    found = streams_words.checks({"first_tenth": first, "last_tenth": last, "memory_mb": [100.0, 120.0]})
    assert [each["met"] for each in found] == [False, False]


def test_a_frame_is_whole_with_its_last_byte_and_no_sooner() -> None:
    data = b"\x81\x7e\x00\xc8" + b"a" * 200
    assert all(parse_frame(data[:length]) is None for length in range(len(data)))
    assert parse_frame(data + b"next") == (1, b"a" * 200, 204)
