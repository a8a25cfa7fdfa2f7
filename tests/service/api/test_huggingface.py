"""The routes of text-embeddings-inference, and the feature extraction of Hugging Face's client."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from huggingface_hub import InferenceClient

from service.settings import Settings
from tests.support.api_clients import FakeSite, problem
from tests.support.uvicorn_thread import served_in_thread

TEXTS = ["a b c", "Harry met Hermione"]


@pytest.fixture(scope="module")
def address(tiny_zoo: Path, tiny_live: Path) -> Iterator[str]:
    with served_in_thread(tiny_zoo, tiny_live) as address:
        yield address


@pytest.fixture
async def site() -> AsyncIterator[FakeSite]:
    site = FakeSite(Settings())
    yield site
    await site.client.aclose()


def post(address: str, path: str, **body: Any) -> Any:
    answer = httpx.post(address + path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("path", ["/embed", "/models/tiny-embed/embed", "/embed?model=tiny-embed"])
def test_the_client_of_hugging_face_extracts_features(address: str, path: str) -> None:
    client = InferenceClient(model=address + path)
    vectors = client.feature_extraction(TEXTS)
    assert vectors.shape[0] == 2
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert np.array_equal(client.feature_extraction(TEXTS[1]), vectors[1:])
    raw = client.feature_extraction(TEXTS, normalize=False, truncate=True, truncation_direction="right")
    assert np.allclose(raw / np.linalg.norm(raw, axis=1, keepdims=True), vectors)


def test_embed_without_normalization_returns_the_vectors_of_openai(address: str) -> None:
    of_openai = post(address, "/v1/embeddings", input=TEXTS)["data"]
    assert post(address, "/embed", inputs=TEXTS, normalize=False) == [each["embedding"] for each in of_openai]


@pytest.mark.parametrize("path", ["/embed", "/predict"])
def test_truncate_cuts_what_is_too_long(address: str, path: str) -> None:
    limit = httpx.get(f"{address}/info").json()["max_input_length"]
    long, cut = "a " * (limit + 5), "a " * limit
    assert httpx.post(address + path, json={"inputs": long}).status_code == 413
    assert post(address, path, inputs=long, truncate=True) == post(address, path, inputs=cut)


def test_predict_answers_one_input_with_labels_and_a_batch_with_lists(address: str) -> None:
    one = post(address, "/predict", inputs=TEXTS[0])
    assert {"label", "score"} == set(one[0])
    assert one == post(address, "/predict", inputs=[TEXTS[0]]) == post(address, "/v1/classify", inputs=TEXTS[0])[0]
    assert post(address, "/predict", inputs=[[text] for text in TEXTS])[0] == one
    assert post(address, "/predict", inputs=[]) == []


def test_info_describes_the_model_that_answers(address: str) -> None:
    found = httpx.get(f"{address}/info").json()
    assert found["model_id"] == "tiny-embed"
    assert {"embedding", "classifier"} == set(found["model_type"])
    found = httpx.get(f"{address}/info?model=tiny-classify").json()
    labels = found["model_type"]["classifier"]
    assert labels["label2id"] == {label: int(number) for number, label in labels["id2label"].items()}
    assert httpx.get(f"{address}/info?model=tiny-tag").json()["model_type"] == {}
    assert httpx.get(f"{address}/info?model=tiny-clasify").json()["did_you_mean"] == "tiny-classify"
    assert httpx.get(f"{address}/health").status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/predict", {"inputs": ["a", "b"]}, "inputs"),
        ("/predict", {"inputs": [["a"], ["a", "b"]]}, "inputs[1]"),
        ("/predict", {"inputs": [["a"], []]}, "inputs[1]"),
        ("/predict", {"inputs": ["a", ["b"]]}, "inputs"),
        ("/predict", {"inputs": "a", "raw_scores": True}, "raw_scores"),
        ("/embed", {"inputs": [1, 2]}, "inputs"),
        ("/embed", {"inputs": "a", "dimensions": 17}, "dimensions"),
        ("/embed", {"inputs": "a", "truncation_direction": "left"}, "truncation_direction"),
        ("/embed", {"inputs": "a", "prompt_name": "query"}, "prompt_name"),
        ("/embed", {"inputs": "a", "normalise": False}, "normalise"),
    ],
)
async def test_what_is_not_offered_is_refused_by_name(site: FakeSite, path: str, body: object, field: str) -> None:
    assert problem(await site.post(path, body), 422)["field"] == field
