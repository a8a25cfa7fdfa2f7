"""Which model answers: the one in the path, the query or the body, as the client of Hugging Face asks for it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from service.api.application import ROUTES
from service.settings import Settings
from tests.support.api_clients import FakeSite, problem
from tests.support.http_connection import Wire, request
from tests.support.uvicorn_thread import served_in_thread

REQUESTS = "seqserve_requests_total"


@pytest.fixture
async def site() -> AsyncIterator[FakeSite]:
    site = FakeSite(Settings())
    yield site
    await site.client.aclose()


@pytest.fixture(scope="module")
def address(tiny_zoo: Path, tiny_live: Path) -> Iterator[str]:
    with served_in_thread(tiny_zoo, tiny_live) as address:
        yield address


@pytest.mark.parametrize(
    "path", ["/models/tiny-tag-spans/tag", "/models/tiny-tag-spans", "/v1/tag?model=tiny-tag-spans"]
)
def test_the_client_of_hugging_face_tags_with_the_model_in_the_url(address: str, path: str) -> None:
    texts, urls = ["Harry met Hermione", "a b c d e f g h"], ("/v1/tag", path.format("tiny-tag-spans"))
    clients = [InferenceClient(model=address + url) for url in urls]
    default, named = ([client.token_classification(text) for text in texts] for client in clients)
    assert all(entity.entity for tags in default for entity in tags)
    assert any(named)
    assert all(entity.entity_group for tags in named for entity in tags)


def test_the_client_of_hugging_face_classifies_with_the_model_in_the_url(address: str) -> None:
    scores = [
        InferenceClient().text_classification("a lovely film", model=f"{address}/models/{name}/classify")[0].score
        for name in ("tiny-classify", "tiny-embed")
    ]
    assert scores[0] != scores[1]


@pytest.mark.parametrize("path", ["/models/tiny-generate", "/models/tiny-generate/generate"])
def test_the_client_of_hugging_face_reads_a_stream_of_the_model_in_the_url(address: str, path: str) -> None:
    client = InferenceClient(model=address + path)
    whole = client.text_generation("ROMEO:", max_new_tokens=8, seed=7)
    assert "".join(client.text_generation("ROMEO:", max_new_tokens=8, seed=7, stream=True)) == whole


def test_the_client_of_hugging_face_shows_which_models_exist(address: str) -> None:
    with pytest.raises(HfHubHTTPError) as caught:
        InferenceClient().text_classification("a", model=f"{address}/models/tiny-tag/classify")
    assert caught.value.response.json()["available"] == ["tiny-classify", "tiny-embed", "tiny-embed-joint"]


@pytest.mark.parametrize(
    "path",
    ["/models/tiny-classify/generate", "/models/tiny-classify/forecast", "/v1/tag?model=tiny-classify"],
)
@pytest.mark.parametrize("body", [{"inputs": "a"}, {"nope": 1}])
def test_a_task_that_the_model_in_the_url_lacks_is_reported_before_the_body(
    address: str, path: str, body: object
) -> None:
    found = httpx.post(address + path, json=body)
    assert found.status_code == 404
    assert (found.json()["value"], found.json()["limit"]) == ("tiny-classify", "classify")


@pytest.mark.parametrize("route", [route.pattern for route in ROUTES if route.task == "classify"])
async def test_the_query_names_the_model_on_every_route_of_a_task(site: FakeSite, route: str) -> None:
    path = route.format(id="sentiment-en")
    assert (await site.post(f"{path}?model=sentiment-en", {"inputs": "a"})).status_code == 200
    if path == route:
        assert problem(await site.post(f"{path}?model=nope", {"inputs": "a"}), 404)["value"] == "nope"


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/tag?model=pos-en", {"inputs": "a", "model": "other"}, "model"),
        ("/models/pos-en/tag", {"inputs": "a", "model": "other"}, "model"),
        ("/models/pos-en/tag?model=other", {"inputs": "a"}, "?model"),
        ("/v1/tag?model=pos-en&model=other", {"inputs": "a"}, "?model"),
        ("/v1/tag?model=", {"inputs": "a"}, "?model"),
    ],
)
async def test_two_different_models_or_an_empty_name_are_refused(
    site: FakeSite, path: str, body: object, field: str
) -> None:
    assert problem(await site.post(path, body), 422)["field"] == field
    assert site.engine.calls == []


async def test_the_same_model_may_be_named_everywhere(site: FakeSite) -> None:
    answer = await site.post("/models/pos-en/tag?model=pos-en", {"inputs": "a", "model": "pos-en"})
    assert answer.status_code == 200
    assert site.count(REQUESTS, route="/models/{id}/tag", model="pos-en", version="1", outcome="ok") == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (method, route.pattern.format(id="pos-en", version="1"))
        for route in ROUTES
        if not route.public
        for method in route.methods
    ],
)
async def test_an_unknown_query_parameter_is_refused_by_name(site: FakeSite, method: str, path: str) -> None:
    found = await site.client.request(method, f"{path}?nope=1", json={"inputs": "a"})
    assert found.status_code == 422
    assert method == "HEAD" or "?nope" in found.text


async def test_a_misspelled_query_parameter_gets_the_one_that_exists(site: FakeSite) -> None:
    assert problem(await site.post("/v1/tag?modle=pos-en", {"inputs": "a"}), 422)["did_you_mean"] == "model"


@pytest.mark.parametrize("path", [route.pattern for route in ROUTES if route.public])
async def test_probes_may_send_any_query(site: FakeSite, path: str) -> None:
    assert (await site.client.get(f"{path.replace('{file}', 'app.js')}?verbose&nonce=1")).status_code == 200


async def test_a_query_behaves_the_same_on_a_real_connection() -> None:
    wire = Wire()
    for number, (query, status) in enumerate((("", 200), ("?model=pos-en", 200), ("?model=x", 404), ("?x=1", 422)), 1):
        wire.send(request({"inputs": "a"}, path=f"/v1/tag{query}"))
        assert (await wire.answers(number))[-1][0] == status
