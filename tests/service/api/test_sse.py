"""``/v1/generate_stream``: events, errors, and what happens to slow or disconnected clients."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from models import self_test
from models.bundle import Bundle
from models.tasks import as_json
from service.api import sse
from service.engine import Engine
from service.generation import TokenDelta
from service.settings import Settings
from service.worker import Worker
from tests.support.api_clients import FakeSite, problem
from tests.support.engines import used_slots
from tests.support.fake_engine import TEXT
from tests.support.http_connection import Wire, request
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
    body = {"inputs": "a", "parameters": {"return_full_text": True}}
    found = events(await site.post("/v1/generate", {**body, "stream": True}))
    assert found == events(await site.post(PATH, body))
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
    assert site.count("seqserve_requests_total", route=PATH, model="shakespeare", version="1", outcome=slug) == 1
    assert site.engine.running == 0


async def test_active_streams_are_counted(site: FakeSite) -> None:
    sending = asyncio.create_task(site.post(PATH, {"inputs": "then !slow 0.05"}))
    await eventually(lambda: site.count("seqserve_active_streams", model="shakespeare", version="1") == 1)
    await sending
    assert site.count("seqserve_active_streams", model="shakespeare", version="1") == 0


class StreamingConnection:
    """A connection over the fast path to the real engine with tiny bundles."""

    def __init__(self, zoo: Path, **settings: Any) -> None:
        worker = Worker(Settings(bundles=(str(zoo),), device="cpu", **settings), Engine.load)
        worker.load()
        self.engine = worker.engine
        self.connection = Wire(worker=worker)

    def ask(self, **parameters: Any) -> None:
        body = {"inputs": "ROMEO:", "model": "tiny-generate", "parameters": {"seed": 7, **parameters}}
        self.connection.send(request(body, path=PATH))

    @property
    def written(self) -> bytes:
        return self.connection.transport.written

    @property
    def events(self) -> list[Any]:
        return [orjson.loads(part.partition(b"\n")[0]) for part in self.written.split(b"data: ")[1:]]

    @property
    def ended(self) -> bool:
        return self.written.endswith(b"0\r\n\r\n")

    async def slot_is_free(self) -> None:
        await eventually(lambda: used_slots(self.engine) == 0)


async def test_a_stream_equals_the_reference(tiny_zoo: Path, generator: Bundle) -> None:
    client = StreamingConnection(tiny_zoo)
    client.ask(max_new_tokens=150)
    await eventually(lambda: client.ended)
    expected = as_json(self_test.answer(generator, "ROMEO:", {"max_new_tokens": 150, "seed": 7, "details": True}))
    assert [event["token"] for event in client.events] == expected["details"]["tokens"]
    assert client.events[-1]["generated_text"] == expected["generated_text"]


async def test_a_client_that_does_not_read_is_disconnected_and_frees_its_slot(tiny_zoo: Path) -> None:
    client = StreamingConnection(tiny_zoo, write_timeout_s=0.05)
    client.ask(max_new_tokens=4096)
    client.connection.protocol.pause_writing()  # the transport's buffer is full
    await eventually(lambda: client.connection.transport.aborted)
    assert not client.ended
    client.connection.protocol.connection_lost(None)  # what a transport does after abort()
    await client.slot_is_free()


async def test_a_slow_client_gets_every_event(tiny_zoo: Path) -> None:
    client = StreamingConnection(tiny_zoo)
    client.ask(max_new_tokens=4096)
    await eventually(lambda: bool(client.written))
    client.connection.protocol.pause_writing()
    await client.slot_is_free()  # the text is complete
    assert not client.ended
    client.connection.protocol.resume_writing()
    await eventually(lambda: client.ended)
    assert [event["index"] for event in client.events] == list(range(1, 4097))


async def test_a_disconnect_frees_the_slot(tiny_zoo: Path) -> None:
    client = StreamingConnection(tiny_zoo)
    client.ask(max_new_tokens=4096)
    await eventually(lambda: bool(client.written))
    assert used_slots(client.engine) == 1
    client.connection.protocol.connection_lost(None)
    await client.slot_is_free()


async def test_a_stalled_stream_sends_keep_alive_comments(tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = StreamingConnection(tiny_zoo, keepalive_s=0.02)
    runtime = client.engine.runtime_for("generate", None)
    with monkeypatch.context() as stalled:
        stalled.setattr(runtime.scheduler, "take", lambda: None)
        client.ask(max_new_tokens=3)
        await eventually(lambda: client.written.count(sse.KEEP_ALIVE) >= 2)
    runtime.loop.wake()
    await eventually(lambda: client.ended)
    assert len(client.events) == 3


async def test_no_proxy_is_to_buffer_a_stream(site: FakeSite) -> None:
    for path, body in (
        (PATH, {"inputs": "a"}),
        ("/v1/generate", {"inputs": "a", "stream": True}),
        ("/v1/completions", {"prompt": "a", "stream": True}),
    ):
        assert (await site.post(path, body)).headers["x-accel-buffering"] == "no"


@pytest.mark.parametrize("head", ["connection: keep-alive", "accept: */*"])
async def test_a_client_of_http_1_0_reads_a_stream_as_it_is_written(head: str) -> None:
    connection = Wire()
    connection.send(request({"inputs": "then !wait"}, head, path=PATH, version="1.0"))
    await eventually(lambda: b"data: " in connection.transport.written)
    assert not connection.transport.closed
    connection.engine.proceed.set()
    await eventually(lambda: connection.transport.closed)
    head_lines, _, content = connection.transport.written.partition(b"\r\n\r\n")
    assert b"connection: close" in head_lines
    assert b"transfer-encoding" not in head_lines
    assert all(line.startswith(b"data: ") for line in content.split(b"\n\n")[:-1])
    assert content.count(b'"generated_text":" ') == 1


async def test_a_stream_that_fails_over_http_1_0_ends_with_the_error() -> None:
    connection = Wire()
    connection.send(request({"inputs": "then !late"}, path=PATH, version="1.0"))
    await eventually(lambda: connection.transport.closed)
    assert b"event: error\ndata: " in connection.transport.written
