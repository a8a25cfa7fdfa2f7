"""Request bodies of the native routes: what is accepted, and which field an error names."""

import gzip
import math
from typing import Any

import orjson
import pytest
from pydantic import TypeAdapter, ValidationError

from service.api import schemas
from service.api.oip import INFER
from service.api.openai import COMPLETION, EMBEDDING
from service.api.schemas import CLASSIFY, GENERATE, TAG
from service.errors import InvalidRequest, TooLarge
from service.settings import Settings

SETTINGS = Settings(inputs_max=4, max_new_tokens=500)


def read(adapter: TypeAdapter[Any], body: object) -> Any:
    return schemas.parse_request(adapter, body if isinstance(body, bytes) else orjson.dumps(body), SETTINGS)


def refusal(adapter: TypeAdapter[Any], body: object) -> dict[str, Any]:
    with pytest.raises(InvalidRequest) as caught:
        read(adapter, body)
    return {"detail": caught.value.message, **caught.value.details}


@pytest.mark.parametrize("inputs", ["", "a b", [], ["a", ""], [["a", "b"], []], "\0", "e\u0301 👩‍👩‍👧 ü", ["ab\0"]])
def test_tag_accepts_strings_and_token_lists(inputs: object) -> None:
    assert read(TAG, {"inputs": inputs}).inputs == inputs


@pytest.mark.parametrize("inputs", [None, 3, True, {"a": "b"}, [1], ["a", 1], ["a", ["b"]], [[["a"]]], [["a", None]]])
def test_other_inputs_are_rejected_by_field(inputs: object) -> None:
    assert refusal(TAG, {"inputs": inputs})["field"] == "inputs"


@pytest.mark.parametrize("inputs", [[[0.5, -1.0]], [[1, 2], [3, 4.5]], [[[1.5]], []], [[[0.0], [1.0]], [[2.0]]], [[]]])
@pytest.mark.parametrize("adapter", [TAG, CLASSIFY])
def test_frames_are_accepted(adapter: TypeAdapter[Any], inputs: object) -> None:
    assert read(adapter, {"inputs": inputs}).inputs == inputs


def test_a_list_of_frames_is_one_input_whatever_its_length() -> None:
    assert len(read(TAG, {"inputs": [[0.5]] * 100}).inputs) == 100
    with pytest.raises(TooLarge) as caught:
        read(TAG, {"inputs": [[[0.5]]] * 5})
    assert caught.value.details == {"field": "inputs", "limit": 4, "value": 5}


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"1e999"])
def test_non_finite_numbers_in_frames_are_left_to_the_codec(number: bytes) -> None:
    ((found,),) = read(TAG, b'{"inputs": [[' + number + b"]]}").inputs
    assert not math.isfinite(found)


@pytest.mark.parametrize(
    ("inputs", "place"),
    [
        (["a", 1], "[1]"),
        ([["a"], ["b", None]], "[1][1]"),
        ([[1, 2], [3, "a"]], "[1][1]"),
        ([[[1, 2]], [[3, True]]], "[1][0][1]"),
        ([[[["a"]]]], "[0][0][0]"),
    ],
)
def test_an_error_in_nested_inputs_names_the_place(inputs: object, place: str) -> None:
    assert f"inputs{place} " in refusal(TAG, {"inputs": inputs})["detail"]


def test_generate_rejects_frames() -> None:
    error = refusal(GENERATE, {"inputs": [[0.5]]})
    assert (error["field"], "inputs[0] " in error["detail"]) == ("inputs", True)


def test_classify_rejects_token_lists() -> None:
    error = refusal(CLASSIFY, {"inputs": [["a"]]})
    assert (error["field"], "inputs[0][0] " in error["detail"]) == ("inputs", True)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nope", b'{"inputs": "a",}', b'{"inputs": "\xff"}', b'{"inputs": "\\ud800"}', b"[" * 60_000],
    ids=["empty", "cut", "word", "comma", "no UTF-8", "lone surrogate", "deep"],
)
def test_invalid_json_is_rejected_without_a_field(body: bytes) -> None:
    assert "field" not in refusal(TAG, body)


