"""Request bodies of the native routes: what is accepted, and which field an error names."""

import gzip
import math
from typing import Any, cast

import orjson
import pytest
from pydantic import ValidationError

from docs import generate
from service.api import schemas
from service.api.body_errors import request_error
from service.api.fields import UNSET, RequestModel
from service.api.oip import InferRequest
from service.api.openai import CompletionRequest, EmbeddingRequest, options_of, parse_completion
from service.api.schemas import ClassifyRequest, GenerateRequest, StreamMessage, TagRequest
from service.api.translate import TranslateRequest
from service.errors import InvalidRequest, TooLarge
from service.settings import Settings

SETTINGS = Settings(inputs_max=4, max_new_tokens=500)


def read(model: type[RequestModel], body: object) -> Any:
    return schemas.parse_request(model, body if isinstance(body, bytes) else orjson.dumps(body), SETTINGS)


def refusal(model: type[RequestModel], body: object) -> dict[str, Any]:
    with pytest.raises(InvalidRequest) as caught:
        read(model, body)
    return {"detail": caught.value.message, **caught.value.details}


@pytest.mark.parametrize("inputs", ["", "a b", [], ["a", ""], [["a", "b"], []], "\0", "e\u0301 👩‍👩‍👧 ü", ["ab\0"]])
def test_tag_accepts_strings_and_token_lists(inputs: object) -> None:
    assert read(TagRequest, {"inputs": inputs}).inputs == inputs


@pytest.mark.parametrize("inputs", [None, 3, True, {"a": "b"}, [1], ["a", 1], ["a", ["b"]], [[["a"]]], [["a", None]]])
def test_other_inputs_are_rejected_by_field(inputs: object) -> None:
    assert refusal(TagRequest, {"inputs": inputs})["field"] == "inputs"


@pytest.mark.parametrize("inputs", [[[0.5, -1.0]], [[1, 2], [3, 4.5]], [[[1.5]], []], [[[0.0], [1.0]], [[2.0]]], [[]]])
@pytest.mark.parametrize("model", [TagRequest, ClassifyRequest])
def test_frames_are_accepted(model: type[RequestModel], inputs: object) -> None:
    assert read(model, {"inputs": inputs}).inputs == inputs


def test_a_list_of_frames_is_one_input_whatever_its_length() -> None:
    assert len(read(TagRequest, {"inputs": [[0.5]] * 100}).inputs) == 100
    with pytest.raises(TooLarge) as caught:
        read(TagRequest, {"inputs": [[[0.5]]] * 5})
    assert caught.value.details == {"field": "inputs", "limit": 4, "value": 5}


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"1e999"])
def test_non_finite_numbers_in_frames_are_left_to_the_codec(number: bytes) -> None:
    ((found,),) = read(TagRequest, b'{"inputs": [[' + number + b"]]}").inputs
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
    assert f"inputs{place} " in refusal(TagRequest, {"inputs": inputs})["detail"]


def test_generate_rejects_frames() -> None:
    error = refusal(GenerateRequest, {"inputs": [[0.5]]})
    assert (error["field"], "inputs[0] " in error["detail"]) == ("inputs", True)


def test_classify_rejects_token_lists() -> None:
    error = refusal(ClassifyRequest, {"inputs": [["a"]]})
    assert (error["field"], "inputs[0][0] " in error["detail"]) == ("inputs", True)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nope", b'{"inputs": "a",}', b'{"inputs": "\xff"}', b'{"inputs": "\\ud800"}', b"[" * 60_000],
    ids=["empty", "cut", "word", "comma", "no UTF-8", "lone surrogate", "deep"],
)
def test_invalid_json_is_rejected_without_a_field(body: bytes) -> None:
    assert "field" not in refusal(TagRequest, body)


@pytest.mark.parametrize("body", [b"[]", b"3", b"null", b'"text"'])
def test_a_body_that_is_not_an_object_is_rejected(body: bytes) -> None:
    assert "field" not in refusal(TagRequest, body)


