"""Tests of loadtest.report: percentiles, rates and failures."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from loadtest import report
from loadtest.load_loops import percentile
from loadtest.report import LoadSample


def sample(
    endpoint: str = "/v1/tag", latency_ms: float = 1.0, at_s: float = 0.0, error: str = "", **more: Any
) -> LoadSample:
    status = 500 if error else 200
    return LoadSample(at_s=at_s, endpoint=endpoint, latency_ms=latency_ms, status=status, error=error, **more)


def test_percentile_is_the_nearest_rank() -> None:
    hundred = [float(value) for value in range(1, 101)]
    assert [percentile(hundred, p) for p in (50, 95, 99, 100)] == [50, 95, 99, 100]
    assert percentile([7.0], 1) == 7.0


def test_rate_counts_from_first_request_to_last_reply() -> None:
    rows = report.summarize([sample(at_s=1.0), sample(at_s=2.0), sample(at_s=2.5, latency_ms=500)])
    assert rows[-1].per_s == pytest.approx(3 / 2)


def test_one_row_per_endpoint_and_one_for_all() -> None:
    rows = report.summarize([sample("/b"), sample("/a", 3.0), sample("/a", 5.0, error="500 bug")])
    assert [(row.name, row.requests, row.max_ms) for row in rows] == [("/a", 2, 5), ("/b", 1, 1), ("all", 3, 5)]
    assert rows[0].errors == {"500 bug": 1}


def test_failures_count_errors_and_empty_loads() -> None:
    fast, slow = sample("/fast"), sample("/slow", 50.0)
    assert report.failures(report.summarize([fast, slow]), p99_ms=None) == []
    assert report.failures(report.summarize([fast, slow]), p99_ms=50.0) == []
    assert len(report.failures([], p99_ms=None)) == 1
    assert len(report.failures(report.summarize([fast, sample(error="x")]), p99_ms=None)) == 1


def test_p99_limit_applies_to_each_endpoint() -> None:
    rows = report.summarize([sample("/fast")] * 1000 + [sample("/slow", 50.0)])
    assert rows[-1].p99_ms == 1.0
    (reason,) = report.failures(rows, p99_ms=20.0)
    assert reason.startswith("/slow")


def test_inputs_are_counted_for_each_model() -> None:
    rows = report.summarize([sample(model="a", inputs=3), sample(model="b"), sample(model="b", at_s=0.999)], by="model")
    assert [(row.name, row.inputs_per_s) for row in rows] == [("a", 3.0), ("b", 2.0), ("all", 5.0)]


def test_incomplete_last_sample_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps(asdict(sample(latency_ms=1.25))) + '\n{"at_s": 0.6, "endp', "utf-8")
    assert report.read_samples(path) == [sample(latency_ms=1.25)]


def test_the_instruction_sets_for_matrix_products_are_listed() -> None:
    assert report.instruction_sets("fpu sse2 avx512_vnni avx2 avx512f_other") == ["avx2", "avx512_vnni"]
    assert report.instruction_sets("") == []
