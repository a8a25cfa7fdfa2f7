"""``bentoml serve`` with the fake engine: official clients, both sets of routes, metrics, keys and shutdown."""

import contextlib
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bentoml
import httpx
import psutil
import pytest
import text_generation
from huggingface_hub import InferenceClient
from huggingface_hub.errors import GenerationError
from text_generation import errors as tgi_errors

from tests.support.bentoml_server import served
from tests.support.polling import wait_until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    with served(tmp_path_factory.mktemp("bentoml"), SEQSERVE_WORKERS="2") as (address, _, log):
        yield address, log


@pytest.fixture(scope="module")
def address(server: tuple[str, Path]) -> str:
    return server[0]


def test_the_client_of_hugging_face_tags(address: str) -> None:
    client = InferenceClient(model=f"{address}/v1/tag")
    found = client.token_classification("Harry met", aggregation_strategy="simple")
    assert [(e.entity_group, e.word, e.start, e.end) for e in found] == [("A", "Harry", 0, 5), ("A", "met", 6, 9)]
    assert client.token_classification("Harry")[0].entity == "A"


def test_the_client_of_hugging_face_classifies(address: str) -> None:
    found = InferenceClient(model=f"{address}/v1/classify").text_classification("lovely", top_k=1)
    assert [(e.label, e.score) for e in found] == [("positive", 0.75)]


def test_the_client_of_hugging_face_generates(address: str) -> None:
    client = InferenceClient(model=f"{address}/v1/generate")
    assert client.text_generation("a", stream=False, do_sample=True) == " ünd so"
    found = client.text_generation("a", max_new_tokens=7, temperature=0.5, stop=["\n"], seed=3, details=True)
    assert (found.generated_text, found.details and found.details.finish_reason) == (" ünd so", "length")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, tiny_zoo: Path) -> Iterator[str]:
    """The address of the real service with two workers and the tiny bundles."""
    home, zoo = tmp_path_factory.mktemp("bentoml"), str(tiny_zoo)
    real = "service.app:Seqserve"
    with served(home, service=real, SEQSERVE_WORKERS="2", SEQSERVE_BUNDLES=zoo, SEQSERVE_DEVICE="cpu") as (address, *_):
        yield address


@pytest.mark.parametrize("route", ["generate_stream", "generate"])
def test_the_client_of_hugging_face_reads_a_stream(real: str, route: str) -> None:
    client = InferenceClient(model=f"{real}/v1/{route}")
    asked: dict[str, Any] = {"max_new_tokens": 50, "seed": 7}
    whole = InferenceClient(model=f"{real}/v1/generate").text_generation("ROMEO:", **asked)
    assert "".join(client.text_generation("ROMEO:", stream=True, **asked)) == whole
    events = list(client.text_generation("ROMEO:", stream=True, details=True, **asked))
    assert "".join(event.token.text for event in events) == events[-1].generated_text == whole
    assert events[-1].details is not None
    assert (events[-1].details.finish_reason, events[-1].details.generated_tokens) == ("length", 50)
    assert [event.index for event in events] == list(range(1, 51))


def tgi_client(address: str) -> text_generation.Client:
    return text_generation.Client(address, timeout=60)


@pytest.mark.parametrize("path", ["", "/v1/generate", "/generate"])
def test_the_client_of_text_generation_inference_generates(real: str, path: str) -> None:
    client = tgi_client(real + path)
    whole = InferenceClient(model=f"{real}/v1/generate").text_generation("ROMEO:", max_new_tokens=20, do_sample=False)
    found = client.generate("ROMEO:")
    assert (found.generated_text, found.details.finish_reason, len(found.details.tokens)) == (whole, "length", 20)
    asked: dict[str, Any] = {"temperature": 0.9, "seed": 3, "best_of": 1, "repetition_penalty": 1.0}
    sampled = InferenceClient(model=f"{real}/v1/generate").text_generation(
        "ROMEO:", max_new_tokens=20, temperature=0.9, seed=3
    )
    assert client.generate("ROMEO:", **asked).generated_text == sampled
    stop = whole[4]
    assert client.generate("ROMEO:", stop_sequences=[stop]).details.finish_reason == "stop_sequence"


@pytest.mark.parametrize("path", ["", "/v1/generate", "/v1/generate_stream"])
def test_the_client_of_text_generation_inference_reads_a_stream(real: str, path: str) -> None:
    client = tgi_client(real + path)
    whole = tgi_client(real).generate("ROMEO:", max_new_tokens=30).generated_text
    events = list(client.generate_stream("ROMEO:", max_new_tokens=30))
    assert "".join(event.token.text for event in events) == events[-1].generated_text == whole
    *_, last = client.generate_stream("ROMEO:", max_new_tokens=30, stop_sequences=[whole[4]])
    assert last.details is not None
    assert last.details.finish_reason == "stop_sequence"