@pytest.mark.parametrize(
    ("model", "body", "field"),
    [
        (TagRequest, {}, "inputs"),
        (TagRequest, {"inputs": "a", "nope": 1}, "nope"),
        (TagRequest, {"inputs": "a", "model": 3}, "model"),
        (TagRequest, {"inputs": "a", "model": ""}, "model"),
        (TagRequest, {"inputs": "a", "parameters": []}, "parameters"),
        (TagRequest, {"inputs": "a", "parameters": {"stride": 3}}, "parameters.stride"),
        (TagRequest, {"inputs": "a", "parameters": {"aggregation_strategy": "max"}}, "parameters.aggregation_strategy"),
        (ClassifyRequest, {"inputs": "a", "parameters": {"top_k": 0}}, "parameters.top_k"),
        (ClassifyRequest, {"inputs": "a", "parameters": {"top_k": "2"}}, "parameters.top_k"),
        (ClassifyRequest, {"inputs": "a", "parameters": {"top_k": 2.0}}, "parameters.top_k"),
        (ClassifyRequest, {"inputs": "a", "parameters": {"top_k": True}}, "parameters.top_k"),
        (
            ClassifyRequest,
            {"inputs": "a", "parameters": {"function_to_apply": "sigmoid"}},
            "parameters.function_to_apply",
        ),
        (GenerateRequest, {"inputs": "a", "parameters": {"max_new_tokens": -1}}, "parameters.max_new_tokens"),
        (GenerateRequest, {"inputs": "a", "parameters": {"temperature": -0.1}}, "parameters.temperature"),
        (GenerateRequest, {"inputs": "a", "parameters": {"top_p": 0}}, "parameters.top_p"),
        (GenerateRequest, {"inputs": "a", "parameters": {"top_p": 1.5}}, "parameters.top_p"),
        (GenerateRequest, {"inputs": "a", "parameters": {"seed": -1}}, "parameters.seed"),
        (GenerateRequest, {"inputs": "a", "parameters": {"seed": 2**63}}, "parameters.seed"),
        (GenerateRequest, {"inputs": "a", "parameters": {"stop": ["a", ""]}}, "parameters.stop[1]"),
        (GenerateRequest, {"inputs": "a", "parameters": {"stop": "a"}}, "parameters.stop"),
        (GenerateRequest, {"inputs": "a", "parameters": {"stop": ["a"] * 17}}, "parameters.stop"),
        (GenerateRequest, {"inputs": "a", "parameters": {"best_of": 2}}, "parameters.best_of"),
        (GenerateRequest, {"inputs": "a", "parameters": {"repetition_penalty": 1.2}}, "parameters.repetition_penalty"),
        (GenerateRequest, {"inputs": "a", "parameters": {"watermark": True}}, "parameters.watermark"),
        (GenerateRequest, {"inputs": "a", "stream": "no"}, "stream"),
    ],
)
def test_an_error_names_the_field(model: type[RequestModel], body: object, field: str) -> None:
    assert refusal(model, body)["field"] == field


def test_a_route_without_streams_rejects_stream_true() -> None:
    with pytest.raises(InvalidRequest) as caught:
        schemas.reject_stream(read(GenerateRequest, {"inputs": "a", "stream": True}))
    assert caught.value.details["field"] == "stream"


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"1e999"])
def test_non_finite_parameters_are_rejected(number: bytes) -> None:
    body = b'{"inputs": "a", "parameters": {"temperature": ' + number + b"}}"
    assert refusal(GenerateRequest, body)["field"] == "parameters.temperature"


def test_an_error_has_the_limit_and_the_value() -> None:
    error = refusal(ClassifyRequest, {"inputs": "a", "parameters": {"top_k": -3}})
    assert (error["limit"], error["value"]) == (1, -3)


def test_too_many_inputs_are_too_large() -> None:
    with pytest.raises(TooLarge) as caught:
        read(TagRequest, {"inputs": ["a"] * 5})
    assert caught.value.details == {"field": "inputs", "limit": 4, "value": 5}


