"""/v1/stream as an ASGI server sees it, with the fake engine: order, errors that harm nothing, ends."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from pydantic import ValidationError

from service.api.schemas import STREAM_MESSAGE
from service.api.websocket import FAILED, IDLE, PATH, RESTART, TOO_BIG, UNAUTHORIZED, StreamConnection, WebSocketStreams
from service.engine import Engine
from service.request_record import Ended
from service.settings import Settings
from service.worker import Worker
from tests.support.fake_engine import FakeEngine

CONNECT, GONE = {"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1001}


class Client:
    """Both ends of what an ASGI server would be between."""

    def __init__(self, streams: WebSocketStreams, path: str = PATH, headers: Any = (), *, speaks: bool = True) -> None:
        self.sent: asyncio.Queue[Any] = asyncio.Queue()
        self.got: asyncio.Queue[Any] = asyncio.Queue()
        extensions = {"websocket.http.response": {}} if speaks else {}
        scope = {"type": "websocket", "path": path, "headers": list(headers), "extensions": extensions}
        self.sent.put_nowait(CONNECT)
        self.task = asyncio.create_task(streams(scope, self.sent.get, self.got.put))

    def say(self, message: Any) -> None:
        text = message if isinstance(message, str) else orjson.dumps(message).decode()
        self.sent.put_nowait({"type": "websocket.receive", "text": text})

    async def hear(self) -> Any:
        message = await asyncio.wait_for(self.got.get(), 5)
        return orjson.loads(message["text"]) if message["type"] == "websocket.send" else message

    async def ask(self, message: Any) -> Any:
        self.say(message)
        return await self.hear()


def worker_of(**settings: Any) -> Worker:
    worker = Worker(Settings(**settings), lambda *args: cast(Engine, FakeEngine(*args)))
    worker.load()
    return worker


@asynccontextmanager
async def opened(**settings: Any) -> AsyncIterator[tuple[Client, Worker]]:
    worker = worker_of(**settings)
    client = Client(WebSocketStreams(worker))
    assert (await client.hear())["type"] == "websocket.accept"
    yield client, worker
    client.sent.put_nowait(GONE)
    await asyncio.wait_for(client.task, 5)


def active(worker: Worker) -> list[str]:
    worker.telemetry.flush()
    from prometheus_client import generate_latest

    assert worker.telemetry.registry is not None
    lines = generate_latest(worker.telemetry.registry).decode().splitlines()
    return [line for line in lines if line.startswith("seqserve_active_streams{")]


async def test_the_first_message_may_be_inputs_and_every_message_is_answered_in_order() -> None:
    async with opened() as (client, _):
        for text in ("a b", "c"):
            client.say({"inputs": text})
        first, second = await client.hear(), await client.hear()
    assert [(each["word"], each["start"], each["end"]) for each in first["entities"]] == [("a", 0, 1), ("b", 1, 2)]
    assert [(each["word"], each["start"]) for each in second["entities"]] == [("c", 2)]
    assert (first["steps"], second["steps"]) == (2, 3)


async def test_a_stream_is_opened_by_name_and_stays_with_its_model() -> None:
    async with opened() as (client, worker):
        assert await client.ask({"model": "pos-en-live"}) == {"model": "pos-en-live", "steps": 0}
        assert (await client.ask({"model": "other", "inputs": "a"}))["error"]["status"] == 422
        assert (await client.ask({"model": "pos-en-live", "inputs": "a"}))["steps"] == 1
        assert active(worker) == ['seqserve_active_streams{model="pos-en-live"} 1.0']
    assert active(worker) == ['seqserve_active_streams{model="pos-en-live"} 0.0']


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
async def test_an_error_is_told_and_the_stream_goes_on_as_if_it_had_not_been(
    message: Any, status: int, field: str | None
) -> None:
    async with opened(inputs_max=8) as (client, _):
        if "model" not in message:
            await client.ask({"inputs": "a"})
        error = (await client.ask(message))["error"]
        assert (error["status"], error.get("field")) == (status, field)
        assert error["request_id"]
        before = 0 if "model" in message else 1
        assert (await client.ask({"inputs": "b"}))["entities"][0]["start"] == before


async def test_one_message_is_in_work_and_the_next_is_not_read_before_its_answer() -> None:
    async with opened() as (client, _):
        client.say({"inputs": "!slow 0.1"})
        client.say({"inputs": "b"})
        client.say({"inputs": "c"})
        await asyncio.sleep(0.03)
        assert client.sent.qsize() == 2
        assert [(await client.hear())["steps"] for _ in range(3)] == [2, 3, 4]


async def test_a_client_that_does_not_read_holds_its_one_answer_and_no_more() -> None:
    worker = worker_of()
    client = Client(WebSocketStreams(worker))
    await client.hear()
    client.got._maxsize = 1  # type: ignore[attr-defined]
    for _ in range(5):
        client.say({"inputs": "a"})
    await asyncio.sleep(0.05)
    assert client.got.qsize() == 1
    assert client.sent.qsize() == 3  # one was answered, one waits to be sent
    client.task.cancel()


async def test_a_stream_that_nobody_uses_is_closed_and_so_is_one_that_nobody_reads() -> None:
    async with opened(stream_idle_s=0.05) as (client, _):
        assert (await client.hear())["code"] == IDLE
    async with opened(stream_idle_s=0.05) as (client, _):
        client.got._maxsize = 1  # type: ignore[attr-defined]
        client.say({"inputs": "a"})
        client.say({"inputs": "b"})
        await asyncio.sleep(0.2)
        assert (await client.hear())["steps"] == 1
        assert (await client.hear())["code"] == IDLE


async def test_a_drain_closes_streams_that_wait_at_once_and_answers_those_at_work() -> None:
    worker = worker_of()
    streams = WebSocketStreams(worker)
    idle, busy = Client(streams), Client(streams)
    for client in (idle, busy):
        await client.hear()
    busy.say({"inputs": "!slow 0.1"})
    await asyncio.sleep(0.03)
    closing = asyncio.create_task(worker.close())
    assert (await idle.hear())["code"] == RESTART
    assert (await busy.hear())["steps"] == 2
    assert (await busy.hear())["code"] == RESTART
    await closing


async def test_a_stream_that_is_just_running_out_of_time_does_not_hold_up_the_drain(
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = worker_of()
    streams = WebSocketStreams(worker)
    client = Client(streams)
    await client.hear()
    (wait,) = streams._waits
    loop = asyncio.get_running_loop()
    wait.reschedule(loop.time() - 1)  # expires in the next turn of the loop, and the drain begins in it
    loop.call_soon(worker._begin_drain)
    assert "code" in await client.hear()
    assert worker._drain is not None
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_drain_goes_on_where_a_hook_of_it_fails(caplog: pytest.LogCaptureFixture) -> None:
    worker = worker_of()
    worker.on_drain(lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    streams = WebSocketStreams(worker)
    client = Client(streams)
    await client.hear()
    await worker.close()
    assert (await client.hear())["code"] == RESTART
    assert "a hook of the drain failed" in caplog.text


async def test_a_stream_whose_close_cannot_be_sent_is_left() -> None:
    worker = worker_of(stream_idle_s=0.02, write_timeout_s=0.02, streams=1)
    streams = WebSocketStreams(worker)
    client = Client(streams)
    client.got._maxsize = 1  # type: ignore[attr-defined]
    await asyncio.sleep(0.01)  # the queue is full of the accept: the close has to wait
    await asyncio.wait_for(client.task, 5)
    assert streams._open == 0


async def test_too_large_a_message_ends_the_stream() -> None:
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
async def test_a_handshake_is_refused_as_a_request_would_be(
    path: str, headers: Any, settings: dict[str, Any], status: int
) -> None:
    client = Client(WebSocketStreams(worker_of(**settings)), path, headers)
    start, body = await client.hear(), await client.hear()
    assert (start["status"], orjson.loads(body["body"])["status"]) == (status, status)
    await client.task


@pytest.mark.parametrize(
    ("origins", "status"),
    [
        ([], None),
        ([b"https://example.org"], None),
        ([b"http://Here:3000"], None),
        ([b"http://here"], 403),
        ([b"https://evil.example"], 403),
        ([b"null"], 403),
        ([b"https://example.org", b"https://evil.example"], 403),
    ],
)
async def test_a_page_of_another_origin_opens_no_stream(origins: list[bytes], status: int | None) -> None:
    heads = [(b"host", b"here:3000"), *((b"origin", each) for each in origins)]
    client = Client(WebSocketStreams(worker_of(cors_origins=("https://example.org",))), headers=heads)
    answer = await client.hear()
    assert answer.get("status") == status
    client.sent.put_nowait(GONE)
    await asyncio.wait_for(client.task, 5)


async def test_a_bug_is_told_at_the_handshake_and_later_and_is_counted() -> None:
    worker = worker_of()
    streams = WebSocketStreams(worker)

    def broken(*_: Any) -> Any:
        raise RuntimeError("a bug")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(streams, "_check", broken)
        refused = Client(streams)
        assert (await refused.hear())["status"] == 500
        await refused.task
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(streams, "wait_for_client", broken)
        patched.setattr(StreamConnection, "_next", broken)
        opened = Client(streams)
        assert (await opened.hear())["type"] == "websocket.accept"
        assert (await opened.hear())["code"] == FAILED
        await opened.task
    assert streams._open == 0


async def test_a_stream_is_told_to_those_who_watch_once_at_its_end() -> None:
    worker, told = worker_of(), list[Ended]()
    worker.watchers = (told.append,)
    client = Client(WebSocketStreams(worker), headers=[(b"x-request-id", b"mine")])
    names = [name for name, _ in (await client.hear())["headers"]]
    assert {b"x-request-id", b"server-timing"} <= set(names)
    for _ in range(2):
        await client.ask({"inputs": "a"})
    assert not told
    client.sent.put_nowait(GONE)
    await client.task
    assert [(each.call.request_id, each.model, each.outcome) for each in told] == [("mine", "pos-en-live", "ok")]
    assert told[0].sent > 0


async def test_the_right_key_opens_a_stream_and_a_server_without_words_says_403() -> None:
    settings = {"api_keys": ("secret-key",)}
    right = Client(WebSocketStreams(worker_of(**settings)), headers=[(b"authorization", b"Bearer secret-key")])
    assert (await right.hear())["type"] == "websocket.accept"
    right.sent.put_nowait(GONE)
    await right.task
    wordless = Client(WebSocketStreams(worker_of(**settings)), speaks=False)
    assert await wordless.hear() == {"type": "websocket.close"}
    await wordless.task


async def test_more_streams_than_may_be_are_refused_until_one_ends() -> None:
    streams = WebSocketStreams(worker_of(streams=1))
    first, second = Client(streams), Client(streams)
    assert (await first.hear())["type"] == "websocket.accept"
    assert (await second.hear())["status"] == 429
    first.sent.put_nowait(GONE)
    await first.task
    third = Client(streams)
    assert (await third.hear())["type"] == "websocket.accept"
    third.sent.put_nowait(GONE)
    await third.task


async def test_a_message_is_a_request_to_the_limits_of_its_client() -> None:
    async with opened(rate_limit="3/min") as (client, _):
        assert (await client.ask({"inputs": "a"}))["steps"] == 1
        assert (await client.ask({"inputs": "b"}))["steps"] == 2
        assert (await client.ask({"inputs": "c"}))["error"]["status"] == 429


async def test_a_bad_message_is_a_request_too() -> None:
    async with opened(rate_limit="3/min") as (client, _):
        assert [(await client.ask("{"))["error"]["status"] for _ in range(3)] == [422, 422, 429]


async def test_keys_and_limits_are_those_of_the_message_and_not_of_the_handshake(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("alice alices-key\n")
    worker = worker_of(api_keys_file=str(keys))
    client = Client(WebSocketStreams(worker), headers=[(b"authorization", b"Bearer alices-key")])
    await client.hear()
    assert (await client.ask({"inputs": "a"}))["steps"] == 1
    for line in ("alice alices-key rate=1/h", "bob another-key"):
        keys.with_suffix(".new").write_text(line)
        keys.with_suffix(".new").replace(keys)
        assert worker.gate is not None
        worker.gate.refresh()
        if "rate" in line:
            assert (await client.ask({"inputs": "a"}))["steps"] == 2
            assert (await client.ask({"inputs": "a"}))["error"]["status"] == 429
    assert (await client.ask({"inputs": "a"}))["code"] == UNAUTHORIZED
    await client.task


def test_a_message_of_nothing_good_has_few_errors() -> None:
    with pytest.raises(ValidationError) as caught:
        STREAM_MESSAGE.validate_json(b'{"inputs": [' + b",".join([b"{}"] * 1000) + b"]}")
    assert caught.value.error_count() < 10


async def test_a_state_is_handed_out_when_it_is_asked_for_and_only_begins_a_stream() -> None:
    async with opened() as (client, _):
        assert "state" not in await client.ask({"inputs": "a"})
        assert (await client.ask({"inputs": "b", "return_state": True}))["state"] == "after 2"
        assert (await client.ask({"return_state": True}))["state"] == "after 2"
        assert (await client.ask({"state": "after 2", "inputs": "c"}))["error"]["field"] == "state"
    async with opened() as (client, _):
        assert (await client.ask({"state": "after 2", "inputs": "c"}))["entities"][0]["start"] == 2