@pytest.mark.parametrize("body", [b"[]", b"3", b"null", b'"text"'])
def test_a_body_that_is_not_an_object_is_rejected(body: bytes) -> None:
    assert "field" not in refusal(TAG, body)


@pytest.mark.parametrize(
    ("adapter", "body", "field"),
    [
        (TAG, {}, "inputs"),
        (TAG, {"inputs": "a", "nope": 1}, "nope"),
        (TAG, {"inputs": "a", "model": 3}, "model"),
        (TAG, {"inputs": "a", "model": ""}, "model"),
        (TAG, {"inputs": "a", "parameters": []}, "parameters"),
        (TAG, {"inputs": "a", "parameters": {"stride": 3}}, "parameters.stride"),
        (TAG, {"inputs": "a", "parameters": {"aggregation_strategy": "max"}}, "parameters.aggregation_strategy"),
        (CLASSIFY, {"inputs": "a", "parameters": {"top_k": 0}}, "parameters.top_k"),
        (CLASSIFY, {"inputs": "a", "parameters": {"top_k": "2"}}, "parameters.top_k"),
        (CLASSIFY, {"inputs": "a", "parameters": {"top_k": 2.0}}, "parameters.top_k"),
        (CLASSIFY, {"inputs": "a", "parameters": {"top_k": True}}, "parameters.top_k"),
        (CLASSIFY, {"inputs": "a", "parameters": {"function_to_apply": "sigmoid"}}, "parameters.function_to_apply"),
        (GENERATE, {"inputs": "a", "parameters": {"max_new_tokens": -1}}, "parameters.max_new_tokens"),
        (GENERATE, {"inputs": "a", "parameters": {"temperature": -0.1}}, "parameters.temperature"),
        (GENERATE, {"inputs": "a", "parameters": {"top_p": 0}}, "parameters.top_p"),
        (GENERATE, {"inputs": "a", "parameters": {"top_p": 1.5}}, "parameters.top_p"),
        (GENERATE, {"inputs": "a", "parameters": {"seed": -1}}, "parameters.seed"),
        (GENERATE, {"inputs": "a", "parameters": {"seed": 2**63}}, "parameters.seed"),
        (GENERATE, {"inputs": "a", "parameters": {"stop": ["a", ""]}}, "parameters.stop[1]"),
        (GENERATE, {"inputs": "a", "parameters": {"stop": "a"}}, "parameters.stop"),
        (GENERATE, {"inputs": "a", "parameters": {"stop": ["a"] * 17}}, "parameters.stop"),
        (GENERATE, {"inputs": "a", "parameters": {"best_of": 2}}, "parameters.best_of"),
        (GENERATE, {"inputs": "a", "parameters": {"repetition_penalty": 1.2}}, "parameters.repetition_penalty"),
        (GENERATE, {"inputs": "a", "parameters": {"watermark": True}}, "parameters.watermark"),
        (GENERATE, {"inputs": "a", "stream": "no"}, "stream"),
    ],
)
def test_an_error_names_the_field(adapter: TypeAdapter[Any], body: object, field: str) -> None:
    assert refusal(adapter, body)["field"] == field


def test_a_route_without_streams_rejects_stream_true() -> None:
    with pytest.raises(InvalidRequest) as caught:
        schemas.reject_stream(read(GENERATE, {"inputs": "a", "stream": True}))
    assert caught.value.details["field"] == "stream"


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"1e999"])
def test_non_finite_parameters_are_rejected(number: bytes) -> None:
    body = b'{"inputs": "a", "parameters": {"temperature": ' + number + b"}}"
    assert refusal(GENERATE, body)["field"] == "parameters.temperature"


