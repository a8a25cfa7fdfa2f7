"""What is waiting, and how long it will take."""

import pytest

from service.scheduling.cost_model import CostModel
from service.scheduling.queue_estimate import PACE_MOST, Backlog


def backlog(**cost: float) -> Backlog:
    nothing = {"call_s": 0.0, "step_s": 0.0, "cell_s": 0.0, "extra_s": 0.0}
    return Backlog(CostModel(**{**nothing, **cost}))


def test_what_is_added_and_removed_is_counted() -> None:
    waiting = backlog(cell_s=0.1, extra_s=1.0)
    waiting.add(3, 2)
    waiting.add(5, 0)
    assert (waiting.items, waiting.tokens, waiting.work_s) == (2, 8, pytest.approx(2.8))
    waiting.remove(3, 2)
    assert (waiting.items, waiting.tokens, waiting.work_s) == (1, 5, pytest.approx(0.5))


def test_calls_and_steps_are_shared_by_as_many_rows_as_batches_have_had() -> None:
    waiting = backlog(call_s=1.0, step_s=0.1)
    for _ in range(256):
        waiting.add(10, 0)
    for rows in (2, 64):
        for _ in range(300):
            waiting.settled(0.0, rows, 1.0)
        assert waiting.work_s == pytest.approx(256 * (1.0 + 1.0) / rows, rel=0.01)


def test_a_second_of_work_takes_longer_where_others_share_the_core() -> None:
    waiting = backlog(cell_s=1.0)
    waiting.add(1, 0)
    for number in range(300):
        waiting.settled(number * 0.010, 1, 0.002)
    assert waiting.wait_s == pytest.approx(5.0, rel=0.01)


def test_what_was_slow_under_load_is_not_held_against_a_quiet_hour() -> None:
    waiting = backlog(cell_s=1.0)
    waiting.add(1, 0)
    for number in range(300):
        waiting.settled(number * 1.0, 1, 0.002)
    assert waiting.wait_s == pytest.approx(PACE_MOST, rel=0.01)
    waiting.remove(1, 0)
    for number in range(300):
        waiting.settled(1000.0 + number, 1, 0.002)
    waiting.add(1, 0)
    assert waiting.wait_s == pytest.approx(1.0, rel=0.01)
