"""Gaps over HTTP: the shape of Hugging Face's fill-mask with its client, and what is refused by name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import InferenceClient

from models import load
from models.tasks import as_json
from service.engine import FILLED_CHARACTERS_MAX
from tests.support.uvicorn_thread import served_in_thread

TEXT = "The [MASK] sat on a mat."


@pytest.fixture(scope="module")
def client(tiny_filler: Path) -> Iterator[httpx.Client]:
    with served_in_thread(tiny_filler) as address, httpx.Client(base_url=address) as client:
        yield client


def post(client: httpx.Client, inputs: Any = TEXT, **parameters: Any) -> httpx.Response:
    return client.post("/v1/fill", json={"inputs": inputs, "parameters": parameters})


@pytest.mark.parametrize(
    ("inputs", "parameters"),
    [
        (TEXT, {}),
        (TEXT, {"top_k": 2}),
        (TEXT, {"targets": ["mat", "film"]}),
        ("a [MASK] on the <mask>", {}),
        (["", TEXT, "a <mask> [MASK]"], {"top_k": 3}),
        ([], {}),
        ("", {}),
    ],
)
def test_gaps_are_filled_as_in_process(client: httpx.Client, tiny_filler: Path, inputs: Any, parameters: Any) -> None:
    assert post(client, inputs, **parameters).json() == as_json(load(tiny_filler)(inputs, **parameters))


def test_the_client_of_hugging_face_reads_the_answer(client: httpx.Client) -> None:
    url = f"{client.base_url}/models/tiny-fill"
    found = InferenceClient().fill_mask(TEXT, model=url, targets=["mat", "film"], top_k=2)
    expected = post(client, targets=["mat", "film"], top_k=2).json()
    assert [(each.score, each.token, each.token_str, each.sequence) for each in found] == [
        (each["score"], each["token"], each["token_str"], each["sequence"]) for each in expected
    ]


def test_a_model_is_asked_by_its_own_url(client: httpx.Client) -> None:
    expected = post(client).json()
    for path in ("/models/tiny-fill", "/models/tiny-fill/fill"):
        assert client.post(path, json={"inputs": TEXT}).json() == expected


@pytest.mark.parametrize(
    ("inputs", "field", "limit"),
    [
        ("no gap", "inputs", None),
        (["a [MASK]", "no gap"], "inputs[1]", None),
        ("ca[MASK]", "inputs", None),
        ("[MASK] " * 33, "inputs", 32),
    ],
)
def test_a_text_that_cannot_be_filled_is_named(client: httpx.Client, inputs: Any, field: str, limit: int) -> None:
    answer = post(client, inputs)
    assert (answer.status_code, answer.json()["field"], answer.json().get("limit")) == (422, field, limit)


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [
        ("top_k", 0, 1),
        ("top_k", 7, 6),
        ("targets", ["mat", "zebra"], None),
        ("targets", ["mat", "Mat"], None),
        ("targets", ["mat"] * 101, 100),
    ],
)
def test_a_parameter_that_the_model_does_not_take_is_named(
    client: httpx.Client, name: str, value: Any, limit: Any
) -> None:
    answer = post(client, **{name: value})
    assert answer.status_code == 422
    assert answer.json()["field"] == f"parameters.{name}"
    assert answer.json().get("limit") == limit


def test_a_long_text_is_refused_with_the_limit_of_the_model(client: httpx.Client) -> None:
    answer = post(client, "the " * 64 + "[MASK]")
    assert (answer.status_code, answer.json()["limit"]) == (413, 64)


def test_an_answer_that_repeats_a_huge_text_is_refused(client: httpx.Client) -> None:
    answer = post(client, "a" * (FILLED_CHARACTERS_MAX // 32) + " [MASK]" * 32, top_k=6)
    assert (answer.status_code, answer.json()["limit"]) == (413, FILLED_CHARACTERS_MAX)


def tensors(**changes: Any) -> dict[str, Any]:
    values = {"words": [[3], [1], [4]], "lengths": [3], "gap_steps": [1], "gap_inputs": [0], "targets": [[3, 5]]}
    arrays = [(name, value) for name, value in {**values, **changes}.items() if value is not None]
    return {
        "inputs": [{"name": name, "datatype": "INT32", "shape": _shape(value), "data": value} for name, value in arrays]
    }


def _shape(value: Any) -> list[int]:
    return [len(value), *_shape(value[0])] if isinstance(value, list) else []


def test_tensors_of_the_graph_are_answered_over_oip(client: httpx.Client) -> None:
    answer = client.post("/v2/models/tiny-fill/infer", json=tensors()).json()
    shapes = {output["name"]: output["shape"] for output in answer["outputs"]}
    assert shapes == {"best_scores": [1, 6], "best_words": [1, 6], "target_scores": [1, 2]}


@pytest.mark.parametrize(
    "changes",
    [
        {"gap_steps": [3]},
        {"gap_steps": [-1]},
        {"gap_inputs": [1]},
        {"targets": [[3, 99]]},
        {"gap_steps": [0, 1, 2, 0], "gap_inputs": [0] * 4, "targets": [[3]] * 4},
        {"targets": [list(range(3, 9)) * 20]},
        {"gap_steps": None},
    ],
)
def test_tensors_that_would_read_outside_the_graph_are_refused(client: httpx.Client, changes: Any) -> None:
    assert client.post("/v2/models/tiny-fill/infer", json=tensors(**changes)).status_code in (413, 422)
