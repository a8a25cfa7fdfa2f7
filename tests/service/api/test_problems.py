"""The one table error -> status."""

import orjson
import pytest

from service import errors
from service.api.problems import TABLE, body_of, headers_of, kind_of


def tree(cls: type[errors.ServiceError]) -> set[type[errors.ServiceError]]:
    return {cls}.union(*(tree(sub) for sub in cls.__subclasses__()))


def leaves() -> set[type[errors.ServiceError]]:
    return {cls for cls in tree(errors.ServiceError) if not cls.__subclasses__() and cls.__module__ == errors.__name__}


def test_every_leaf_of_the_error_tree_has_a_status() -> None:
    assert set(TABLE) == leaves()


def test_slugs_name_one_error_each() -> None:
    assert len({kind.slug for kind in TABLE.values()}) == len(TABLE)


def test_every_error_is_drawn_in_the_tree_of_the_docstring() -> None:
    drawn = errors.__doc__ or ""
    assert all(cls.__name__ in drawn for cls in tree(errors.ServiceError) if cls.__module__ == errors.__name__)


def test_a_subclass_is_answered_as_its_base() -> None:
    class StateForged(errors.InvalidRequest):
        pass

    assert kind_of(StateForged("no")).status == 422


def test_the_body_says_to_a_program_what_the_sentence_says_to_a_person() -> None:
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
    }


def test_retry_after_is_rounded_up_to_whole_seconds() -> None:
    assert (b"retry-after", b"3") in headers_of(errors.Overloaded("full", retry_after_s=2.2))
    assert (b"retry-after", b"1") in headers_of(errors.Overloaded("full", retry_after_s=0.01))


def test_a_refused_method_comes_with_those_allowed() -> None:
    assert (b"allow", b"GET, HEAD") in headers_of(errors.MethodNotAllowed("no", available=["GET", "HEAD"]))


@pytest.mark.parametrize("value", ["x" * 100_000, ["x" * 1000] * 1000, 10**1000, {"a": "b" * 1000}, "\0é😀" * 1000])
def test_large_values_are_not_echoed(value: object) -> None:
    body = body_of(errors.InvalidRequest("bad", field="inputs", value=value), request_id="r")
    assert len(body) < 1000
