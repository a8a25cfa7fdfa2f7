"""Tests of loadtest.bench_against: ratios of pairs of runs."""

from loadtest.bench_against import RunFigures, summarize


def figures(per_s: float, p99_ms: float = 1.0, failed: int = 0) -> RunFigures:
    return RunFigures(per_s=per_s, p99_ms=p99_ms, cpu_us=1e6 / per_s, failed=failed)


def test_ratios_are_taken_pair_by_pair() -> None:
    # The machine is twice as fast during the second pair. The ratio of the medians would be 3.3.
    found = summarize([(figures(100.0, 4.0, failed=2), figures(50.0, 2.0)), (figures(200.0, 1.0), figures(40.0, 2.0))])
    assert found["ratios"]["per_s"] == (2.75, 3.5, 4.25)
    assert found["ratios"]["p99_ms"][1] == 1.25
    assert found["ratios"]["cpu_us"][1] == 0.35
    assert found["medians"]["old"]["per_s"] == 45.0
    assert found["failed"] == {"new": 2, "old": 0}