@pytest.mark.parametrize("items", [[], {}, [["a"]], [[[0]]]])
def test_a_body_of_too_many_lists_is_too_large(items: object) -> None:
    with pytest.raises(TooLarge) as caught:
        read(TagRequest, {"inputs": [items] * 140_000})
    assert caught.value.details["limit"] == SETTINGS.request_tokens + SETTINGS.inputs_max + schemas.MEMBERS_MAX


@pytest.mark.parametrize("body", [b'"' + rb"\"" * 400_000, b'"' * 800_000, b"\\" * 800_000, b'"' + b"\\" * 800_001])
@pytest.mark.timeout(10)
def test_the_structure_is_checked_in_linear_time(body: bytes) -> None:
    schemas.check_structure(b"[" * SETTINGS.request_tokens + body, SETTINGS)


def test_brackets_in_strings_are_not_lists() -> None:
    text = '[{\\"' * 100_000
    assert read(TagRequest, {"inputs": text}).inputs == text


def test_many_errors_are_counted_and_not_listed() -> None:
    error = refusal(TagRequest, {"inputs": "a", **{f"k{i}": 1 for i in range(4000)}})
    assert ("field" in error, len(error["detail"]) < 200) == (False, True)


@pytest.mark.parametrize("nested", [False, True])
def test_a_long_field_name_is_truncated_in_the_error(nested: bool) -> None:
    unknown = {"k" * 200_000: 1}
    error = refusal(TagRequest, {"inputs": "a", "parameters": unknown} if nested else {"inputs": "a", **unknown})
    assert "kkk" in error["field"]
    assert len(error["field"] + error["detail"]) < 400


def test_a_list_is_validated_up_to_its_first_error() -> None:
    with pytest.raises(ValidationError) as caught:
        TagRequest.model_validate_json(orjson.dumps({"inputs": [1] * 200_000}))
    assert caught.value.error_count() == 5  # one for each shape that inputs may have


def test_zero_new_tokens_need_return_state() -> None:
    for parameters in ({"max_new_tokens": 0}, {"max_new_tokens": 0, "state": "abc"}):
        parameters = read(GenerateRequest, {"inputs": "a", "parameters": parameters}).parameters
        with pytest.raises(InvalidRequest) as caught:
            schemas.generation_parameters(parameters, limit=500)
        assert caught.value.details["field"] == "parameters.max_new_tokens"
    parameters = read(
        GenerateRequest, {"inputs": "a", "parameters": {"max_new_tokens": 0, "return_state": True}}
    ).parameters
    assert schemas.generation_parameters(parameters, limit=500).max_new_tokens == 0


def test_max_new_tokens_over_the_limit_is_rejected() -> None:
    body = b'{"inputs": "a", "parameters": {"max_new_tokens": 1%030d}}' % 0
    parameters = read(GenerateRequest, body).parameters
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
    parameters = read(
        GenerateRequest, {"inputs": "a", "parameters": everything, "model": None, "stream": None}
    ).parameters
    assert schemas.generation_parameters(parameters, limit=500) == schemas.generation_parameters(None, limit=500)


def test_do_sample_false_is_greedy() -> None:
    parameters = read(
        GenerateRequest, {"inputs": "a", "parameters": {"do_sample": False, "temperature": 0.7}}
    ).parameters
    assert schemas.generation_parameters(parameters, limit=500).temperature == 0


@pytest.mark.parametrize(
    ("model", "neutral"),
    [
        (TagRequest, {"aggregation_strategy": None, "ignore_labels": [], "stride": 0}),
        (ClassifyRequest, {"top_k": None, "function_to_apply": None}),
        (
            GenerateRequest,
            {"repetition_penalty": None, "best_of": None, "grammar": None, "truncate": None, "stop": None},
        ),
        (GenerateRequest, {"repetition_penalty": 1.0, "best_of": 1, "typical_p": 1, "frequency_penalty": 0}),
        (GenerateRequest, {"top_n_tokens": 0, "watermark": False, "decoder_input_details": False, "adapter_id": None}),
    ],
)
def test_a_value_that_asks_for_nothing_is_accepted(model: type[RequestModel], neutral: dict[str, Any]) -> None:
    assert read(model, {"inputs": "a", "parameters": neutral}).inputs == "a"


