"""The limits: what the service is measured beside."""

import os
import sys
from pathlib import Path

import pytest

from loadtest.limits_stand import Stand, check


@pytest.fixture
def stand(tiny_zoo: Path, tmp_path: Path) -> Stand:
    measured = {"seconds": 0.1, "overload_seconds": 0.1, "rounds": 1, "seed": 0}
    core = min(os.sched_getaffinity(0))
    return Stand(server_core=core, python=sys.executable, zoo=tiny_zoo, folder=tmp_path, **measured)  # type: ignore[arg-type]


def test_the_reference_of_many_inputs_takes_turns(stand: Stand) -> None:
    texts = ["the cat", "a", "the dog sat on the cat", "the cat"]
    with stand.reference("bulk", "tiny-tag", "fp32", texts) as reference:
        assert reference.about == {"first_come_waste": pytest.approx(1 - 11 / 24)}
        for _ in range(2):
            turn = reference.turn()
            assert turn.keys() == {"session_per_s", "everything_per_s"}
            assert min(turn.values()) > 0


def test_the_reference_of_steps_takes_turns(stand: Stand) -> None:
    with stand.reference("steps", "tiny-generate", "fp32", 3) as reference:
        for _ in range(2):
            turn = reference.turn()
            assert turn.keys() == {"network_per_s", "with_draws_per_s"}
            assert min(turn.values()) > 0


def test_a_reference_that_fails_says_why(stand: Stand) -> None:
    with pytest.raises(LookupError, match="nothing-there"), stand.reference("bulk", "nothing-there", "fp32", []):
        pass


def test_a_limit_is_met_or_not() -> None:
    assert check("share", 0.85, least=0.85) == {"what": "share", "is": 0.85, "wanted": "at least 0.85", "met": True}
    assert not check("p99", 10.1, most=10.0)["met"]
