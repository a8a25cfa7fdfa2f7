"""Tests of loadtest.limits: the in-process references and targets."""

import os
from pathlib import Path

import pytest

from loadtest.limits import LimitsSetup, check


@pytest.fixture
def setup(tiny_zoo: Path, tmp_path: Path) -> LimitsSetup:
    measured = {"seconds": 0.1, "overload_seconds": 0.1, "rounds": 1, "seed": 0}
    core = min(os.sched_getaffinity(0))
    return LimitsSetup(server_core=core, zoo=tiny_zoo, folder=tmp_path, **measured)  # type: ignore[arg-type]


def test_bulk_reference_measures_repeatedly(setup: LimitsSetup) -> None:
    texts = ["the cat", "a", "the dog sat on the cat", "the cat"]
    with setup.reference("bulk", "tiny-tag", "fp32", texts) as reference:
        assert reference.about == {"first_come_waste": pytest.approx(1 - 11 / 24)}
        for _ in range(2):
            turn = reference.turn()
            assert turn.keys() == {"session_per_s", "everything_per_s"}
            assert min(turn.values()) > 0


def test_steps_reference_measures_repeatedly(setup: LimitsSetup) -> None:
    with setup.reference("steps", "tiny-generate", "fp32", 3) as reference:
        for _ in range(2):
            turn = reference.turn()
            assert turn.keys() == {"network_per_s", "with_sampling_per_s"}
            assert min(turn.values()) > 0


def test_failing_reference_raises_with_its_log(setup: LimitsSetup) -> None:
    with pytest.raises(LookupError, match="nothing-there"), setup.reference("bulk", "nothing-there", "fp32", []):
        pass


def test_check_compares_with_the_target() -> None:
    assert check("share", 0.85, least=0.85) == {"what": "share", "is": 0.85, "wanted": "at least 0.85", "met": True}
    assert not check("p99", 10.1, most=10.0)["met"]