def test_an_error_has_the_limit_and_the_value() -> None:
    error = refusal(CLASSIFY, {"inputs": "a", "parameters": {"top_k": -3}})
    assert (error["limit"], error["value"]) == (1, -3)


def test_too_many_inputs_are_too_large() -> None:
    with pytest.raises(TooLarge) as caught:
        read(TAG, {"inputs": ["a"] * 5})
    assert caught.value.details == {"field": "inputs", "limit": 4, "value": 5}


@pytest.mark.parametrize("items", [[], {}, [["a"]], [[[0]]]])
def test_a_body_of_too_many_lists_is_too_large(items: object) -> None:
    with pytest.raises(TooLarge) as caught:
        read(TAG, {"inputs": [items] * 140_000})
    assert caught.value.details["limit"] == SETTINGS.request_tokens + SETTINGS.inputs_max + schemas.MEMBERS_MAX


@pytest.mark.parametrize("body", [b'"' + rb"\"" * 400_000, b'"' * 800_000, b"\\" * 800_000, b'"' + b"\\" * 800_001])
@pytest.mark.timeout(10)
def test_the_structure_is_checked_in_linear_time(body: bytes) -> None:
    schemas.check_structure(b"[" * SETTINGS.request_tokens + body, SETTINGS)


def test_brackets_in_strings_are_not_lists() -> None:
    text = '[{\\"' * 100_000
    assert read(TAG, {"inputs": text}).inputs == text


def test_many_errors_are_counted_and_not_listed() -> None:
    error = refusal(TAG, {"inputs": "a", **{f"k{i}": 1 for i in range(4000)}})
    assert ("field" in error, len(error["detail"]) < 200) == (False, True)


@pytest.mark.parametrize("nested", [False, True])
def test_a_long_field_name_is_truncated_in_the_error(nested: bool) -> None:
    unknown = {"k" * 200_000: 1}
    error = refusal(TAG, {"inputs": "a", "parameters": unknown} if nested else {"inputs": "a", **unknown})
    assert "kkk" in error["field"]
    assert len(error["field"] + error["detail"]) < 400


def test_a_list_is_validated_up_to_its_first_error() -> None:
    with pytest.raises(ValidationError) as caught:
        TAG.validate_json(orjson.dumps({"inputs": [1] * 200_000}))
    assert caught.value.error_count() == 5  # one for each shape that inputs may have


def test_zero_new_tokens_need_return_state() -> None:
    for parameters in ({"max_new_tokens": 0}, {"max_new_tokens": 0, "state": "abc"}):
        parameters = read(GENERATE, {"inputs": "a", "parameters": parameters}).parameters
        with pytest.raises(InvalidRequest) as caught:
            schemas.generation_parameters(parameters, limit=500)
        assert caught.value.details["field"] == "parameters.max_new_tokens"
    parameters = read(GENERATE, {"inputs": "a", "parameters": {"max_new_tokens": 0, "return_state": True}}).parameters
    assert schemas.generation_parameters(parameters, limit=500).max_new_tokens == 0


def test_max_new_tokens_over_the_limit_is_rejected() -> None:
    body = b'{"inputs": "a", "parameters": {"max_new_tokens": 1%030d}}' % 0
    parameters = read(GENERATE, body).parameters
    with pytest.raises(InvalidRequest) as caught:
        schemas.generation_parameters(parameters, limit=500)
    assert caught.value.details["limit"] == 500


def test_missing_parameters_have_defaults() -> None:
    given = schemas.generation_parameters(None, limit=500)
    assert (given.max_new_tokens, given.temperature, given.top_k, given.top_p) == (100, 1.0, 0, 1.0)
    assert (given.seed, given.stop, given.return_full_text, given.details) == (None, (), False, False)
    assert schemas.generation_parameters(None, limit=50).max_new_tokens == 50


def test_null_means_the_default() -> None:
    everything = dict.fromkeys(schemas.GenerateParameters.model_fields)
    parameters = read(GENERATE, {"inputs": "a", "parameters": everything, "model": None, "stream": None}).parameters
    assert schemas.generation_parameters(parameters, limit=500) == schemas.generation_parameters(None, limit=500)


