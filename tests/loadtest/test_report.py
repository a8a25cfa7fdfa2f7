"""report.py: exact percentiles, rates, and when a load has failed."""

import json
from pathlib import Path

import pytest

from loadtest import report
from loadtest.report import Sample


def sample(endpoint: str = "/v1/tag", latency_ms: float = 1.0, at_s: float = 0.0, error: str = "") -> Sample:
    return Sample(at_s=at_s, endpoint=endpoint, latency_ms=latency_ms, status=500 if error else 200, error=error)


def test_percentiles_are_the_nearest_rank() -> None:
    hundred = [float(value) for value in range(1, 101)]
    assert [report.percentile(hundred, p) for p in (50, 95, 99, 100)] == [50, 95, 99, 100]
    assert report.percentile([7.0], 1) == 7.0


def test_rate_counts_from_the_first_request_to_the_last_answer() -> None:
    rows = report.summarise([sample(at_s=1.0), sample(at_s=2.0), sample(at_s=2.5, latency_ms=500)])
    assert rows[-1].per_s == pytest.approx(3 / 2)


def test_a_row_an_endpoint_and_one_over_all() -> None:
    rows = report.summarise([sample("/b"), sample("/a", 3.0), sample("/a", 5.0, error="500 bug")])
    assert [(row.endpoint, row.requests, row.max_ms) for row in rows] == [("/a", 2, 5), ("/b", 1, 1), ("all", 3, 5)]
    assert rows[0].errors == {"500 bug": 1}


def test_verdict_names_every_reason() -> None:
    fast, slow = sample("/fast"), sample("/slow", 50.0)
    assert report.verdict(report.summarise([fast, slow]), p99_ms=None) == []
    assert report.verdict(report.summarise([fast, slow]), p99_ms=50.0) == []
    assert report.verdict([], p99_ms=None) == ["no request was made"]
    assert report.verdict(report.summarise([fast, sample(error="x")]), p99_ms=None) == ["1 of 2 requests failed"]


def test_a_slow_endpoint_is_not_hidden_by_many_fast_answers() -> None:
    rows = report.summarise([sample("/fast")] * 1000 + [sample("/slow", 50.0)])
    assert rows[-1].p99_ms == 1.0
    assert report.verdict(rows, p99_ms=20.0) == ["/slow: p99 is 50.0 ms, over the 20 ms allowed"]


def test_a_last_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps([0.5, "/v1/tag", 1.25, 200, ""]) + '\n[0.6, "/v1', "utf-8")
    assert report.read_samples(path) == [sample(latency_ms=1.25, at_s=0.5)]
