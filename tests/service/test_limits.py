"""What a client may have, by a clock that the test moves."""

import pytest

from service.errors import RateLimited
from service.rate_limits import Allowance, Meter, Rate


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def meter(rate: str = "", day_requests: int | None = None) -> tuple[Meter, Clock]:
    clock = Clock()
    return Meter(Allowance(rate=Rate.parse(rate), day_requests=day_requests), clock), clock


def refused(meter: Meter) -> RateLimited:
    error = meter.take()
    assert error is not None
    return error


def test_a_window_can_be_used_up_at_once_and_comes_back_bit_by_bit() -> None:
    it, clock = meter("60/min")
    assert [it.take() for _ in range(60)] == [None] * 60
    assert refused(it).details == {"policy": "rate", "limit": 60, "retry_after_s": 1.0}
    clock.now_s += 1.0
    assert it.take() is None
    assert it.take() is not None


def test_what_is_refused_costs_nothing() -> None:
    it, clock = meter("1/s")
    it.take()
    for _ in range(100):
        refused(it)
    clock.now_s += 1.0
    assert it.take() is None


def test_nothing_is_saved_up_beyond_one_window() -> None:
    it, clock = meter("2/s")
    clock.now_s += 3600
    assert [it.take() is None for _ in range(3)] == [True, True, False]


def test_a_day_begins_anew_after_24_hours() -> None:
    it, clock = meter(day_requests=2)
    assert [it.take() is None for _ in range(3)] == [True, True, False]
    assert refused(it).details == {"policy": "day", "limit": 2, "retry_after_s": 86_400.0}
    clock.now_s += 86_400
    assert it.take() is None


def test_a_client_is_told_where_it_stands() -> None:
    it, clock = meter("10/s", day_requests=100)
    for _ in range(4):
        it.take()
    clock.now_s += 0.1
    rate, day = it.standings()
    assert (rate.policy, rate.count, rate.window_s, rate.left) == ("rate", 10, 1, 7)
    assert rate.reset_s == pytest.approx(0.3)
    assert (day.policy, day.count, day.left, day.reset_s) == ("day", 100, 96, pytest.approx(86_399.9))


def test_workers_share_but_each_lets_something_through() -> None:
    whole = Allowance(rate=Rate(count=10, window_s=1), day_requests=3)
    assert whole.shared(4) == Allowance(rate=Rate(count=2, window_s=1), day_requests=1)
    assert Allowance().shared(4) == Allowance()


@pytest.mark.parametrize("text", ["0/s", "1/day", "fast", "1 / s", "-1/s", "1/s "])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no rate"):
        Rate.parse(text)
