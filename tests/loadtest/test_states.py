"""states: right continuations and refusals pass; a wrong one of either kind fails."""

from pathlib import Path
from random import Random

import pytest

from loadtest import states
from tests.loadtest.fake_service import opened, sealed
from tests.loadtest.fakes import run


def missed(result: dict[str, list[dict[str, object]]]) -> list[object]:
    return [each["what"] for each in result["checks"] if not each["met"]]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "P99_MS", 10_000.0)
    monkeypatch.setattr(states, "SLOWEST_MS", 10_000.0)


def test_continuations_that_are_the_rest_and_refusals_pass(tmp_path: Path) -> None:
    code, result = run("states", tmp_path / "states.json")
    assert code == 0, result["checks"]
    assert (result["splits"], result["forged"]["statuses"]) == (60, {"422": 300})


@pytest.mark.parametrize(("broken", "what"), [("states", "continuations that are not"), ("forged", "forged states")])
def test_a_continuation_that_differs_and_a_forged_state_that_is_believed_fail(
    tmp_path: Path, broken: str, what: str
) -> None:
    code, result = run("states", tmp_path / "states.json", broken=broken)
    assert code == 1
    assert [str(each).startswith(what) for each in missed(result)] == [True]


def test_a_mutated_state_is_never_a_state() -> None:
    one, other, random = sealed(b'["a", 1, 2]'), sealed(b'["b", 7, 9]'), Random(3)
    for _ in range(500):
        found = states.mutated(one, other, random)
        with pytest.raises(Exception, match="no such state"):
            opened(found, "")
