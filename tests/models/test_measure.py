"""`seqserve measure`."""

import json
from pathlib import Path
from typing import Any

import pytest

from models import measure
from models.__main__ import main
from models.onnx_session import OnnxModel, Placement
from tests.support import bundles

CPU = Placement(device="cpu")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "ROUNDS", 1)
    monkeypatch.setattr(measure, "ROUND_S", 0.0)


MAKERS = [bundles.tagger, bundles.classifier, bundles.joint, bundles.generator, bundles.filler, bundles.translator]


@pytest.mark.parametrize("make", MAKERS)
def test_measure_every_task(tmp_path: Path, make: object) -> None:
    assert callable(make)
    (entry,) = measure.measure(make(tmp_path), CPU, (1, 3))
    assert (entry["device"], entry["self_test"], entry["same_bits"]) == ("cpu", "passed", {3: True})
    assert all(rate > 0 for rate in entry["per_s"].values())


def test_rows_that_depend_on_the_batch_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = OnnxModel.run

    def depends_on_batch(model: OnnxModel, feeds: dict[str, Any]) -> dict[str, Any]:
        return {name: array + len(feeds["lengths"]) for name, array in run(model, feeds).items()}

    monkeypatch.setattr(OnnxModel, "run", depends_on_batch)
    assert measure.measure(bundles.classifier(tmp_path), CPU, (1, 2))[0]["same_bits"] == {2: False}


def test_replay_counts_the_cached_words(tmp_path: Path) -> None:
    path = bundles.with_speller(bundles.tagger(tmp_path))
    inputs = ["the cat saw zebras", "zebras", "the lion saw zebras"]
    (entry,) = measure.measure(path, CPU, (1,), inputs)
    found = entry["replay"]
    # In the one batch are zebras three times, saw twice, and lion.
    assert (found["inputs"], found["oov_share"], found["cached_share"]) == (3, round(6 / 9, 3), 0.5)
    assert all(time_us > 0 for time_us in found["cpu_us"].values())


def test_replay_needs_a_speller(tmp_path: Path) -> None:
    (entry,) = measure.measure(bundles.tagger(tmp_path), CPU, (1,), ["zebras"])
    assert "replay" not in entry


def test_command_prints_and_writes_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = tmp_path / "found.json"
    assert main(["measure", str(bundles.tagger(tmp_path)), "--device", "cpu", "--rows", "1,2", "--to", str(found)]) == 0
    assert "tiny-tag fp32 on cpu: self-test passed" in capsys.readouterr().out
    assert [entry["variant"] for entry in json.loads(found.read_text())["variants"]] == ["fp32"]