async def test_the_asynchronous_client_of_text_generation_inference(real: str) -> None:
    client = text_generation.AsyncClient(real, timeout=60)
    found = await client.generate("ROMEO:", max_new_tokens=5)
    events = [event async for event in client.generate_stream("ROMEO:", max_new_tokens=5)]
    assert events[-1].generated_text == found.generated_text


@pytest.mark.parametrize("path", ["", "/v1/generate"])
def test_the_client_of_text_generation_inference_shows_our_message(real: str, path: str) -> None:
    with pytest.raises(tgi_errors.ValidationError, match="truncate"):
        tgi_client(real + path).generate("ROMEO:", truncate=5)
    with pytest.raises(tgi_errors.ValidationError, match="max_new_tokens"):
        list(tgi_client(real + path).generate_stream("ROMEO:", max_new_tokens=10**6))


def test_a_state_token_continues_in_another_process_and_on_the_routes_of_bentoml(
    tmp_path: Path, tiny_zoo: Path
) -> None:
    setup = {"SEQSERVE_BUNDLES": str(tiny_zoo), "SEQSERVE_DEVICE": "cpu", "SEQSERVE_STATE_KEY": "a key of sixteen"}
    asked: dict[str, Any] = {"max_new_tokens": 10, "seed": 3, "return_state": True}

    def post(address: str, path: str, inputs: str, parameters: dict[str, Any]) -> Any:
        answer = httpx.post(address + path, json={"inputs": inputs, "parameters": parameters})
        assert answer.status_code == 200, answer.text
        return answer.json()

    with served(tmp_path, service="service.app:Seqserve", **setup) as (address, _, _):
        whole = post(address, "/v1/generate", "ROMEO:", {**asked, "max_new_tokens": 40})["generated_text"]
        begun = post(address, "/generate", "ROMEO:", asked)
    with served(tmp_path, service="service.app:Seqserve", **setup) as (address, _, _):
        text, state = begun["generated_text"], begun["state"]
        for path in ("/v1/generate", "/generate", "/v1/generate"):
            found = post(address, path, "", {"max_new_tokens": 10, "state": state, "return_state": True})
            text, state = text + found["generated_text"], found["state"]
    assert text == whole


def test_all_workers_of_a_start_accept_each_others_state_tokens(real: str) -> None:
    asked = {"max_new_tokens": 5, "return_state": True}
    state = httpx.post(f"{real}/v1/generate", json={"inputs": "a", "parameters": asked}).json()["state"]
    workers = set()
    for _ in range(30):  # a connection each, so that both workers get some
        answer = httpx.post(f"{real}/v1/generate", json={"inputs": "", "parameters": {"state": state}})
        assert answer.status_code == 200, answer.text
        workers.add(answer.headers["x-request-id"].partition("-")[0])
    assert len(workers) == 2


def test_the_client_of_hugging_face_raises_the_error_that_ends_a_stream(address: str) -> None:
    client = InferenceClient(model=f"{address}/v1/generate_stream")
    with pytest.raises(GenerationError, match="deadline"):
        list(client.text_generation("then !late", stream=True))


def test_the_client_of_bentoml_calls_all_three_routes(address: str) -> None:
    with bentoml.SyncHTTPClient(address) as client:
        assert client.tag(inputs="Harry", model="pos-en")[0]["word"] == "Harry"
        assert client.tag(inputs=["a", "b c"], parameters={"aggregation_strategy": "simple"})[1][1]["start"] == 2
        assert client.tag(inputs=[["a", "b"]])[0][1]["start"] == 1
        assert [entity["start"] for entity in client.tag(inputs=[[0.5, 1], [2, 3]])] == [0, 1]
        assert len(client.classify(inputs=[[[0.5]], [[1.5]]])) == 2
        assert client.classify(inputs="a", parameters={"top_k": 1}) == [[{"label": "positive", "score": 0.75}]]
        assert client.generate(inputs="a", parameters={"max_new_tokens": 3}) == {"generated_text": " ünd so"}
        assert client.generate(inputs=["a"]) == [{"generated_text": " ünd so"}]


