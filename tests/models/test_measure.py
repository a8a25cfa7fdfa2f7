"""What is measured of a bundle on a device."""

import json
from pathlib import Path

import pytest

from models import measure
from models.__main__ import main
from models.onnx_session import Placement
from tests.support import bundles

CPU = Placement(device="cpu")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "ROUNDS", 1)
    monkeypatch.setattr(measure, "ROUND_S", 0.0)


@pytest.mark.parametrize("make", [bundles.tagger, bundles.classifier, bundles.joint, bundles.generator])
def test_every_kind_of_bundle_is_measured(tmp_path: Path, make: object) -> None:
    assert callable(make)
    (entry,) = measure.measure(make(tmp_path), CPU, (1, 3))
    assert (entry["device"], entry["self_test"], entry["same_bits"]) == ("cpu", "passed", {3: True})
    assert all(rate > 0 for rate in entry["per_s"].values())


def test_bits_that_change_in_company_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, first = bundles.classifier(tmp_path), measure._first
    monkeypatch.setattr(measure, "_first", lambda array, rows: first(array, rows) + (rows > 1))
    assert measure.measure(path, CPU, (1, 2))[0]["same_bits"] == {2: False}


def test_the_command_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = tmp_path / "found.json"
    assert main(["measure", str(bundles.tagger(tmp_path)), "--device", "cpu", "--rows", "1,2", "--to", str(found)]) == 0
    assert "tiny-tag fp32 on cpu: self-test passed; the same bits in company" in capsys.readouterr().out
    assert [entry["variant"] for entry in json.loads(found.read_text())["variants"]] == ["fp32"]
