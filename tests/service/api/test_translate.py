"""Translations over HTTP in the shape of Hugging Face, and what is refused by name."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import InferenceClient

from models import load
from tests.support.uvicorn_thread import served_in_thread

TEXT = "a cat sat"


@pytest.fixture(scope="module")
def address(tiny_writers: Path) -> Iterator[str]:
    with served_in_thread(tiny_writers) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address) as client:
        yield client


def translate(
    client: httpx.Client, inputs: Any = TEXT, *, route: str = "/v1/translate", languages: Any = None, **search: Any
) -> httpx.Response:
    parameters = {**(languages or {}), "generate_parameters": search}
    return client.post(route, json={"inputs": inputs, "model": "tiny-translate", "parameters": parameters})


def in_process(root: Path, inputs: Any = TEXT, *, model: str = "tiny-translate", **parameters: Any) -> Any:
    return load(root / model)(inputs, **parameters)


def test_one_text_is_translated_as_in_process(client: httpx.Client, tiny_writers: Path) -> None:
    found = translate(client, max_new_tokens=9).json()
    assert found == [{"translation_text": in_process(tiny_writers, max_new_tokens=9).translation_text}]


def test_several_translations_come_best_first(client: httpx.Client, tiny_writers: Path) -> None:
    asked: dict[str, Any] = {"num_beams": 5, "num_return_sequences": 5, "max_new_tokens": 9}
    found = translate(client, details=True, **asked).json()
    best = in_process(tiny_writers, **asked)
    scores = [each["details"]["score"] for each in found]
    assert [each["translation_text"] for each in found] == [
        best.translation_text,
        *(each.translation_text for each in best.alternatives),
    ]
    assert scores == sorted(scores, reverse=True)


def test_lists_are_answered_as_hugging_face_does(client: httpx.Client) -> None:
    texts = [TEXT, "", "Paris"]
    flat = translate(client, texts, max_new_tokens=5).json()
    nested = translate(client, texts, max_new_tokens=5, num_beams=2, num_return_sequences=2).json()
    assert [each["translation_text"] for each in flat][1] == ""
    assert list(map(len, nested)) == [2, 1, 2]
    assert translate(client, []).json() == []


def test_a_prefix_is_obeyed_to_the_byte(client: httpx.Client) -> None:
    for prefix in ("ab c", "Ünï\n ", " x"):
        for found in translate(
            client, target_prefix=prefix, max_new_tokens=4, num_beams=3, num_return_sequences=3
        ).json():
            assert found["translation_text"].startswith(prefix)


def test_details_have_tokens_and_alignment(client: httpx.Client) -> None:
    ((found),) = translate(client, details=True, max_new_tokens=6).json()
    details = found["details"]
    assert "".join(token["text"] for token in details["tokens"]) == found["translation_text"]
    assert details["generated_tokens"] == len(details["tokens"]) <= 6
    assert "".join(TEXT[token["start"] : token["end"]] for token in details["source_tokens"]) == TEXT.replace(" ", "")
    for source, target in details["alignment"]:
        assert 0 <= source < len(details["source_tokens"])
        assert 0 <= target < len(details["tokens"])
    assert len(details["attention"]) == len(details["tokens"])
    for weights in details["attention"]:
        assert len(weights) == len(details["source_tokens"])
        assert 0 <= sum(weights) <= 1 + 1e-3


def test_languages_choose_the_model(client: httpx.Client) -> None:
    body = {"inputs": TEXT, "parameters": {"src_lang": "de", "tgt_lang": "en"}}
    named = {"inputs": TEXT, "model": "tiny-back"}
    assert client.post("/v1/translate", json=body).json() == client.post("/v1/translate", json=named).json()


def test_a_stream_is_the_greedy_translation(client: httpx.Client) -> None:
    answer = translate(client, route="/v1/translate_stream", max_new_tokens=7)
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]
    whole = translate(client, max_new_tokens=7).json()[0]["translation_text"]
    assert answer.headers["content-type"] == "text/event-stream"
    assert "".join(event["token"]["text"] for event in events) == events[-1]["generated_text"] == whole
    assert events[-1]["details"]["generated_tokens"] == len(events)
    assert events[-1]["details"]["input_length"] == 3


def test_an_empty_stream_ends_with_an_empty_text(client: httpx.Client) -> None:
    answer = translate(client, "", route="/v1/translate_stream")
    event = json.loads(answer.text.removeprefix("data: "))
    assert (event["generated_text"], event["details"]["finish_reason"]) == ("", "eos")


@pytest.mark.parametrize(
    ("search", "field", "limit"),
    [
        ({"num_beams": 0}, "num_beams", 1),
        ({"num_beams": 17}, "num_beams", 16),
        ({"num_beams": True}, "num_beams", None),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences", 2),
        ({"max_new_tokens": 0}, "max_new_tokens", 1),
        ({"max_new_tokens": 10**6}, "max_new_tokens", 4096),
        ({"length_penalty": 1e9}, "length_penalty", 10),
        ({"length_penalty": -1}, "length_penalty", 0),
        ({"do_sample": True}, "do_sample", None),
        ({"temperature": 0.5}, "temperature", None),
        ({"target_prefix": "x" * 5000}, "target_prefix", None),
    ],
)
def test_parameters_are_refused_by_name(client: httpx.Client, search: Any, field: str, limit: Any) -> None:
    answer = translate(client, **search)
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["field"] == f"parameters.generate_parameters.{field}"
    if limit is not None:
        assert problem["limit"] == limit


def test_the_reader_and_the_steps_are_timed(client: httpx.Client) -> None:
    timing = translate(client).headers["server-timing"]
    seconds = {name: float(value) for name, value in re.findall(r"(\w+);dur=([\d.]+)", timing)}
    assert list(seconds) == ["queue", "compute", "prefill", "steps"]
    assert seconds["prefill"] + seconds["steps"] == pytest.approx(seconds["compute"], abs=0.002)
    assert min(seconds["prefill"], seconds["steps"]) > 0


@pytest.mark.parametrize("penalty", ["NaN", "Infinity"])
def test_a_penalty_that_is_not_finite_is_refused(client: httpx.Client, penalty: str) -> None:
    body = '{"inputs": "a", "parameters": {"generate_parameters": {"length_penalty": PENALTY}}}'
    body = body.replace("PENALTY", penalty)
    assert client.post("/v1/translate", content=body).status_code == 422


def test_languages_that_no_model_has_are_listed(client: httpx.Client) -> None:
    answer = translate(client, languages={"src_lang": "en", "tgt_lang": "fr"})
    assert (answer.status_code, answer.json()["field"]) == (422, "parameters.src_lang")
    assert answer.json()["available"] == ["en-de"]


def test_other_truncation_than_none_is_refused(client: httpx.Client) -> None:
    assert translate(client, languages={"truncation": "longest_first"}).json()["field"] == "parameters.truncation"


@pytest.mark.parametrize("text", ["a " * 5000, "~" * 10_000])
def test_a_text_of_too_many_tokens_is_refused(client: httpx.Client, text: str) -> None:
    answer = translate(client, text)
    assert (answer.status_code, answer.json()["limit"]) == (413, 200)


def test_a_long_prefix_is_refused(client: httpx.Client) -> None:
    answer = translate(client, target_prefix="~" * 300)
    assert (answer.status_code, answer.json()["field"]) == (413, "parameters.generate_parameters.target_prefix")


def test_beams_count_in_the_tokens_of_a_request(client: httpx.Client) -> None:
    assert translate(client, num_beams=16, max_new_tokens=4000).status_code == 200
    assert translate(client, [TEXT, TEXT], num_beams=16, max_new_tokens=4000).status_code == 413


def test_lone_surrogates_are_refused(client: httpx.Client) -> None:
    body = rb'{"inputs": "\ud800"}'
    assert client.post("/v1/translate", content=body).status_code == 422


def test_the_hub_client_translates(address: str, client: httpx.Client) -> None:
    hub = InferenceClient()
    found = hub.translation(
        TEXT,
        model=f"{address}/models/tiny-translate/translate",
        src_lang="en",
        tgt_lang="de",
        truncation="do_not_truncate",
        generate_parameters={"num_beams": 3, "max_new_tokens": 8},
    )
    assert found.translation_text == translate(client, num_beams=3, max_new_tokens=8).json()[0]["translation_text"]


def test_the_attention_in_an_answer_is_bounded(client: httpx.Client) -> None:
    asked: dict[str, Any] = {"num_beams": 5, "num_return_sequences": 5, "max_new_tokens": 4096}
    answer = translate(client, "0123456789" * 2, details=True, **asked)
    assert answer.status_code == 413
    assert answer.json()["field"] == "parameters.generate_parameters.details"
    assert answer.json()["value"] > answer.json()["limit"]


def test_fifty_neighbors_change_no_translation(client: httpx.Client) -> None:
    texts = [f"{'a cat sat on ' * (number % 5)}{number}" for number in range(50)]
    together = translate(client, texts, num_beams=3, max_new_tokens=12).json()
    for number in (0, 17, 49):
        assert translate(client, texts[number], num_beams=3, max_new_tokens=12).json() == [together[number]]


def test_examples_of_the_document_work(client: httpx.Client) -> None:
    paths = client.get("/docs.json").json()["paths"]
    for path in ("/v1/translate", "/translate"):
        content = paths[path]["post"]["requestBody"]["content"]["application/json"]
        for example in content["examples"].values():
            assert client.post(path, json=example["value"]).status_code == 200
