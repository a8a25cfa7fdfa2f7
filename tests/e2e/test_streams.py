"""Event streams of generated tokens, and WebSocket streams that tag word by word.

The full mode also checks what streaming costs: the time to the first event, the throughput of 64 event streams, and
the cost of a word along one stream of 100,000 words.
"""

import asyncio
import json
import re
import statistics
import time
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from loadtest.http_client import fetch, request_bytes
from loadtest.load_loops import ClosedLoopResult, run_loop, send_all
from loadtest.payloads import PLAIN_WORDS
from tests.support.live_service import FULL, LiveService
from tests.support.raw_http import RawConnection

STREAMS = 64
TEXTS, NEW_TOKENS = (512, 200) if FULL else (96, 20)
WEBSOCKETS, WORDS = (200, 50) if FULL else (40, 10)
LONG_STREAM_WORDS = 100_000 if FULL else 200
ROUNDS, PROBES = 5, 300
PROMPT = "R"  # one character, so that the first event needs one decoding step
FIRST_EVENT_MS = 5.0  # over one decoding step
THROUGHPUT_SHARE = 0.75  # of plain requests
WORD_GROWTH, MEMORY_GROWTH = 1.1, 1.05
TIMEOUT_S = 120.0
STEP = re.compile(r"^seqserve_step_seconds_(sum|count)\{[^}]*\} (\S+)$", re.MULTILINE)
timings_only_in_full_mode = pytest.mark.skipif(not FULL, reason="timings need the full mode")


def generate_body(tokens: int, seed: int) -> bytes:
    parameters = {"max_new_tokens": tokens, "temperature": 0.8, "seed": seed}
    return json.dumps({"inputs": PROMPT, "parameters": parameters}).encode()


def generate_texts(service: LiveService, path: str) -> ClosedLoopResult:
    requests = [request_bytes(service.address, path, generate_body(NEW_TOKENS, seed)) for seed in range(TEXTS)]
    return run_loop(send_all(service.address, requests, connections=STREAMS, timeout_s=TIMEOUT_S))


def test_many_event_streams_have_one_event_per_token(live_service: LiveService) -> None:
    found = generate_texts(live_service, "/v1/generate_stream")
    assert found.statuses == {200: TEXTS}
    assert found.events == TEXTS * NEW_TOKENS


def test_streamed_text_equals_the_plain_answer(live_service: LiveService) -> None:
    url = live_service.address.url
    for seed in range(5):
        body = generate_body(NEW_TOKENS, seed)
        plain = json.loads(fetch(f"{url}/v1/generate", body).body)["generated_text"]
        lines = fetch(f"{url}/v1/generate_stream", body).body.decode().split("\n\n")
        events = [json.loads(line.removeprefix("data:")) for line in lines if line.startswith("data:")]
        assert "".join(event["token"]["text"] for event in events) == plain
        assert events[-1]["generated_text"] == plain


@timings_only_in_full_mode
def test_event_streams_reach_most_of_the_plain_throughput(live_service: LiveService) -> None:
    paths = ("/v1/generate", "/v1/generate_stream")
    seconds = {path: [generate_texts(live_service, path).seconds for _ in range(ROUNDS + 1)][1:] for path in paths}
    plain, streamed = (statistics.median(seconds[path]) for path in paths)
    assert plain / streamed >= THROUGHPUT_SHARE


@timings_only_in_full_mode
def test_first_event_comes_soon_after_the_first_step(live_service: LiveService) -> None:
    async def first_event_ms(connection: RawConnection, seed: int) -> float:
        started_s, data, at_ms = time.perf_counter(), b"", 0.0
        await connection.send(request_bytes(live_service.address, "/v1/generate_stream", generate_body(2, seed)))
        async with asyncio.timeout(TIMEOUT_S):
            while not data.endswith(b"0\r\n\r\n"):
                data += await connection.receive()
                at_ms = at_ms or (b"data:" in data) * (time.perf_counter() - started_s) * 1000
        return at_ms

    async def probe() -> list[float]:
        connection = await RawConnection.open(live_service.address)
        found = [await first_event_ms(connection, seed) for seed in range(PROBES)]
        connection.close()
        return found

    def steps() -> dict[str, float]:
        return {name: float(value) for name, value in STEP.findall(live_service.metrics())}

    before = steps()
    first_ms = statistics.median(run_loop(probe()))
    after = steps()
    step_ms = (after["sum"] - before["sum"]) / (after["count"] - before["count"]) * 1000
    assert first_ms - step_ms <= FIRST_EVENT_MS


async def open_stream(service: LiveService) -> ClientConnection:
    """Open a WebSocket stream of the first model that tags word by word."""
    model = next(model.id for model in service.models if model.streams and model.codec == "words")
    stream = await connect(service.address.url.replace("http", "ws") + "/v1/stream", compression=None)
    await ask(stream, {"model": model})
    return stream


async def ask(stream: ClientConnection, message: dict[str, Any]) -> dict[str, Any]:
    async with asyncio.timeout(TIMEOUT_S):
        await stream.send(json.dumps(message))
        answer: dict[str, Any] = json.loads(await stream.recv())
    return answer


async def tag_words(service: LiveService, words: Sequence[str]) -> list[dict[str, Any]]:
    stream = await open_stream(service)
    try:
        return [await ask(stream, {"inputs": word}) for word in words]
    finally:
        await stream.close()


def test_many_websocket_streams_answer_as_one_alone(live_service: LiveService) -> None:
    random = Random(0)
    sentences = [random.choices(PLAIN_WORDS, k=WORDS) for _ in range(WEBSOCKETS)]

    async def together() -> list[list[dict[str, Any]]]:
        return await asyncio.gather(*(tag_words(live_service, words) for words in sentences))

    async def alone() -> list[list[dict[str, Any]]]:
        return [await tag_words(live_service, words) for words in sentences]

    found = run_loop(together())
    assert found == run_loop(alone())
    assert [answers[-1]["steps"] for answers in found] == [WORDS] * WEBSOCKETS


def test_every_word_of_a_long_stream_costs_the_same(live_service: LiveService) -> None:
    memory_mb: list[float] = []

    async def measure() -> tuple[list[float], dict[str, Any]]:
        random, times, answer = Random(0), [], {}
        stream = await open_stream(live_service)
        for number in range(1, LONG_STREAM_WORDS + 1):
            message, started_s = {"inputs": random.choice(PLAIN_WORDS)}, time.perf_counter()
            answer = await ask(stream, message)
            times.append(time.perf_counter() - started_s)
            assert "entities" in answer, answer
            if number in (LONG_STREAM_WORDS // 10, LONG_STREAM_WORDS):
                memory_mb.append(live_service.process.memory_mb())
        await stream.close()
        return times, answer

    times, answer = run_loop(measure())
    assert answer["steps"] == LONG_STREAM_WORDS
    if FULL:
        tenth = LONG_STREAM_WORDS // 10
        assert statistics.median(times[-tenth:]) <= WORD_GROWTH * statistics.median(times[:tenth])
        assert memory_mb[1] <= MEMORY_GROWTH * memory_mb[0]