@pytest.mark.parametrize(
    ("task", "body"),
    [
        ("tag", '{"inputs": "a bc"}'),
        ("tag", '{"inputs": ["ü", ""]}'),
        ("tag", '{"inputs": [["a"]]}'),
        ("tag", '{"inputs": [[1, -2.5], [0, 1e3]]}'),
        ("classify", '{"inputs": [[[1.5]], [[2], [3]]]}'),
        ("tag", '{"inputs": "a", "parameters": null}'),
    ],
)
def test_both_sets_of_routes_answer_the_same(address: str, task: str, body: str) -> None:
    bento, native = (httpx.post(address + path, content=body) for path in (f"/{task}", f"/v1/{task}"))
    assert bento.json() == native.json()
    assert bento.headers["server-timing"] == native.headers["server-timing"]
    assert bento.headers["content-type"] == native.headers["content-type"]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 422),
        (b'{"inputs": 3}', {}, 422),
        (b'{"inputs": "a", "nope": 1}', {}, 422),
        (b'{"inputs": "a", "model": "nope"}', {}, 404),
        (b'{"inputs": "!too-long"}', {}, 413),
        (b" " * 10_000_000, {}, 413),
        (b'{"inputs": "a"}', {"content-type": "application/vnd.bentoml+pickle"}, 415),
        (b'{"inputs": "!full"}', {}, 429),
        (b'{"inputs": "!late"}', {}, 504),
        (b'{"inputs": "!bug"}', {}, 500),
    ],
    ids=["no json", "type", "field", "model", "long", "10 MB", "pickle", "full", "late", "bug"],
)
def test_both_sets_of_routes_refuse_the_same(address: str, body: bytes, headers: dict[str, str], status: int) -> None:
    bento, native = (
        httpx.post(address + path, content=body, headers={**headers, "x-request-id": "r-1"})
        for path in ("/tag", "/v1/tag")
    )
    assert (bento.status_code, native.status_code) == (status, status)
    assert bento.json() == native.json()
    for name in ("content-type", "x-request-id", "retry-after", "server-timing"):
        assert bento.headers.get(name) == native.headers.get(name)


def test_a_connection_stays_open_after_a_body_that_is_too_large(address: str) -> None:
    with httpx.Client(base_url=address) as client:
        assert client.post("/v1/tag", content=iter([b" " * 100_000] * 50)).status_code == 413
        assert client.post("/v1/tag", content=b'{"inputs": "a"}').status_code == 200


@pytest.mark.parametrize("path", ["/tag", "/v1/tag"])
def test_a_disconnect_ends_the_work(address: str, path: str) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(address + path, content=b'{"inputs": "!slow 60"}', timeout=0.1)
    counted = f'seqserve_requests_total{{model="pos-en",outcome="client-gone",route="{path}",version="1"}} 1.0'
    wait_until(lambda: counted in httpx.get(f"{address}/metrics").text)


PAGES, HEALTH = ("/", "/metrics", "/docs.json", "/schema.json"), ("/livez", "/readyz", "/healthz")


@pytest.mark.parametrize("path", [*PAGES, *HEALTH])
def test_the_pages_of_bentoml_have_our_headers(address: str, path: str) -> None:
    answer = httpx.get(address + path, headers={"x-request-id": "r-1"})
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == "r-1"
    assert answer.headers["server-timing"].startswith("queue;dur=0")


@pytest.mark.parametrize("path", ["/tag", "/v1/tag"])
def test_a_repeated_media_type_is_refused(address: str, path: str) -> None:
    twice = [("content-type", "application/vnd.bentoml+pickle"), ("content-type", "application/json")]
    assert httpx.post(address + path, content=b'{"inputs": "a"}', headers=twice).status_code == 415


@pytest.mark.parametrize("path", ["/tag", "/v1/tag"])
def test_answers_are_counted_as_ok(address: str, path: str) -> None:
    httpx.post(address + path, content=b'{"inputs": "a"}')
    series = f'seqserve_requests_total{{model="pos-en",outcome="ok",route="{path}",version="1"}}'
    wait_until(lambda: series in httpx.get(f"{address}/metrics").text)
    assert 'outcome="cancelled"' not in httpx.get(f"{address}/metrics").text


def test_the_documentation_has_examples_and_our_errors(address: str) -> None:
    document = httpx.get(f"{address}/docs.json").json()
    for path in ("/tag", "/v1/tag"):
        post = document["paths"][path]["post"]
        assert post["requestBody"]["content"]["application/json"]["examples"]["pos-en"]["value"]["inputs"] == "a b"
        said = {"200", "400", "401", "404", "408", "413", "415", "422", "429", "431", "500", "503", "504"}
        assert set(post["responses"]) == said


def test_unknown_paths_and_models_create_no_metrics_series(address: str) -> None:
    for method, path in [("GET", "/made-up"), ("POST", "/static_content/made-up"), ("DELETE", "/livez")]:
        response = httpx.request(method, address + path)
        assert response.headers["content-type"] == "application/problem+json"
        assert response.status_code in (404, 405)
    httpx.post(f"{address}/v1/tag", content=b'{"inputs": "a", "model": "made-up"}')
    assert "made-up" not in httpx.get(f"{address}/metrics").text


