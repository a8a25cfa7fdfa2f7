"""Calls of both clients: what is sent, and what is made of the answer."""

import base64
import struct
from typing import Any

import httpx
import pytest

from seqserve import Client, Entity, Generation, Label
from tests.client.both import answering, body_of, call, sent

HARRY = {"score": 0.9, "word": "Harry", "start": 0, "end": 5}
GOOD, BAD = {"label": "good", "score": 0.75}, {"label": "bad", "score": 0.25}
FRAMES = [[0.5, 1], [2, 3.5]]


def test_one_text_has_a_list_of_entities_and_several_have_lists() -> None:
    harry = Entity(label="PROPN", score=0.9, word="Harry", start=0, end=5)
    assert call(answering([{**HARRY, "entity": "PROPN"}]), "tag", "Harry") == [harry]
    assert call(answering([[{**HARRY, "entity": "PROPN"}], []]), "tag", ["Harry", ""]) == [[harry], []]


def test_a_merged_span_has_its_group_as_label() -> None:
    (span,) = call(answering([{**HARRY, "entity_group": "PER"}]), "tag", "Harry", aggregation_strategy="simple")
    assert span.label == "PER"


@pytest.mark.parametrize("one", ["fine", FRAMES])
def test_one_input_has_its_labels_without_a_list_around_them(one: Any) -> None:
    labels = [Label(label="good", score=0.75), Label(label="bad", score=0.25)]
    assert call(answering([[GOOD, BAD]]), "classify", one) == labels
    assert call(answering([[GOOD, BAD]]), "classify", [one]) == [labels]


def test_no_inputs_have_no_answers() -> None:
    assert call(answering([]), "tag", []) == []
    assert call(answering([]), "classify", []) == []
    assert call(answering([[]]), "classify", "") == []


def test_a_generation_says_how_it_ended() -> None:
    details = {"finish_reason": "length", "generated_tokens": 2, "seed": 7}
    found = call(answering({"generated_text": "ab", "details": details, "state": "s"}), "generate", "x")
    assert found == Generation(text="ab", finish_reason="length", generated_tokens=2, seed=7, state="s")
    assert call(answering([{"generated_text": "ab"}]), "generate", ["x"]) == [Generation(text="ab")]


def test_embeddings_come_in_the_order_of_the_inputs() -> None:
    def row(index: int, *numbers: float) -> dict[str, Any]:
        return {"index": index, "embedding": base64.b64encode(struct.pack("<2f", *numbers)).decode()}

    answer = {"data": [row(1, 3.0, 4.0), row(0, 1.0, 2.5)]}
    assert call(answering(answer), "embed", ["a", "b"]) == [[1.0, 2.5], [3.0, 4.0]]
    assert call(answering({"data": [row(0, 1.0, 2.5)]}), "embed", "a") == [1.0, 2.5]


def test_a_model_is_read_with_its_whole_card() -> None:
    card = {"id": "pos-en", "task": "tag", "labels": ["A"], "limits": {"max_length": 9}, "streams": True}
    found = call(answering(card), "model", "pos-en")
    assert (found.id, found.labels, found.max_length, found.card["streams"]) == ("pos-en", ("A",), 9, True)
    assert call(answering({"data": [card]}), "models") == [found]


def test_options_are_parameters_and_what_is_none_is_not_sent() -> None:
    options = {"model": "m", "max_new_tokens": 3, "state": None, "seed": 0, "stop": ["\n"]}
    request = sent("generate", "x", reply={"generated_text": ""}, **options)
    parameters = {"details": True, "max_new_tokens": 3, "seed": 0, "stop": ["\n"]}
    assert body_of(request) == {"inputs": "x", "model": "m", "parameters": parameters}
    assert body_of(sent("tag", "x", reply=[])) == {"inputs": "x"}


def test_key_time_and_media_type_are_in_the_head() -> None:
    request = sent("tag", "x", reply=[], client={"api_key": "k"}, timeout_s=2.5)
    heads = ("authorization", "x-request-timeout-s", "content-type")
    assert [request.headers[name] for name in heads] == ["Bearer k", "2.5", "application/json"]


def test_the_head_of_every_first_try_is_the_same_so_that_the_service_need_not_parse_it_again() -> None:
    first, second = (sent("tag", text, reply=[]) for text in ("a", "b"))
    assert dict(first.headers) == dict(second.headers)
    assert first.headers["x-request-timeout-s"] == "30"


def test_the_name_of_a_model_cannot_lead_elsewhere() -> None:
    request = sent("model", "../a?b", reply={"id": "", "task": ""})
    assert request.url.raw_path == b"/v1/models/..%2Fa%3Fb"


def test_what_is_no_unicode_is_left_to_the_service_to_refuse() -> None:
    assert b"\xed\xa0\x80" in sent("tag", "\ud800", reply=[]).content


@pytest.mark.parametrize("url", ["localhost:3000", "ftp://a", ""])
def test_an_address_without_http_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="http://HOST:PORT"):
        Client(url)


def test_a_client_of_ones_own_is_left_open() -> None:
    with httpx.Client(transport=httpx.MockTransport(answering([]))) as http:
        with Client("http://test", http=http) as client:
            client.tag("a")
        assert not http.is_closed
