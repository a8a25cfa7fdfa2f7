"""Errors of both clients: the right class, with all that the service said."""

import httpx
import pytest

import seqserve
from seqserve import BadAnswer, Broken, InvalidRequest, NotConnected, NotFound, Overloaded, Problem, TimedOut
from tests.client.both import answering, call, raising

PROBLEM = {
    "type": "urn:seqserve:error:invalid-request",
    "title": "The request is not valid",
    "status": 422,
    "detail": "parameters.top_k is 0; at least 1",
    "field": "parameters.top_k",
    "limit": 1,
    "value": 0,
    "request_id": "r-1",
}


def test_a_problem_has_what_the_document_says() -> None:
    error = call(answering(PROBLEM, 422), "tag", "x")
    assert isinstance(error, InvalidRequest)
    assert (error.type, error.status, error.field, error.limit) == (PROBLEM["type"], 422, "parameters.top_k", 1)
    assert str(error) == "422: parameters.top_k is 0; at least 1 (request r-1)"
    assert error.document == PROBLEM


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (401, "Unauthorized"),
        (404, "NotFound"),
        (413, "TooLarge"),
        (429, "Overloaded"),
        (500, "InternalError"),
        (503, "Unavailable"),
        (504, "DeadlinePassed"),
        (405, "Problem"),
    ],
)
def test_every_status_has_its_class(status: int, name: str) -> None:
    assert type(call(answering({}, status), "tag", "x")) is getattr(seqserve, name)


def test_the_error_body_of_openai_s_routes_is_understood() -> None:
    said = {"error": {"message": "no model 'x'", "type": "urn:x", "param": "model", "code": "unknown-model"}}
    error = call(answering(said, 404, x_request_id="r-2"), "embed", "x")
    assert isinstance(error, NotFound)
    assert (error.detail, error.field, error.request_id) == ("no model 'x'", "model", "r-2")


@pytest.mark.parametrize(
    ("said", "date", "seconds"),
    [("3", "", 3.0), ("Sat, 28 Nov 2026 04:00:07 GMT", "Sat, 28 Nov 2026 04:00:00 GMT", 7.0), ("soon", "", None)],
)
def test_retry_after_is_seconds_or_a_date(said: str, date: str, seconds: float | None) -> None:
    headers = {"retry_after": said} | ({"date": date} if date else {})
    error = call(answering({}, 429, **headers), "tag", "x")
    assert isinstance(error, Overloaded)
    assert error.retry_after_s == seconds


@pytest.mark.parametrize("page", ["<html>bad gateway</html>", "[]", ""])
def test_a_page_of_a_proxy_is_a_problem_of_its_status(page: str) -> None:
    error = call(lambda request: httpx.Response(502, text=page), "tag", "x")
    assert type(error) is Problem
    assert error.status == 502


@pytest.mark.parametrize("page", ["<html>", "7", '{"a": 1}', "[5]", '[{"entity": "A"}]'])
def test_a_200_of_something_else_is_a_bad_answer(page: str) -> None:
    assert isinstance(call(lambda request: httpx.Response(200, text=page), "tag", "x"), BadAnswer)


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (httpx.ConnectError("refused"), NotConnected),
        (httpx.ConnectTimeout(""), NotConnected),
        (httpx.PoolTimeout(""), NotConnected),
        (httpx.ReadTimeout(""), TimedOut),
        (httpx.ReadError("reset"), Broken),
        (httpx.WriteError("reset"), Broken),
        (httpx.RemoteProtocolError("closed"), Broken),
    ],
)
def test_without_an_answer_the_error_says_whether_anything_was_sent(cause: Exception, kind: type) -> None:
    error = call(raising(cause), "tag", "x")
    assert type(error) is kind
    assert error.__cause__ is cause