@pytest.mark.parametrize("model", [TagRequest, ClassifyRequest, GenerateRequest])
def test_null_is_as_good_as_absent(model: type[RequestModel]) -> None:
    nulls = {"inputs": "a", "model": None, "parameters": {"unknown": None}, "options": None}
    found = read(model, nulls)
    assert (found.inputs, found.model) == ("a", None)
    assert refusal(model, {**nulls, "inputs": None})["field"] == "inputs"
    assert refusal(model, {**nulls, "other": 1})["field"] == "other"
    assert refusal(model, {"inputs": ["a", None]})["field"] == "inputs"


def test_a_null_beside_numbers_that_orjson_does_not_read() -> None:
    body = b'{"inputs": [[0.5, NaN]], "options": null}'
    assert math.isnan(read(TagRequest, body).inputs[0][1])
    assert refusal(GenerateRequest, b'{"inputs": "a", "x": null, "parameters": {"seed": %s}}' % (b"9" * 5000))


@pytest.mark.parametrize(
    ("parameters", "field"),
    [({"truncate": 10}, "truncate"), ({"grammar": {"type": "regex"}}, "grammar"), ({"typical_p": 0.5}, "typical_p")],
)
def test_a_value_that_asks_for_more_is_rejected(parameters: dict[str, Any], field: str) -> None:
    assert refusal(GenerateRequest, {"inputs": "a", "parameters": parameters})["field"] == f"parameters.{field}"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"inputs": "café"}'.encode("latin-1"), "0xe9 at position 15"),
        ('{"inputs": "a"}'.encode("utf-8-sig"), "byte order mark"),
        ('{"inputs": "a"}'.encode("utf-16"), "UTF-16"),
        ('{"inputs": "a"}'.encode("utf-16-le"), "UTF-16"),
        (gzip.compress(b'{"inputs": "a"}'), "Content-Encoding: gzip"),
        (b" \n", "empty"),
    ],
    ids=["latin-1", "utf-8-sig", "utf-16", "utf-16-le", "gzip", "empty"],
)
@pytest.mark.parametrize("model", [TagRequest, InferRequest, CompletionRequest, EmbeddingRequest, StreamMessage])
def test_an_error_names_the_encoding_of_the_body(model: type[RequestModel], body: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        schemas.parse_body(model, body, SETTINGS)
    assert words in caught.value.message


@pytest.mark.parametrize("ids", [[1, 2], [[1, 2], [3]]])
def test_token_ids_of_langchain_are_explained(ids: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        schemas.parse_body(EmbeddingRequest, orjson.dumps({"input": ids}), SETTINGS)
    assert "check_embedding_ctx_length=False" in caught.value.message


@pytest.mark.parametrize(
    ("model", "body", "field", "meant"),
    [
        (TagRequest, {"input": "a"}, "input", "inputs"),
        (TagRequest, {"text": "a"}, "text", "inputs"),
        (TagRequest, {"text": "a", "inputs": "a"}, "text", None),
        (ClassifyRequest, {"number": 1}, "number", "inputs"),
        (ClassifyRequest, {"inputs": "a", "top_k": 1}, "top_k", "parameters.top_k"),
        (TranslateRequest, {"inputs": "a", "num_beams": 2}, "num_beams", "parameters.generate_parameters.num_beams"),
        (
            TranslateRequest,
            {"inputs": "a", "parameters": {"num_beams": 2}},
            "parameters.num_beams",
            "generate_parameters.num_beams",
        ),
        (GenerateRequest, {"prompt": "a", "input": "a"}, "input", "inputs"),
        (CompletionRequest, {"inputs": "a"}, "inputs", "prompt"),
        (TagRequest, {"inputs": "a", "parameters": {"number": 1}}, "parameters.number", None),
        (ClassifyRequest, {"inputs": "a", "parameters": {"topk": 1}}, "parameters.topk", "top_k"),
        (GenerateRequest, {"inputs": "a", "parameters": {"Temprature": 1}}, "parameters.Temprature", "temperature"),
        (CompletionRequest, {"prompt": "a", "max_completion_tokens": 9}, "max_completion_tokens", "max_tokens"),
        (EmbeddingRequest, {"input": "a", "dimension": 3}, "dimension", "dimensions"),
        (InferRequest, {"inputs": [{"nam": "text"}]}, "inputs[0].nam", "name"),
        (StreamMessage, {"input": "a"}, "input", "inputs"),
    ],
)
def test_an_unknown_field_gets_the_closest_one(
    model: type[RequestModel], body: object, field: str, meant: str | None
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        schemas.parse_body(model, orjson.dumps(body), SETTINGS)
    error = caught.value.details
    assert (error["field"], error.get("did_you_mean")) == (field, meant)
    assert error["value"] == field.rpartition(".")[2]
    assert meant is None or meant.partition(".")[0] in cast(list[str], error["available"])


@pytest.mark.parametrize("model", [schemas.GenerateParameters, CompletionRequest, schemas.TagParameters, TagRequest])
def test_a_parameter_that_is_not_offered_is_no_typo(model: type[RequestModel]) -> None:
    required = {"inputs": "a", "prompt": "a"}
    for name in [*model.not_offered, *model.neutral_values()]:
        given = {each: value for each, value in required.items() if each in model.model_fields}
        with pytest.raises(ValidationError) as caught:
            model.model_validate({**given, name: 17})
        error = request_error(caught.value, model)
        assert error.details["field"] == name
        assert "did_you_mean" not in error.details


@pytest.mark.parametrize("model", [schemas.GenerateParameters, CompletionRequest, schemas.TagParameters])
def test_the_values_without_an_effect_are_accepted(model: type[RequestModel]) -> None:
    for name, values in model.neutral_values().items():
        for value in values:
            given = {"prompt": "a"} if "prompt" in model.model_fields else {}
            assert getattr(model.model_validate({**given, name: value}), name) == value


def test_no_name_is_both_offered_and_not() -> None:
    for model in (schemas.GenerateParameters, CompletionRequest, TagRequest, ClassifyRequest):
        assert not model.not_offered & set(model.model_fields)


def shown_defaults(model: type[RequestModel]) -> dict[str, Any]:
    """Return the defaults that the OpenAPI document and the reference show."""
    properties = model.model_json_schema()["properties"]
    return {
        name: properties[name]["default"] for name in model.offered() if properties[name].get("default") is not None
    }


def test_the_documented_defaults_are_true() -> None:
    everything = shown_defaults(schemas.GenerateParameters)
    assert {"max_new_tokens", "temperature", "top_k", "top_p", "stop", "do_sample"} <= set(everything)
    parameters = read(GenerateRequest, {"inputs": "a", "parameters": everything}).parameters
    assert schemas.generation_parameters(parameters, limit=500) == schemas.generation_parameters(None, limit=500)
    asked = shown_defaults(CompletionRequest)
    assert {"max_tokens", "temperature", "top_p", "n"} <= set(asked)
    plain, explicit = (parse_completion(orjson.dumps({"prompt": "a", **more}), SETTINGS) for more in ({}, asked))
    assert options_of(plain, SETTINGS) == options_of(explicit, SETTINGS)


@pytest.mark.parametrize("model", generate.PARAMETERS.values())
def test_every_parameter_that_is_offered_has_a_documented_default(model: type[RequestModel]) -> None:
    inputs = {"inputs", "input", "prompt", "model"}
    for name in set(model.offered()) - inputs:
        shown = model.model_json_schema()["properties"][name]
        assert shown.get("description"), name
        assert shown["default"] is not None or shown.get(UNSET), name
