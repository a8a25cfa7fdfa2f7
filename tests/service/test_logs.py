"""The log: lines for people or programs, without users' texts."""

import json
import logging
import sys

import pytest

from service import logs


@pytest.mark.parametrize("formatter", [logs.TEXT, logs.JSON], ids=["text", "json"])
def test_an_exception_is_logged_without_its_message(formatter: logging.Formatter) -> None:
    text = "a user's text"
    try:
        raise KeyError(text)
    except KeyError:
        record = logging.LogRecord("service", logging.ERROR, __file__, 1, "request %s failed", ("r-1",), sys.exc_info())
    line = formatter.format(record)
    assert "r-1" in line
    assert "KeyError" in line
    assert "test_logs.py" in line
    assert "user's text" not in line


def test_a_json_line_is_one_object() -> None:
    record = logging.LogRecord("service", logging.INFO, __file__, 1, "two\nlines é", (), None)
    line = logs.JSON.format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == "two\nlines é"