def test_the_metrics_of_all_workers_add_up(address: str) -> None:
    name = 'seqserve_requests_total{model="sentiment-en",outcome="ok",route="/v1/embeddings"'  # used by this test only

    def counted() -> float:
        lines = httpx.get(f"{address}/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    workers = set()
    for _ in range(40):  # a connection each, so that both workers get some
        response = httpx.post(f"{address}/v1/embeddings", content=b'{"input": "a"}')
        workers.add(response.headers["x-request-id"].partition("-")[0])
    wait_until(lambda: counted() == 40)
    assert len(workers) == 2


def test_the_text_of_a_request_is_not_logged(server: tuple[str, Path]) -> None:
    address, log = server
    httpx.post(f"{address}/tag", content=b'{"inputs": "!bug"}', headers={"x-request-id": "the-bug"})
    assert "the-bug" in log.read_text()
    assert "!bug" not in log.read_text()


def test_with_keys_only_health_routes_and_the_page_are_public(tmp_path: Path) -> None:
    with served(tmp_path, SEQSERVE_API_KEYS="right-key") as (address, _, _):
        assert httpx.get(address).status_code == 200
        for path in set(PAGES) - {"/"}:
            assert httpx.get(address + path).status_code == 401, path
            assert httpx.get(address + path, headers={"authorization": "Bearer right-key"}).status_code == 200, path
        for path in HEALTH:
            assert httpx.get(address + path).status_code == 200, path


def test_a_slow_body_does_not_delay_the_shutdown(tmp_path: Path) -> None:
    with served(tmp_path, SEQSERVE_DRAIN_S="1") as (address, process, _), contextlib.ExitStack() as stack:
        host, port = address.removeprefix("http://").split(":")
        clients = []
        for path in ("/v1/tag", "/tag"):
            client = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            head = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 20\r\nx-request-timeout-s: 25\r\n\r\n"
            client.sendall(head.encode() + b"{")
            clients.append(client)
        for _ in range(2):  # answered after what was sent before has been read
            assert httpx.get(f"{address}/livez").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert [client.recv(12) for client in clients] == [b"HTTP/1.1 503"] * 2
        assert process.wait(6) == 0


def test_sigterm_answers_accepted_requests_and_leaves_no_process(tmp_path: Path) -> None:
    with served(tmp_path, SEQSERVE_LOG_FORMAT="json") as (address, process, log), httpx.Client() as client:
        workers = psutil.Process(process.pid).children(recursive=True)
        with ThreadPoolExecutor() as pool:
            body, paths = b'{"inputs": "!slow 1"}', ("/v1/tag", "/tag")
            waiting = [pool.submit(client.post, address + path, content=body, timeout=10) for path in paths]
            started = 'seqserve_batches_released_total{model="pos-en",reason="idle",version="1"} 2.0'
            wait_until(lambda: started in httpx.get(f"{address}/metrics").text)
            process.send_signal(signal.SIGTERM)
            assert [answer.result().status_code for answer in waiting] == [200, 200]
        assert process.wait(10) == 0
        assert not [worker for worker in workers if worker.is_running()]
        assert '"message": "shutting down' in log.read_text()


def tag(address: str, headers: dict[str, str]) -> int:
    return httpx.post(f"{address}/v1/tag", content=b'{"inputs": "a"}', headers=headers).status_code


def test_slow_heads_time_out_and_keys_change_without_a_restart(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("alice alices-key\n")
    given = {"SEQSERVE_API_KEYS_FILE": str(keys), "SEQSERVE_HEADER_TIMEOUT_S": "1"}
    with served(tmp_path, **given) as (address, _, _), contextlib.ExitStack() as stack:
        host, port = address.removeprefix("http://").split(":")
        clients = [stack.enter_context(socket.create_connection((host, int(port)), timeout=10)) for _ in range(50)]
        for client in clients:
            client.sendall(b"POST /v1/tag HT")
        keys.write_text("bob bobs-new-key\n")
        assert {client.recv(12) for client in clients} == {b"HTTP/1.1 408"}
        for key, status in (("alices-key", 401), ("bobs-new-key", 200)):
            head = {"authorization": f"Bearer {key}"}
            wait_until(lambda head=head, status=status: tag(address, head) == status)  # type: ignore[misc]


def test_workers_together_enforce_the_rate_limit_and_leave_no_files(tmp_path: Path) -> None:
    settings = {"SEQSERVE_WORKERS": "2", "SEQSERVE_RATE_LIMIT": "20/h", "TMPDIR": str(tmp_path)}
    with served(tmp_path, **settings) as (address, _, _):
        workers, statuses = set(), []
        for _ in range(40):  # a connection each, so that both workers get some
            response = httpx.post(f"{address}/v1/tag", content=b'{"inputs": "a"}')
            workers.add(response.headers["x-request-id"].partition("-")[0])
            statuses.append(response.status_code)
        assert (statuses.count(200), statuses.count(429), len(workers)) == (20, 20, 2)
        assert list(tmp_path.glob("seqserve-*"))
    assert not list(tmp_path.glob("seqserve-*"))
