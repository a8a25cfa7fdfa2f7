"""The table from error to status, and the bodies of errors."""

import orjson
import pytest

from service import errors
from service.api.problems import (
    GRPC_REMEDIES,
    TABLE,
    body_of,
    detail_of,
    headers_of,
    kind_of,
    openai_field,
    renamed_fields,
)


def tree(cls: type[errors.ServiceError]) -> set[type[errors.ServiceError]]:
    return {cls}.union(*(tree(sub) for sub in cls.__subclasses__()))


def leaves() -> set[type[errors.ServiceError]]:
    return {cls for cls in tree(errors.ServiceError) if not cls.__subclasses__() and cls.__module__ == errors.__name__}


def test_every_error_has_a_status() -> None:
    assert set(TABLE) == leaves()


def test_slugs_are_unique() -> None:
    assert len({kind.slug for kind in TABLE.values()}) == len(TABLE)


def test_a_subclass_is_answered_as_its_base() -> None:
    class StateForged(errors.InvalidRequest):
        pass

    assert kind_of(StateForged("no")).status == 422


def test_a_problem_has_the_details_of_its_error() -> None:
    error = errors.InvalidRequest("0 is too small", field="parameters.top_k", limit=1, value=0)
    assert orjson.loads(body_of(error, request_id="r-1")) == {
        "type": "urn:seqserve:error:invalid-request",
        "title": "Invalid request",
        "status": 422,
        "detail": "parameters.top_k: 0 is too small",
        "field": "parameters.top_k",
        "limit": 1,
        "value": 0,
        "request_id": "r-1",
        "error": "parameters.top_k: 0 is too small",
        "error_type": "validation",
    }


def test_retry_after_is_rounded_up_to_whole_seconds() -> None:
    assert (b"retry-after", b"3") in headers_of(errors.Overloaded("full", retry_after_s=2.2, limit=1))
    assert (b"retry-after", b"1") in headers_of(errors.Overloaded("full", retry_after_s=0.01, limit=1))


def test_405_has_the_allowed_methods() -> None:
    assert (b"allow", b"GET, HEAD") in headers_of(errors.MethodNotAllowed("no", available=["GET", "HEAD"]))


@pytest.mark.parametrize("value", ["x" * 100_000, ["x" * 1000] * 1000, 10**1000, {"a": "b" * 1000}, "\0é😀" * 1000])
def test_large_values_are_truncated(value: object) -> None:
    body = body_of(errors.InvalidRequest("bad", field="inputs", value=value), request_id="r")
    assert len(body) < 1000


def test_only_http_errors_advise_http_headers() -> None:
    error = errors.DeadlinePassed("the deadline passed")
    assert "X-Request-Timeout-S" in detail_of(error)
    assert "X-Request-Timeout-S" not in detail_of(error, GRPC_REMEDIES)


@pytest.mark.parametrize(
    ("field", "single", "copies", "renamed"),
    [
        ("inputs", True, 1, "prompt"),
        ("inputs", False, 1, "prompt"),
        ("inputs[3]", False, 1, "prompt[3]"),
        ("inputs[3]", False, 2, "prompt[1]"),
        ("inputs[1]", True, 2, "prompt"),
        ("model", False, 1, "model"),
    ],
)
def test_engine_fields_are_renamed_to_the_requests(field: str, single: bool, copies: int, renamed: str) -> None:
    rename = openai_field("prompt", single=single, copies=copies)
    with pytest.raises(errors.InvalidRequest) as caught, renamed_fields(rename):
        raise errors.InvalidRequest("bad", field=field)
    assert caught.value.details["field"] == renamed


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.TooLarge("too long", limit=1), "validation"),
        (errors.Overloaded("full", retry_after_s=1, limit=1), "overloaded"),
        (errors.RateLimited("over", policy="rate", limit=1, retry_after_s=1), "overloaded"),
        (errors.InternalError(), "generation"),
    ],
)
def test_clients_of_text_generation_inference_read_the_detail_and_its_kind(
    error: errors.ServiceError, kind: str
) -> None:
    body = orjson.loads(body_of(error, request_id="r-1"))
    assert (body["error"], body["error_type"]) == (body["detail"], kind)