def test_do_sample_false_is_greedy() -> None:
    parameters = read(GENERATE, {"inputs": "a", "parameters": {"do_sample": False, "temperature": 0.7}}).parameters
    assert schemas.generation_parameters(parameters, limit=500).temperature == 0


@pytest.mark.parametrize(
    ("adapter", "neutral"),
    [
        (TAG, {"aggregation_strategy": None, "ignore_labels": [], "stride": 0}),
        (CLASSIFY, {"top_k": None, "function_to_apply": None}),
        (GENERATE, {"repetition_penalty": None, "best_of": None, "grammar": None, "truncate": None, "stop": None}),
        (GENERATE, {"repetition_penalty": 1.0, "best_of": 1, "typical_p": 1, "frequency_penalty": 0}),
        (GENERATE, {"top_n_tokens": 0, "watermark": False, "decoder_input_details": False, "adapter_id": None}),
    ],
)
def test_a_value_that_asks_for_nothing_is_accepted(adapter: TypeAdapter[Any], neutral: dict[str, Any]) -> None:
    assert read(adapter, {"inputs": "a", "parameters": neutral}).inputs == "a"


@pytest.mark.parametrize("adapter", [TAG, CLASSIFY, GENERATE])
def test_null_is_as_good_as_absent(adapter: TypeAdapter[Any]) -> None:
    nulls = {"inputs": "a", "model": None, "parameters": {"unknown": None}, "options": None}
    found = read(adapter, nulls)
    assert (found.inputs, found.model) == ("a", None)
    assert refusal(adapter, {**nulls, "inputs": None})["field"] == "inputs"
    assert refusal(adapter, {**nulls, "other": 1})["field"] == "other"
    assert refusal(adapter, {"inputs": ["a", None]})["field"] == "inputs"


def test_a_null_beside_numbers_that_orjson_does_not_read() -> None:
    body = b'{"inputs": [[0.5, NaN]], "options": null}'
    assert math.isnan(read(TAG, body).inputs[0][1])
    assert refusal(GENERATE, b'{"inputs": "a", "x": null, "parameters": {"seed": %s}}' % (b"9" * 5000))


@pytest.mark.parametrize(
    ("parameters", "field"),
    [({"truncate": 10}, "truncate"), ({"grammar": {"type": "regex"}}, "grammar"), ({"typical_p": 0.5}, "typical_p")],
)
def test_a_value_that_asks_for_more_is_rejected(parameters: dict[str, Any], field: str) -> None:
    assert refusal(GENERATE, {"inputs": "a", "parameters": parameters})["field"] == f"parameters.{field}"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"inputs": "café"}'.encode("latin-1"), "0xe9 at position 15"),
        ('{"inputs": "a"}'.encode("utf-8-sig"), "byte order mark"),
        ('{"inputs": "a"}'.encode("utf-16"), "UTF-16"),
        ('{"inputs": "a"}'.encode("utf-16-le"), "UTF-16"),
        (gzip.compress(b'{"inputs": "a"}'), "Content-Encoding: gzip"),
    ],
    ids=["latin-1", "utf-8-sig", "utf-16", "utf-16-le", "gzip"],
)
@pytest.mark.parametrize("adapter", [TAG, INFER, COMPLETION, EMBEDDING, schemas.STREAM_MESSAGE])
def test_an_error_names_the_encoding_of_the_body(adapter: TypeAdapter[Any], body: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        schemas.parse_body(adapter, body, SETTINGS)
    assert words in caught.value.message


@pytest.mark.parametrize("ids", [[1, 2], [[1, 2], [3]]])
def test_token_ids_of_langchain_are_explained(ids: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        schemas.parse_body(EMBEDDING, orjson.dumps({"input": ids}), SETTINGS)
    assert "check_embedding_ctx_length=False" in caught.value.message
