"""``/v1/generate_stream``: events, errors, and what happens to slow or disconnected clients."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import httpx
import orjson
import pytest

from models import self_test
from models.bundle import Bundle
from models.tasks import as_json
from service.api import sse
from service.engine import Engine
from service.generation_stream import TokenDelta
from service.settings import Settings
from service.worker import Worker
from tests.support import http_connection as wire
from tests.support.api_clients import FakeSite, problem
from tests.support.fake_engine import TEXT
from tests.support.polling import eventually

PATH = "/v1/generate_stream"


@pytest.fixture
async def site() -> AsyncIterator[FakeSite]:
    site = FakeSite(Settings())
    yield site
    await site.client.aclose()


def events(response: httpx.Response) -> list[Any]:
    assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream")
    return [orjson.loads(line.removeprefix("data: ")) for line in response.text.splitlines() if line[:5] == "data:"]


async def test_each_token_is_an_event_and_the_last_has_the_text(site: FakeSite) -> None:
    found = events(await site.post(PATH, {"inputs": "a", "parameters": {"seed": 9, "max_new_tokens": 3}}))
    token = {"special": False, "logprob": -0.5}
    assert found == [
        {"index": 1, "token": {"id": 2, "text": " ", **token}, "generated_text": None, "details": None},
        {"index": 2, "token": {"id": 3, "text": "ü", **token}, "generated_text": None, "details": None},
        {
            "index": 3,
            "token": {"id": 4, "text": "n", **token},
            "generated_text": " ün",
            "details": {"finish_reason": "length", "generated_tokens": 3, "input_length": 1, "seed": 9},
        },
    ]


async def test_an_event_is_one_line_whatever_its_text(site: FakeSite) -> None:
    delta = TokenDelta(
        index=0, tokens=[1, 2], token_texts=["\n", '"\u2028'], logprobs=[-0.25, -1e-9], finish_reason=None
    )
    parts = sse.token_events(delta, 0, b"")
    assert [part.count(b"\n") for part in parts] == [2, 2]
    assert [orjson.loads(part.removeprefix(b"data: "))["token"]["text"] for part in parts] == ["\n", '"\u2028']


async def test_an_empty_text_has_one_event(site: FakeSite) -> None:
    (event,) = events(await site.post(PATH, {"inputs": ""}))
    assert event["token"] == {"id": 0, "text": "", "special": True, "logprob": 0.0}
    assert (event["generated_text"], event["details"]["generated_tokens"]) == ("", 0)


async def test_generate_with_stream_true_streams(site: FakeSite) -> None:
    asked = {"inputs": "a", "parameters": {"return_full_text": True}}
    found = events(await site.post("/v1/generate", {**asked, "stream": True}))
    assert found == events(await site.post(PATH, asked))
    assert found[-1]["generated_text"] == "a" + TEXT


@pytest.mark.parametrize(("text", "status"), [("!full", 429), ("!late", 504), ("!bug", 500), ("!too-long", 413)])
async def test_an_error_before_the_first_event_is_a_plain_answer(site: FakeSite, text: str, status: int) -> None:
    problem(await site.post(PATH, {"inputs": text}), status)


async def test_a_list_of_prompts_is_rejected(site: FakeSite) -> None:
    assert problem(await site.post(PATH, {"inputs": ["a"]}), 422)["field"] == "inputs"


@pytest.mark.parametrize(
    ("what", "slug", "kind"),
    [
        ("!late", "deadline-passed", "generation"),
        ("!bug", "internal", "generation"),
        ("!full", "queue-full", "overloaded"),
    ],
)
async def test_an_error_after_the_first_event_is_an_event(site: FakeSite, what: str, slug: str, kind: str) -> None:
    response = await site.post(PATH, {"inputs": f"then {what}"})
    first, last = events(response)
    assert first["token"]["text"] == " "
    assert response.text.count("event: error\ndata: ") == 1
    assert (last["type"], last["error_type"], last["error"]) == (f"urn:seqserve:error:{slug}", kind, last["detail"])
    assert last["request_id"] == response.headers["x-request-id"]
    assert site.count("seqserve_requests_total", route=PATH, model="shakespeare", outcome=slug) == 1
    assert site.engine.running == 0


async def test_active_streams_are_counted(site: FakeSite) -> None:
    sending = asyncio.create_task(site.post(PATH, {"inputs": "then !slow 0.05"}))
    await eventually(lambda: site.count("seqserve_active_streams", model="shakespeare") == 1)
    await sending
    assert site.count("seqserve_active_streams", model="shakespeare") == 0


async def connected(zoo: Path, **settings: Any) -> wire.Wire:
    """A connection to the engine with the tiny bundles."""
    worker = Worker(Settings(bundles=(str(zoo),), device="cpu", **settings), Engine.load)
    worker.load()
    return wire.Wire(worker=worker)


async def until(true: Any) -> None:
    for _ in range(3000):
        if true():
            return
        await asyncio.sleep(0.001)
    raise TimeoutError


def sent(line: wire.Wire) -> list[Any]:
    found = line.transport.written.split(b"data: ")[1:]
    return [orjson.loads(part.partition(b"\n")[0]) for part in found]


def ask(line: wire.Wire, **parameters: Any) -> None:
    body = {"inputs": "ROMEO:", "model": "tiny-generate", "parameters": {"seed": 7, **parameters}}
    line.send(wire.request(body, path=PATH))


def slots(line: wire.Wire) -> int:
    return int(cast(Any, line.engine).runtime_for("generate", None).scheduler.used_slots)


async def test_the_short_way_streams_what_the_reference_writes(tiny_zoo: Path, generator: Bundle) -> None:
    line = await connected(tiny_zoo)
    ask(line, max_new_tokens=150)
    await until(lambda: line.transport.written.endswith(b"0\r\n\r\n"))
    expected = as_json(self_test.answer(generator, "ROMEO:", {"max_new_tokens": 150, "seed": 7, "details": True}))
    found = sent(line)
    assert [event["token"] for event in found] == expected["details"]["tokens"]
    assert found[-1]["generated_text"] == expected["generated_text"]


async def test_a_reader_that_takes_nothing_is_disconnected_and_its_slot_free(tiny_zoo: Path) -> None:
    line = await connected(tiny_zoo, write_timeout_s=0.05)
    aborted = asyncio.Event()
    line.transport.abort = aborted.set  # type: ignore[method-assign]
    ask(line, max_new_tokens=4096)
    line.protocol.pause_writing()  # the transport's buffer is full
    await until(lambda: line.transport.written)
    written = line.transport.written
    await asyncio.wait_for(aborted.wait(), 2)
    assert line.transport.written == written
    line.protocol.connection_lost(None)  # what the transport does once it is aborted
    await until(lambda: not slots(line))


async def test_a_slow_reader_gets_everything_and_nothing_is_queued(tiny_zoo: Path) -> None:
    line = await connected(tiny_zoo)
    ask(line, max_new_tokens=4096)
    await until(lambda: line.transport.written)
    line.protocol.pause_writing()
    await asyncio.sleep(0.02)
    stalled = len(line.transport.written)
    await until(lambda: not slots(line))  # its text is finished
    assert len(line.transport.written) == stalled
    line.protocol.resume_writing()
    await until(lambda: line.transport.written.endswith(b"0\r\n\r\n"))
    assert [event["index"] for event in sent(line)] == list(range(1, 4097))


async def test_who_disconnects_frees_the_slot(tiny_zoo: Path) -> None:
    line = await connected(tiny_zoo)
    ask(line, max_new_tokens=4096)
    await until(lambda: line.transport.written)
    assert slots(line) == 1
    line.protocol.connection_lost(None)
    await until(lambda: not slots(line))


async def test_a_stream_without_news_sends_comments(tiny_zoo: Path) -> None:
    line = await connected(tiny_zoo, keepalive_s=0.02)
    scheduler = cast(Any, line.engine).runtime_for("generate", None).scheduler
    take, scheduler.take = scheduler.take, lambda: None  # nothing gets on
    ask(line, max_new_tokens=3)
    await until(lambda: line.transport.written.count(sse.KEEP_ALIVE) >= 2)
    scheduler.take = take
    cast(Any, line.engine).runtime_for("generate", None).loop.wake()
    await until(lambda: line.transport.written.endswith(b"0\r\n\r\n"))
    assert len(sent(line)) == 3
