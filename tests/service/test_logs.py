"""Log lines as text and JSON, and the access log: enough for operators, and nothing that a client sent."""

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest
from pydantic import TypeAdapter, ValidationError
from starlette.websockets import WebSocketDisconnect
from uvicorn.protocols.utils import ClientDisconnected

from service import logs
from tests.support.http_connection import Wire, request
from tests.support.polling import eventually

MARK = "poison7c1f"
FORMATTERS = pytest.mark.parametrize("formatter", [logs.TEXT, logs.JSON], ids=["text", "json"])


def logged(formatter: logging.Formatter, error: BaseException) -> str:
    """Return the line for an exception that was raised here."""
    try:
        raise error
    except BaseException:
        record = logging.LogRecord("service", logging.ERROR, __file__, 1, "request %s failed", ("r-1",), sys.exc_info())
    return formatter.format(record)


@FORMATTERS
def test_an_exception_is_logged_with_its_message_and_traceback(formatter: logging.Formatter) -> None:
    line = logged(formatter, RuntimeError("the session has no input named 'lengths' on device 0"))
    for part in ("r-1", "RuntimeError", "the session has no input named", "on device 0", "test_logs.py"):
        assert part in line
    assert "lengths" not in line


def kept(limit: logs.ClientMessages, name: str, message: str, error: BaseException | None = None) -> str | None:
    """Return the text of a record that the filter lets through."""
    info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord(name, logging.ERROR, __file__, 1, message, (), info)
    if not limit.filter(record):
        return None
    return record.getMessage() + ("" if record.exc_info is None else " with a traceback")


def test_messages_that_clients_trigger_are_limited_to_one_of_a_kind_per_second() -> None:
    times_s = iter((0.0, 0.1, 0.9, 1.0, 1.5, 3.0))
    limit = logs.ClientMessages(lambda: next(times_s))
    found = [kept(limit, "uvicorn.error", "Invalid HTTP request received.") for _ in range(6)]
    assert [text is not None for text in found] == [True, False, False, True, False, True]
    assert ["2" in (text or "") for text in found] == [False, False, False, True, False, False]
    assert "1" in (found[-1] or "")


def test_errors_of_other_kinds_and_messages_of_the_service_are_not_limited() -> None:
    limit = logs.ClientMessages(lambda: 0.0)
    for error in (ValueError("a"), KeyError("a")):
        assert kept(limit, "service.api.pipeline", "request failed", error) == "request failed with a traceback"
    for _ in range(3):
        for name in ("service.server.supervisor", "service.access", "service.worker"):
            assert kept(limit, name, "a message") == "a message"


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(104, "Connection reset by peer"),
        ClientDisconnected(),
        WebSocketDisconnect(),
        RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed"),
        RuntimeError("Unexpected ASGI message 'websocket.send', after sending 'websocket.close'."),
        RuntimeError("Unexpected ASGI message 'http.response.body' sent, after response already completed."),
        RuntimeError('Cannot call "send" once a close message has been sent.'),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_answer_after_its_connection_was_closed_takes_one_line(error: Exception) -> None:
    text = kept(logs.ClientMessages(), "uvicorn.error", "Exception in ASGI application\n", error)
    assert text is not None
    assert "traceback" not in text
    assert "\n" not in text


def test_a_bug_keeps_its_traceback() -> None:
    text = kept(logs.ClientMessages(), "uvicorn.error", "Exception in ASGI application\n", RuntimeError("no slot left"))
    assert text == "Exception in ASGI application\n with a traceback"


@FORMATTERS
def test_the_causes_of_an_exception_are_logged(formatter: logging.Formatter) -> None:
    error = RuntimeError("the batch failed")
    error.__cause__ = MemoryError("out of memory")
    error.__cause__.__context__ = OSError(28, "No space left on device")
    line = logged(formatter, error)
    assert line.index("No space left") < line.index("out of memory") < line.index("the batch failed")


