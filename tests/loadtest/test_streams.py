"""streams: a whole run against the fake service, and a stream that ends too early."""

from pathlib import Path
from typing import Any

import pytest

from loadtest import streams
from loadtest.streams import PLAIN, STREAMED
from tests.loadtest.fakes import run


def test_the_figures_and_the_picture_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "FIRST_EVENT_MS", 10_000.0)
    monkeypatch.setattr(streams, "SHARE_LEAST", 0.0)
    code, result = run("streams", tmp_path / "streams.json")
    assert code == 0, result["checks"]
    assert result["first"]["first_event"]["p50_ms"] > 0
    assert min(result["medians"].values()) > 0
    assert (tmp_path / "streams.png").read_bytes().startswith(b"\x89PNG")


def test_a_stream_with_too_few_events_is_no_measurement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("streams", tmp_path / "streams.json", broken="cut")[0] == 2
    assert "events of" in capsys.readouterr().err


def conclusion(first_ms: float, streamed: float) -> list[bool]:
    spread = {"p50_ms": first_ms, "p99_ms": first_ms}
    first: dict[str, Any] = {"first_event": spread, "one_token": spread, "step_ms": 1.0}
    found = streams.conclude(first, {PLAIN: [100.0], STREAMED: [streamed]})
    return [each["met"] for each in found["checks"]]


def test_the_targets_are_a_step_and_five_milliseconds_and_three_quarters() -> None:
    assert conclusion(6.0, 75.0) == [True, True]
    assert conclusion(6.1, 75.0) == [False, True]
    assert conclusion(6.0, 74.0) == [True, False]
