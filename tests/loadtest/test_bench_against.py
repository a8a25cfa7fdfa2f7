"""Tests of loadtest.bench_against: the order of runs and the ratios of pairs."""

from loadtest.bench_against import Checkout, RunFigures, alternate, quartiles, summarize
from loadtest.http_client import ServiceAddress

ADDRESS = ServiceAddress(host="127.0.0.1", port=1)
NEW, OLD = (Checkout(side=side, address=ADDRESS, requests={}) for side in ("new", "old"))


def figures(per_s: float, p99_ms: float = 1.0, failed: int = 0) -> RunFigures:
    return RunFigures(per_s=per_s, p99_ms=p99_ms, failed=failed)


def test_the_order_alternates_and_the_first_pair_is_dropped() -> None:
    runs: list[tuple[str, int]] = []

    def scenario(checkout: Checkout, number: int) -> RunFigures:
        runs.append((checkout.side, number))
        return figures(float(number))

    pairs = alternate(scenario, NEW, OLD, 2)
    assert runs == [("new", 0), ("old", 0), ("old", 1), ("new", 1), ("new", 2), ("old", 2)]
    assert [pair["new"].per_s for pair in pairs] == [1.0, 2.0]


def test_ratios_are_taken_pair_by_pair() -> None:
    # The machine is twice as fast during the second pair. The ratio of the medians would be 3.3.
    found = summarize(
        [
            {"new": figures(100.0, 4.0, failed=2), "old": figures(50.0, 2.0)},
            {"new": figures(200.0, 1.0), "old": figures(40.0, 2.0)},
        ]
    )
    assert found["ratios"]["per_s"] == (2.75, 3.5, 4.25)
    assert found["ratios"]["p99_ms"][1] == 1.25
    assert found["medians"]["old"]["per_s"] == 45.0
    assert found["failed"] == {"new": 2, "old": 0}


def test_quartiles_of_one_value_are_that_value() -> None:
    assert quartiles([2.0]) == (2.0, 2.0, 2.0)
