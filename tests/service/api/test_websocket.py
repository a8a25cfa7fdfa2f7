"""``WS /v1/stream`` as an ASGI server sees it, with the fake engine."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import chain
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from pydantic import ValidationError

from models import bundle, self_test
from models.manifest import ZOO
from models.tasks import as_json
from service.api.schemas import StreamMessage
from service.api.websocket import FAILED, IDLE, PATH, RESTART, TOO_BIG, UNAUTHORIZED, WebSocketStreams
from service.engine import Engine
from service.settings import Settings
from service.telemetry import RequestRecord
from service.worker import Worker
from tests.support import bundles
from tests.support.engines import load_engine
from tests.support.fake_engine import FakeEngine
from tests.support.polling import eventually, turns
from training.data import published

CONNECT, DISCONNECT = {"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1001}


class StreamClient:
    """A client and its ASGI server. With ``buffer`` it holds so many messages that the client has not read."""

    def __init__(
        self,
        streams: WebSocketStreams,
        path: str = PATH,
        headers: Any = (),
        *,
        can_respond: bool = True,
        buffer: int = 0,
        query: bytes = b"",
    ) -> None:
        self.outgoing: asyncio.Queue[Any] = asyncio.Queue()
        self.incoming: asyncio.Queue[Any] = asyncio.Queue(buffer)
        extensions = {"websocket.http.response": {}} if can_respond else {}
        scope = {
            **{"type": "websocket", "path": path, "query_string": query, "headers": list(headers)},
            "extensions": extensions,
        }
        self.outgoing.put_nowait(CONNECT)
        self.task = asyncio.create_task(streams(scope, self.outgoing.get, self.incoming.put))

    def send(self, message: Any) -> None:
        text = message if isinstance(message, str) else orjson.dumps(message).decode()
        self.outgoing.put_nowait({"type": "websocket.receive", "text": text})

    async def receive(self) -> Any:
        message = await asyncio.wait_for(self.incoming.get(), 5)
        return orjson.loads(message["text"]) if message["type"] == "websocket.send" else message

    async def ask(self, message: Any) -> Any:
        self.send(message)
        return await self.receive()

    async def close(self) -> None:
        self.outgoing.put_nowait(DISCONNECT)
        await asyncio.wait_for(self.task, 5)


def worker_with(**settings: Any) -> Worker:
    worker = Worker(Settings(**settings), lambda *args: cast(Engine, FakeEngine(*args)))
    worker.load()
    return worker


def engine_of(worker: Worker) -> FakeEngine:
    return cast(FakeEngine, worker.engine)


@asynccontextmanager
async def opened(**settings: Any) -> AsyncIterator[tuple[StreamClient, Worker]]:
    worker = worker_with(**settings)
    client = StreamClient(WebSocketStreams(worker))
    assert (await client.receive())["type"] == "websocket.accept"
    yield client, worker
    await client.close()


def active_streams(worker: Worker) -> float | None:
    worker.telemetry.flush()
    assert worker.telemetry.registry is not None
    return worker.telemetry.registry.get_sample_value(
        "seqserve_active_streams", {"model": "pos-en-live", "version": "1"}
    )


async def test_messages_are_answered_in_order_and_continue_the_stream() -> None:
    async with opened() as (client, _):
        for text in ("a b", "c"):
            client.send({"inputs": text})
        first, second = await client.receive(), await client.receive()
    assert [(each["word"], each["start"], each["end"]) for each in first["entities"]] == [("a", 0, 1), ("b", 1, 2)]
    assert [(each["word"], each["start"]) for each in second["entities"]] == [("c", 2)]
    assert (first["steps"], second["steps"]) == (2, 3)


async def test_a_stream_that_has_ended_takes_no_more_inputs_and_has_no_state() -> None:
    async with opened() as (client, _):
        assert (await client.ask({"inputs": "a", "end": True, "return_state": True}))["error"][
            "field"
        ] == "return_state"
        assert len((await client.ask({"inputs": "a", "end": True}))["entities"]) == 1
        assert (await client.ask({"return_state": True}))["error"]["field"] == "return_state"
    async with opened() as (client, _):
        assert await client.ask({"end": True}) == {"entities": [], "steps": 0}


@pytest.mark.parametrize(("query", "status"), [(b"model=pos-en-live", None), (b"nope=1", 422), (b"model=", 422)])
async def test_the_query_of_the_handshake_may_only_name_a_model(query: bytes, status: int | None) -> None:
    client = StreamClient(WebSocketStreams(worker_with()), query=query)
    assert (await client.receive()).get("status") == status
    await client.close()


async def test_the_model_of_the_handshake_is_that_of_the_stream() -> None:
    client = StreamClient(WebSocketStreams(worker_with()), query=b"model=nope")
    await client.receive()
    assert (await client.ask({"inputs": "a"}))["error"]["value"] == "nope"
    assert (await client.ask({"inputs": "a", "model": "pos-en-live"}))["error"]["field"] == "model"
    await client.close()


@pytest.mark.parametrize("name", ["tiny-live-frames", "tiny-live-delayed", "gesture-live"])
async def test_frames_sent_one_by_one_get_the_answers_of_the_whole_sequence(tiny_live: Path, name: str) -> None:
    path, frames = tiny_live / name, bundles.FRAMES * 8
    if name == "gesture-live":
        if "SEQSERVE_DATA" not in os.environ:
            pytest.skip("SEQSERVE_DATA names no data folder")
        path = ZOO / name
        frames = list(map(list, published.load("gesture-phases").dev[0].frames[:500]))
    loaded = bundle.load(path, placement=bundles.CPU)
    worker = Worker(Settings(), lambda *_: load_engine(path))
    worker.load()
    client = StreamClient(WebSocketStreams(worker))
    await client.receive()
    found = [(await client.ask({"inputs": frame}))["entities"] for frame in frames]
    assert [len(part) for part in found] == [int(step >= loaded.task.delay) for step in range(len(frames))]
    found.append((await client.ask({"end": True}))["entities"])
    assert list(chain(*found)) == as_json(self_test.answer(loaded, frames))
    await client.close()
    await worker.engine.drain(5)


async def test_a_stream_keeps_its_model() -> None:
    async with opened() as (client, worker):
        assert await client.ask({"model": "pos-en-live"}) == {"model": "pos-en-live", "version": "1", "steps": 0}
        assert (await client.ask({"model": "other", "inputs": "a"}))["error"]["status"] == 422
        assert (await client.ask({"model": "pos-en-live", "inputs": "a"}))["steps"] == 1
        assert active_streams(worker) == 1
    assert active_streams(worker) == 0


@pytest.mark.parametrize(
    ("message", "status", "field"),
    [
        ("{", 422, None),
        ("[]", 422, None),
        ({"nope": 1}, 422, "nope"),
        ({"inputs": {"a": 1}}, 422, "inputs"),
        ({"inputs": ["a", 1]}, 422, "inputs"),
        ({"inputs": ["a"] * 9}, 413, "inputs"),
        ({"inputs": "!full"}, 429, None),
        ({"inputs": "!late"}, 504, None),
        ({"inputs": "!bug"}, 500, None),
        ({"model": "nope"}, 404, "model"),
    ],
)
async def test_an_error_is_answered_and_the_stream_continues(message: Any, status: int, field: str | None) -> None:
    async with opened(inputs_max=8) as (client, _):
        if "model" not in message:
            await client.ask({"inputs": "a"})
        error = (await client.ask(message))["error"]
        assert (error["status"], error.get("field")) == (status, field)
        assert error["request_id"]
        before = 0 if "model" in message else 1
        assert (await client.ask({"inputs": "b"}))["entities"][0]["start"] == before


async def test_a_message_is_read_only_after_the_answer_to_the_one_before() -> None:
    async with opened() as (client, worker):
        for text in ("!wait", "b", "c"):
            client.send({"inputs": text})
        await eventually(lambda: engine_of(worker).running == 1)
        await turns()
        assert client.outgoing.qsize() == 2
        engine_of(worker).proceed.set()
        assert [(await client.receive())["steps"] for _ in range(3)] == [1, 2, 3]


async def test_a_client_that_does_not_read_holds_one_answer() -> None:
    worker = worker_with()
    client = StreamClient(WebSocketStreams(worker), buffer=1)
    await client.receive()
    for _ in range(5):
        client.send({"inputs": "a"})
    await eventually(lambda: client.outgoing.qsize() == 3)  # one answer is buffered, one waits to be sent
    await turns()
    assert (client.incoming.qsize(), client.outgoing.qsize()) == (1, 3)
    client.task.cancel()


async def test_an_idle_stream_is_closed() -> None:
    async with opened(stream_idle_s=0.05) as (client, _):
        assert (await client.receive())["code"] == IDLE


async def test_a_stream_whose_client_does_not_read_ends() -> None:
    streams = WebSocketStreams(worker_with(stream_idle_s=0.02, write_timeout_s=0.02))
    client = StreamClient(streams, buffer=1)
    await client.receive()
    client.send({"inputs": "a"})
    client.send({"inputs": "b"})
    await asyncio.wait_for(client.task, 5)
    assert (await client.receive())["steps"] == 1
    assert client.incoming.empty()


async def test_draining_closes_idle_streams_and_answers_running_messages() -> None:
    worker = worker_with()
    streams = WebSocketStreams(worker)
    idle, busy = StreamClient(streams), StreamClient(streams)
    for client in (idle, busy):
        await client.receive()
    engine = engine_of(worker)
    busy.send({"inputs": "!wait"})
    await eventually(lambda: engine.running == 1)
    closing = asyncio.create_task(worker.close())
    assert (await idle.receive())["code"] == RESTART
    engine.proceed.set()
    assert (await busy.receive())["steps"] == 1
    assert (await busy.receive())["code"] == RESTART
    await closing


async def test_a_stream_that_opens_in_the_lame_duck_period_is_served_until_the_drain() -> None:
    class StoppingWorker(Worker):
        def __init__(self) -> None:
            super().__init__(Settings(), lambda *args: cast(Engine, FakeEngine(*args)))
            self.stop_hooks: list[Callable[[], None]] = []

        def on_stop(self, hook: Callable[[], None]) -> None:
            self.stop_hooks.append(hook)

    worker = StoppingWorker()
    worker.load()
    streams = WebSocketStreams(worker)
    early = StreamClient(streams)
    await early.receive()
    await early.ask({"inputs": "a"})
    (stop,) = worker.stop_hooks
    stop()
    assert (await early.receive())["code"] == RESTART
    late = StreamClient(streams)
    await late.receive()
    assert (await late.ask({"inputs": "a"}))["steps"] == 1
    await worker.close()
    assert (await late.receive())["code"] == RESTART


async def test_a_stream_that_times_out_while_the_drain_begins_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    worker, sent = worker_with(stream_idle_s=1e-9), list[Any]()
    messages, closing = [CONNECT], list[asyncio.Task[None]]()

    async def receive() -> Any:
        if messages:
            return messages.pop()
        # The drain begins after the timeout has expired and before the stream has noticed.
        closing.append(asyncio.create_task(worker.close()))
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    await WebSocketStreams(worker)({"type": "websocket", "path": PATH, "headers": []}, receive, send)
    await closing[0]
    assert sent[-1]["code"] == RESTART
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_failing_drain_hook_does_not_stop_the_drain(caplog: pytest.LogCaptureFixture) -> None:
    worker = worker_with()
    worker.on_drain(lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    client = StreamClient(WebSocketStreams(worker))
    await client.receive()
    await worker.close()
    assert (await client.receive())["code"] == RESTART
    assert [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_stream_whose_close_cannot_be_sent_ends() -> None:
    streams = WebSocketStreams(worker_with(stream_idle_s=0.02, write_timeout_s=0.02))
    client = StreamClient(streams, buffer=1)  # the accept fills the buffer, so the close has to wait
    await asyncio.wait_for(client.task, 5)
    assert streams.open == 0


async def test_a_message_over_the_body_limit_closes_the_stream() -> None:
    async with opened(body_bytes=40) as (client, _):
        assert (await client.ask({"inputs": "a" * 40}))["code"] == TOO_BIG


@pytest.mark.parametrize(
    ("path", "headers", "settings", "status"),
    [
        ("/v1/other", [], {}, 404),
        (PATH, [], {"api_keys": ("secret-key",)}, 401),
        (PATH, [(b"authorization", b"Bearer wrong")], {"api_keys": ("secret-key",)}, 401),
        (PATH, [(b"x-request-timeout-s", b"no")], {}, 422),
    ],
)
async def test_a_handshake_is_refused_with_a_problem(
    path: str, headers: Any, settings: dict[str, Any], status: int
) -> None:
    client = StreamClient(WebSocketStreams(worker_with(**settings)), path, headers)
    start, body = await client.receive(), await client.receive()
    assert (start["status"], orjson.loads(body["body"])["status"]) == (status, status)
    await client.task


@pytest.mark.parametrize(
    ("origins", "status"),
    [
        ([], None),
        ([b"https://example.org"], None),
        ([b"http://Here:3000"], None),
        ([b"http://here"], 403),
        ([b"https://here:3000"], 403),
        ([b"ftp://here:3000"], 403),
        ([b"here:3000"], 403),
        ([b"https://evil.example"], 403),
        ([b"null"], 403),
        ([b"https://example.org", b"https://evil.example"], 403),
    ],
)
async def test_pages_of_other_origins_cannot_open_streams(origins: list[bytes], status: int | None) -> None:
    headers = [(b"host", b"here:3000"), *((b"origin", each) for each in origins)]
    streams = WebSocketStreams(worker_with(cors_origins=("https://example.org",)))
    client = StreamClient(streams, headers=headers)
    answer = await client.receive()
    assert answer.get("status") == status
    await client.close()


@pytest.mark.parametrize(("proto", "status"), [(b"https", None), (b"http", 403), (b"https, http", None)])
async def test_a_proxy_can_say_which_scheme_the_service_has(proto: bytes, status: int | None) -> None:
    headers = [(b"host", b"here"), (b"origin", b"https://here:443"), (b"x-forwarded-proto", proto)]
    client = StreamClient(WebSocketStreams(worker_with()), headers=headers)
    assert (await client.receive()).get("status") == status
    await client.close()


async def test_a_bug_in_the_handshake_is_answered_with_500(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = worker_with()
    monkeypatch.setattr(FakeEngine, "defaults", lambda self: 1 // 0)
    client = StreamClient(WebSocketStreams(worker))
    assert (await client.receive())["status"] == 500
    await client.task


async def test_a_bug_outside_a_message_closes_the_stream() -> None:
    streams = WebSocketStreams(worker_with())
    client = StreamClient(streams)
    await client.receive()
    client.outgoing.put_nowait({})  # not an ASGI message
    assert (await client.receive())["code"] == FAILED
    await client.task
    assert streams.open == 0


async def test_a_stream_is_recorded_once_at_its_end() -> None:
    worker, records = worker_with(), list[RequestRecord]()
    worker.observers = (records.append,)
    client = StreamClient(WebSocketStreams(worker), headers=[(b"x-request-id", b"mine")])
    names = [name for name, _ in (await client.receive())["headers"]]
    assert {b"x-request-id", b"server-timing"} <= set(names)
    for _ in range(2):
        await client.ask({"inputs": "a"})
    assert not records
    await client.close()
    assert [(each.request.request_id, each.model, each.outcome) for each in records] == [("mine", "pos-en-live", "ok")]
    assert records[0].sent_bytes > 0


async def test_a_valid_key_opens_a_stream() -> None:
    streams = WebSocketStreams(worker_with(api_keys=("secret-key",)))
    client = StreamClient(streams, headers=[(b"authorization", b"Bearer secret-key")])
    assert (await client.receive())["type"] == "websocket.accept"
    await client.close()


async def test_a_server_without_handshake_responses_closes() -> None:
    client = StreamClient(WebSocketStreams(worker_with(api_keys=("secret-key",))), can_respond=False)
    assert await client.receive() == {"type": "websocket.close"}
    await client.task


async def test_streams_over_the_limit_are_refused_until_one_ends() -> None:
    streams = WebSocketStreams(worker_with(streams_max=1))
    first, second = StreamClient(streams), StreamClient(streams)
    assert (await first.receive())["type"] == "websocket.accept"
    assert (await second.receive())["status"] == 429
    await first.close()
    third = StreamClient(streams)
    assert (await third.receive())["type"] == "websocket.accept"
    await third.close()


async def test_every_message_counts_against_the_rate_limit() -> None:
    async with opened(rate_limit="3/min") as (client, _):
        assert (await client.ask({"inputs": "a"}))["steps"] == 1
        assert (await client.ask({"inputs": "b"}))["steps"] == 2
        assert (await client.ask({"inputs": "c"}))["error"]["status"] == 429


async def test_invalid_messages_count_against_the_rate_limit() -> None:
    async with opened(rate_limit="3/min") as (client, _):
        assert [(await client.ask("{"))["error"]["status"] for _ in range(3)] == [422, 422, 429]


async def test_keys_are_checked_for_every_message(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("alice alices-key\n")
    worker = worker_with(api_keys_file=str(keys))
    client = StreamClient(WebSocketStreams(worker), headers=[(b"authorization", b"Bearer alices-key")])
    await client.receive()
    assert (await client.ask({"inputs": "a"}))["steps"] == 1
    for line in ("alice alices-key rate=1/h", "bob another-key"):
        keys.with_suffix(".new").write_text(line)
        keys.with_suffix(".new").replace(keys)
        assert worker.authenticator is not None
        worker.authenticator.refresh()
        if "rate" in line:
            assert (await client.ask({"inputs": "a"}))["steps"] == 2
            assert (await client.ask({"inputs": "a"}))["error"]["status"] == 429
    assert (await client.ask({"inputs": "a"}))["code"] == UNAUTHORIZED
    await client.task


def test_a_message_is_validated_up_to_its_first_error() -> None:
    with pytest.raises(ValidationError) as caught:
        StreamMessage.model_validate_json(b'{"inputs": [' + b",".join([b"{}"] * 1000) + b"]}")
    assert caught.value.error_count() < 10


async def test_a_state_is_returned_on_request_and_opens_a_stream() -> None:
    async with opened() as (client, _):
        assert "state" not in await client.ask({"inputs": "a"})
        assert (await client.ask({"inputs": "b", "return_state": True}))["state"] == "after 2"
        assert (await client.ask({"return_state": True}))["state"] == "after 2"
        assert (await client.ask({"state": "after 2", "inputs": "c"}))["error"]["field"] == "state"
    async with opened() as (client, _):
        assert (await client.ask({"state": "after 2", "inputs": "c"}))["entities"][0]["start"] == 2