@FORMATTERS
@pytest.mark.parametrize(
    "error",
    [
        KeyError(MARK),
        KeyError(f"a user's {MARK}"),
        KeyError(f"both ' and \" {MARK}"),
        ValueError(f"could not convert string to float: {MARK!r}"),
        ValueError(f"can't convert {MARK!r}"),
        ValueError(f'an opening " without an end {MARK}'),
        UnicodeEncodeError("ascii", f"{MARK}é", 10, 11, "ordinal not in range"),
    ],
    ids=range(7),
)
def test_quoted_values_in_an_exception_are_not_logged(formatter: logging.Formatter, error: Exception) -> None:
    line = logged(formatter, error)
    assert type(error).__name__ in line
    assert MARK not in line


@FORMATTERS
def test_the_input_of_a_validation_error_is_not_logged(formatter: logging.Formatter) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(dict[str, int]).validate_python({MARK: [MARK]})
    assert MARK not in logged(formatter, caught.value)


def test_a_json_line_is_one_object() -> None:
    record = logging.LogRecord("service", logging.INFO, __file__, 1, "two\nlines é", (), None)
    line = logs.JSON.format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == "two\nlines é"


@pytest.fixture(params=[logs.TEXT, logs.JSON], ids=["text", "json"])
def lines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Everything that is logged, as text and as JSON."""
    monkeypatch.setattr(logging.getLogger("uvicorn.access"), "propagate", False)  # as logs.configure has it
    out = io.StringIO()
    handler, root = logging.StreamHandler(out), logging.getLogger()
    handler.setFormatter(request.param)
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield out
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.mark.parametrize(
    ("which", "outcomes"), [("all", ["ok", "invalid-request", "ok"]), ("errors", ["invalid-request"]), ("off", [])]
)
async def test_the_access_log_has_a_line_for_each_request(which: str, outcomes: list[str]) -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(logs.JSON)
    logger = logging.getLogger("service.access")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    wire = Wire(settings={"access_log": which})
    for number, text in enumerate(("a", 1, "b"), 1):
        wire.send(request({"inputs": text}, "x-request-id: mine"))
        await wire.answers(number)
    logger.removeHandler(handler)
    found = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["outcome"] for line in found] == outcomes
    if which == "all":
        line = found[0]
        assert {name: line[name] for name in ("request_id", "method", "route", "status", "model", "batch")} == {
            **{"request_id": "mine", "method": "POST", "route": "/v1/tag"},
            **{"status": 200, "model": "pos-en", "batch": 4},
        }
        assert (line["queue_ms"], line["compute_ms"]) == (1.5, 0.5)
        assert line["total_ms"] > 0
        assert line["bytes"] > 10


@pytest.mark.parametrize(
    "data",
    [
        request({"inputs": MARK}),
        request({"inputs": "!bug", "model": MARK}),
        request({"inputs": 1, MARK: MARK}),
        request({"inputs": "a", "parameters": {"aggregation_strategy": MARK}}),
        request(MARK.encode()),
        request({"inputs": MARK}, path=f"/v1/{MARK}"),
        request({"inputs": MARK}, path=f"/v1/tag?{MARK}"),
        request({"inputs": MARK}, path=f"/v1/models/{MARK}"),
        request({"inputs": "a"}, f"x-request-id: {{{MARK}}}"),
        request({"inputs": "a"}, f"content-type: {MARK}"),
        request({"inputs": "a"}, f"x-request-timeout-s: {MARK}"),
        request({"inputs": "a"}, f"traceparent: {MARK}"),
        request({"inputs": "a"}, f"{MARK}: {MARK}"),
        request({"inputs": "a"}, f"authorization: Bearer {MARK}"),
        f"{MARK} / HTTP/1.1\r\n\r\n".encode(),
    ],
)
async def test_nothing_that_a_client_sent_is_logged(data: bytes, lines: io.StringIO) -> None:
    keys = {"api_keys": ("right-key",)} if b"authorization" in data else {}
    wire = Wire(settings={"access_log": "all", **keys})
    wire.send(data)
    await eventually(lambda: bool(wire.transport.written))
    assert lines.getvalue()
    assert MARK not in lines.getvalue()
