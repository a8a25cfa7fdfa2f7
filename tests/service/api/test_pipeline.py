"""One HTTP request in the pipeline, over ASGI: checks, errors, headers and metrics."""

import asyncio
import gzip
import logging
import re
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import orjson
import pytest
from starlette.types import Message

from service.settings import Settings
from tests.support.api_clients import FakeSite, problem
from tests.support.http_connection import TAGGED, Wire, request
from tests.support.polling import eventually, turns

REQUESTS = "seqserve_requests_total"


def scope(*headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {
        **{"type": "http", "http_version": "1.1", "method": "POST", "path": "/v1/tag", "raw_path": b"/v1/tag"},
        **{"query_string": b"", "root_path": "", "headers": list(headers), "state": {}},
    }


@pytest.fixture
async def site() -> AsyncIterator[FakeSite]:
    site = FakeSite(Settings(body_bytes=1000, inputs_max=10))
    yield site
    await site.client.aclose()


async def test_a_text_is_tagged(site: FakeSite) -> None:
    response = await site.post("/v1/tag", {"inputs": "é b", "parameters": {"aggregation_strategy": "simple"}})
    assert response.headers["content-type"] == "application/json"
    assert response.json() == [
        {"entity_group": "A", "score": 0.75, "word": "é", "start": 0, "end": 1},
        {"entity_group": "A", "score": 0.75, "word": "b", "start": 2, "end": 3},
    ]


async def test_a_text_is_classified(site: FakeSite) -> None:
    response = await site.post("/v1/classify", {"inputs": "a", "parameters": {"top_k": 1}})
    assert response.json() == [[{"label": "positive", "score": 0.75}]]


async def test_a_text_is_generated(site: FakeSite) -> None:
    parameters = {"seed": 7, "details": True, "stop": ["\n"], "max_new_tokens": 5}
    response = await site.post("/v1/generate", {"inputs": ["a"], "model": "shakespeare", "parameters": parameters})
    assert response.json()[0]["details"]["seed"] == 7
    assert (site.engine.calls[0][2].stop, site.engine.calls[0][2].max_new_tokens) == (("\n",), 5)


async def test_empty_inputs_have_empty_answers(site: FakeSite) -> None:
    assert (await site.post("/v1/tag", {"inputs": ""})).json() == []
    assert (await site.post("/v1/tag", {"inputs": []})).json() == []
    assert (await site.post("/v1/classify", {"inputs": []})).json() == []


async def test_the_answer_says_where_the_time_went(site: FakeSite) -> None:
    response = await site.post("/v1/tag", {"inputs": "a"})
    assert response.headers["server-timing"] == 'queue;dur=1.500, compute;dur=0.500, batch;desc="4"'


async def test_the_models_are_listed_in_the_shape_of_openai(site: FakeSite) -> None:
    listed = (await site.client.get("/v1/models")).json()
    assert (listed["object"], [card["id"] for card in listed["data"]]) == (
        "list",
        ["pos-en", "sentiment-en", "shakespeare"],
    )
    assert (await site.client.get("/v1/models/pos-en")).json() == listed["data"][0]


async def test_a_model_that_does_not_exist_is_refused_with_those_that_do(site: FakeSite) -> None:
    assert problem(await site.client.get("/v1/models/nope"), 404)["available"] == [
        "pos-en",
        "sentiment-en",
        "shakespeare",
        "pos-en-live",
    ]
    assert problem(await site.post("/v1/tag", {"inputs": "a", "model": "shakespeare"}), 404)["available"] == ["pos-en"]


async def test_a_sane_request_id_is_kept(site: FakeSite) -> None:
    assert (await site.post("/v1/tag", {"inputs": "a"}, x_request_id="job-7.a_B")).headers[
        "x-request-id"
    ] == "job-7.a_B"


@pytest.mark.parametrize("sent", ["", "a b", "a" * 129, "<script>", 'a";b'])
async def test_any_other_request_id_is_replaced(site: FakeSite, sent: str) -> None:
    first = (await site.post("/v1/tag", {"inputs": "a"}, x_request_id=sent)).headers["x-request-id"]
    second = (await site.post("/v1/tag", {"inputs": "a"}, x_request_id=sent)).headers["x-request-id"]
    assert len({first, second, sent}) == 3


async def test_an_invalid_field_is_named(site: FakeSite) -> None:
    body = problem(await site.post("/v1/classify", {"inputs": "a", "parameters": {"top_k": 0}}), 422)
    assert (body["field"], body["limit"], body["value"]) == ("parameters.top_k", 1, 0)


async def test_a_content_length_over_the_limit_is_refused_without_reading(site: FakeSite) -> None:
    async def unread() -> Message:
        raise AssertionError("the body was read")

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await site.app(scope((b"content-length", b"1001")), unread, send)
    assert sent[0]["status"] == 413
    assert orjson.loads(sent[1]["body"])["limit"] == 1000


async def test_a_chunked_body_over_the_limit_is_refused_early(site: FakeSite) -> None:
    taken = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield b" " * 100

    response = await site.client.post("/v1/tag", content=chunks())
    assert problem(response, 413)["limit"] == 1000
    assert taken < 20


async def test_a_body_of_exactly_the_limit_is_read(site: FakeSite) -> None:
    body = orjson.dumps({"inputs": "a"})
    response = await site.post("/v1/tag", body + b" " * (1000 - len(body)))
    assert response.status_code == 200


@pytest.mark.parametrize("media", ["text/plain", "application/xml", "application/vnd.bentoml+pickle"])
async def test_another_media_type_is_refused(site: FakeSite, media: str) -> None:
    response = await site.post("/v1/tag", {"inputs": "a"}, content_type=media)
    assert problem(response, 415)["available"] == ["application/json"]
    assert response.headers["accept"] == "application/json"
    assert "accept-encoding" not in response.headers


@pytest.mark.parametrize("media", ["", "application/json", "Application/JSON; charset=utf-8"])
async def test_json_is_read_whether_it_is_announced_or_not(site: FakeSite, media: str) -> None:
    headers = {"content_type": media} if media else {}
    assert (await site.post("/v1/tag", {"inputs": "a"}, **headers)).status_code == 200


def raw_deflate(body: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(body) + compressor.flush()


COMPRESSED = [
    ("gzip", gzip.compress),
    ("X-GZIP", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("identity", bytes),
]


@pytest.mark.parametrize(("coding", "compress"), COMPRESSED)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/tag", {"inputs": "é"}),
        ("/tag", {"inputs": "é"}),
        ("/v1/classify", {"inputs": ["a", "b"]}),
        ("/v1/generate_stream", {"inputs": "a"}),
        ("/v1/completions", {"prompt": "a", "seed": 1}),
        ("/v1/embeddings", {"input": "a"}),
    ],
)
async def test_a_compressed_body_is_read(
    site: FakeSite, path: str, body: object, coding: str, compress: Callable[[bytes], bytes]
) -> None:
    ids = re.compile(r"cmpl-\S+|\d{10}")
    plain = await site.post(path, body)
    found = await site.post(path, compress(orjson.dumps(body)), content_encoding=coding)
    assert found.status_code == 200
    assert ids.sub("", found.text) == ids.sub("", plain.text)


async def test_a_compressed_body_takes_the_fast_path() -> None:
    wire = Wire()
    wire.send(request(gzip.compress(b'{"inputs": "a"}'), "content-encoding: gzip"))
    assert await wire.answers(1) == [(200, TAGGED)]


@pytest.mark.parametrize(("coding", "compress"), COMPRESSED[:-1])
async def test_the_limit_holds_for_what_comes_out(
    site: FakeSite, coding: str, compress: Callable[[bytes], bytes]
) -> None:
    fits = compress(b'{"inputs": "a"}'.ljust(1000))
    assert (await site.post("/v1/tag", fits, content_encoding=coding)).status_code == 200
    over = compress(b'{"inputs": "a"}'.ljust(1001))
    assert problem(await site.post("/v1/tag", over, content_encoding=coding), 413)["limit"] == 1000


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_bomb_is_refused_and_never_unpacked(coding: str) -> None:
    site = FakeSite(Settings())
    bomb = (gzip.compress if coding == "gzip" else zlib.compress)(bytes(500 << 20), 9)
    tracemalloc.start()
    problem(await site.post("/v1/tag", bomb, content_encoding=coding), 413)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize(
    "body", [b"", b'{"inputs": "a"}', gzip.compress(b"{}")[:-3], gzip.compress(b"{}") * 2, gzip.compress(b"{}") + b"x"]
)
async def test_a_body_that_is_not_in_its_coding_is_refused(site: FakeSite, body: bytes) -> None:
    assert problem(await site.post("/v1/tag", body, content_encoding="gzip"), 422)["field"] == "Content-Encoding"


@pytest.mark.parametrize("coding", ["br", "gzip, gzip", "compress"])
async def test_another_coding_is_refused_with_those_that_are_read(site: FakeSite, coding: str) -> None:
    response = await site.post("/v1/tag", b"{}", content_encoding=coding)
    assert problem(response, 415)["available"] == ["gzip", "deflate", "zstd", "identity"]
    assert response.headers["accept-encoding"] == "gzip, deflate, zstd, identity"
    assert "accept" not in response.headers


@pytest.mark.parametrize(
    ("name", "values", "status"),
    [
        ("content-type", ("text/plain", "application/json"), 415),
        ("content-type", ("application/json", "application/json"), 415),
        ("content-encoding", ("gzip", "identity"), 415),
        ("content-length", ("5000", "15"), 422),
        ("x-request-timeout-s", ("nan", "1"), 422),
        ("authorization", ("Bearer wrong", "Bearer right-key"), 401),
    ],
)
async def test_a_repeated_header_is_refused(name: str, values: tuple[str, str], status: int) -> None:
    site = FakeSite(Settings(body_bytes=1000, api_keys=("right-key",)))
    heads = [] if name == "authorization" else [("authorization", "Bearer right-key")]
    heads += [(name, value) for value in values]
    problem(await site.client.post("/v1/tag", content=b'{"inputs": "a"}', headers=heads), status)
    assert site.engine.calls == []


async def test_a_wrong_method_is_refused_with_the_right_ones(site: FakeSite) -> None:
    response = await site.client.get("/v1/tag")
    assert problem(response, 405)["available"] == ["POST"]
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/v1/nope", "/v1/", "/v1/tag/", "/nope", "/v1/models/"])
async def test_an_unknown_path_is_a_problem_and_not_a_label(site: FakeSite, path: str) -> None:
    problem(await site.client.get(path), 404)
    assert site.count(REQUESTS, route="unknown", model="unknown", version="", outcome="not-found") == 1


@pytest.mark.parametrize("sent", ["", "Bearer", "Bearer wrong-key", "Basic right-key-1", "right-key-1", "Bearer é"])
async def test_a_wrong_key_is_401(sent: str) -> None:
    site = FakeSite(Settings(api_keys=("right-key-1", "right-key-2")))
    headers = {"authorization": sent.encode()} if sent else {}
    response = await site.client.post("/v1/tag", content=b'{"inputs": "a"}', headers=headers)
    problem(response, 401)
    assert response.headers["www-authenticate"] == "Bearer"
    assert site.engine.calls == []


@pytest.mark.parametrize("key", ["right-key-1", "right-key-2"])
async def test_every_key_is_accepted(key: str) -> None:
    site = FakeSite(Settings(api_keys=("right-key-1", "right-key-2")))
    assert (await site.post("/v1/tag", {"inputs": "a"}, authorization=f"Bearer {key}")).status_code == 200


@pytest.mark.parametrize("sent", ["0", "-1", "soon", "nan", "inf", "", "1e999", "1_0"])
async def test_an_invalid_timeout_is_refused(site: FakeSite, sent: str) -> None:
    response = await site.post("/v1/tag", {"inputs": "a"}, x_request_timeout_s=sent)
    assert problem(response, 422)["field"] == "X-Request-Timeout-S"


@pytest.mark.parametrize(("sent", "seconds"), [("2.5", 2.5), ("100000", 300.0), (None, 30.0)])
async def test_the_deadline_is_the_clients_up_to_the_maximum(site: FakeSite, sent: str | None, seconds: float) -> None:
    before_s = time.monotonic()
    await site.post("/v1/tag", {"inputs": "a"}, **({"x_request_timeout_s": sent} if sent else {}))
    assert before_s + seconds <= site.engine.calls[0][3].deadline_s <= time.monotonic() + seconds


async def test_an_unfinished_body_is_504_at_the_deadline(site: FakeSite) -> None:
    async def forever() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    response = await site.client.post("/v1/tag", content=forever(), headers={"x-request-timeout-s": "0.05"})
    problem(response, 504)


async def posted_slowly(site: FakeSite, **heads: str) -> tuple[asyncio.Task[httpx.Response], asyncio.Event]:
    """Send half a request; return its answer to come and what to set for the other half."""
    rest = asyncio.Event()

    async def halves() -> AsyncIterator[bytes]:
        yield b'{"inputs":'
        await rest.wait()
        yield b'"a"}'

    answer = asyncio.create_task(site.client.post("/v1/tag", content=halves(), headers=heads))
    await turns()
    return answer, rest


async def test_a_slow_body_is_503_when_the_drain_ends() -> None:
    site = FakeSite(Settings(drain_s=0.2))
    reading, _ = await posted_slowly(site)
    began_s = time.monotonic()
    await site.worker.close()
    problem(await asyncio.wait_for(reading, 5), 503)
    assert 0.15 < time.monotonic() - began_s < 2
    late, _ = await posted_slowly(site)
    problem(await asyncio.wait_for(late, 0.1), 503)


async def test_the_drain_does_not_extend_a_deadline() -> None:
    site = FakeSite(Settings(drain_s=10))
    reading, _ = await posted_slowly(site, **{"x-request-timeout-s": "0.1"})
    await site.worker.close()
    problem(await asyncio.wait_for(reading, 5), 504)


async def test_a_full_queue_is_429_with_retry_after(site: FakeSite) -> None:
    response = await site.post("/v1/tag", {"inputs": "!full"})
    assert problem(response, 429)["limit"] == 4096
    assert response.headers["retry-after"] == "1"


async def test_a_passed_deadline_is_504(site: FakeSite) -> None:
    assert problem(await site.post("/v1/tag", {"inputs": "!late"}), 504)["limit"] == 30


async def test_a_sequence_over_its_limit_is_413(site: FakeSite) -> None:
    assert problem(await site.post("/v1/tag", {"inputs": "!too-long"}), 413)["field"] == "inputs"


async def test_requests_during_the_drain_are_503(site: FakeSite) -> None:
    site.worker.refuse_requests()
    response = await site.post("/v1/tag", {"inputs": "a"})
    problem(response, 503)
    assert response.headers["retry-after"] == "1"


async def test_an_unexpected_error_reveals_nothing_and_is_logged_with_its_request_id(
    site: FakeSite, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "service"):
        response = await site.post("/v1/tag", {"inputs": "!bug"}, x_request_id="job-1")
    problem(response, 500)
    assert "secret" not in response.text
    assert ".py" not in response.text
    assert "job-1" in caplog.records[0].getMessage()


async def test_nothing_is_sent_to_a_disconnected_client(site: FakeSite) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    await site.app(scope(), receive, send)
    assert sent == []
    assert site.count(REQUESTS, route="/v1/tag", model="unknown", version="", outcome="client-gone") == 1


async def test_the_engine_sees_a_disconnect_on_any_asgi_server(site: FakeSite) -> None:
    messages = [{"type": "http.request", "body": b'{"inputs": "!slow 0.5"}'}]
    left = asyncio.Event()

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None: ...

    request = asyncio.create_task(site.app(scope(), receive, send))
    await eventually(lambda: bool(site.engine.calls))
    call = site.engine.calls[0][3]
    assert not call.is_disconnected()
    left.set()
    await request
    assert call.is_disconnected()
    assert site.count(REQUESTS, route="/v1/tag", model="pos-en", version="1", outcome="client-gone") == 1


async def test_on_uvicorn_no_task_waits_for_the_disconnect(site: FakeSite) -> None:
    class RequestResponseCycle:  # what uvicorn has: receive() is its method
        disconnected = False
        more_body = False
        body = b'{"inputs": "!slow 0.05"}'

        async def receive(self) -> Message:
            return {"type": "http.request", "body": b'{"inputs": "!slow 0.05"}'}

    async def send(message: Message) -> None: ...

    cycle = RequestResponseCycle()
    before = len(asyncio.all_tasks())
    request = asyncio.create_task(site.app(scope(), cycle.receive, send))
    await eventually(lambda: bool(site.engine.calls))
    assert len(asyncio.all_tasks()) == before + 1
    cycle.disconnected = True
    assert site.engine.calls[0][3].is_disconnected()
    await request


async def test_a_canceled_request_is_counted_as_cancelled(site: FakeSite) -> None:
    request = asyncio.create_task(site.post("/v1/tag", {"inputs": "!slow 60"}))
    await eventually(lambda: bool(site.engine.calls))
    request.cancel()
    await asyncio.wait([request])
    assert site.count(REQUESTS, route="/v1/tag", model="pos-en", version="1", outcome="cancelled") == 1


async def test_an_answer_that_cannot_be_sent_is_counted_as_cancelled(site: FakeSite) -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": b'{"inputs": "a"}'}

    async def send(message: Message) -> None:
        raise OSError("the connection is broken")

    with pytest.raises(OSError, match="broken"):
        await site.app(scope(), receive, send)
    assert site.count(REQUESTS, route="/v1/tag", model="pos-en", version="1", outcome="cancelled") == 1


async def test_requests_are_counted_by_outcome(site: FakeSite) -> None:
    for text in ("a", "b", "!full", "!bug"):
        await site.post("/v1/tag", {"inputs": text})
    await site.post("/v1/tag", {"inputs": "a", "model": "made-up"})
    labels = {"route": "/v1/tag", "model": "pos-en", "version": "1"}
    assert site.count(REQUESTS, **labels, outcome="ok") == 2
    assert site.count(REQUESTS, **labels, outcome="internal") == 1
    assert site.count("seqserve_request_seconds_count", **labels) == 4
    assert site.count(REQUESTS, route="/v1/tag", model="unknown", version="", outcome="unknown-model") == 1
    assert site.count("seqserve_rejected_total", reason="queue-full") == 1
    assert site.count("seqserve_rejected_total", reason="internal") is None
