"""Tests of `seqserve speed`: which service and bundle it measures, and its figures."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtest import speed
from loadtest.__main__ import main
from loadtest.http_client import ServiceAddress, free_port
from loadtest.payloads import ServedModel
from loadtest.service_process import find_service, start_service


def served(**more: Any) -> ServedModel:
    given = {"id": "m", "task": "tag", "variant": "fp32", "labels": (), "max_length": 9, "words": ("a",), **more}
    return ServedModel(**given)


def test_running_service_is_measured(tmp_path: Path) -> None:
    address, file = ServiceAddress(host="127.0.0.1", port=free_port()), tmp_path / "speed.json"
    command = [sys.executable, "-m", "tests.support.fake_service", "--port", str(address.port)]
    options = ["--url", address.url, "--seconds", "4.8", "--report", str(file)]
    with start_service(command, address, log=tmp_path / "log") as service:
        found = find_service(address)
        assert found is not None
        assert found.process == service.process
        assert main(["speed", "sentiment-fake", *options]) == 0
        assert main(["speed", "other", *options]) == 2
    result = json.loads(file.read_text("utf-8"))
    assert result["model"]["id"] == "sentiment-fake"
    loops = result["loops"]
    assert [(loop["connections"], loop["inputs"]) for loop in loops] == [(1, 1), (8, 1), (32, 1), (8, 32)]
    assert all(loop["inputs_per_s"] == loop["inputs"] * loop["requests_per_s"] > 0 for loop in loops)
    assert all(loop["service_cores"] > 0 for loop in loops)


def test_address_without_a_local_service_has_no_processes() -> None:
    assert find_service(ServiceAddress(host="127.0.0.1", port=free_port())) is None
    assert find_service(ServiceAddress(host="192.0.2.1", port=22)) is None


@pytest.mark.parametrize("name", ["mine", "runs/mine", "runs/mine/bundle"])
def test_bundle_of_a_run_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder = tmp_path / "runs/mine/bundle"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert speed.find_bundle(name) == folder
    assert speed.find_bundle("names").name == "names"
    with pytest.raises(LookupError, match="mine"):
        speed.find_bundle("minne")


@pytest.mark.parametrize("name", ["reviews", "v3"])
def test_bundle_of_the_setting_is_found_by_the_name_of_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / "served/v3"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"name": "reviews"}')
    for place in (folder, folder.parent):
        monkeypatch.setenv("SEQSERVE_BUNDLES", f"models/zoo, {place}")
        assert speed.find_bundle(name) == folder
    assert speed.find_bundle("models/zoo/names") == speed.find_bundle("names")
    with pytest.raises(LookupError, match="reviews"):
        speed.find_bundle("review")


def test_requests_are_the_examples_of_the_bundle() -> None:
    inputs = speed.single_inputs(served(examples=("a b", ["c", "d"], "e")))
    assert inputs == ["a b", "e"]
    bodies = speed.request_bodies(served(), inputs, 3)
    assert [body["inputs"] for body in bodies[:2]] == [["a b", "e", "a b"], ["e", "a b", "e"]]
    frames = [[[1.0], [2.0]]]
    assert speed.single_inputs(served(codec="frames", examples=tuple(frames))) == frames
    series = speed.request_bodies(served(task="forecast"), [[1.0, 2.0]], 1)
    assert series[0]["inputs"] == [{"target": [1.0, 2.0]}]
    seeds = {body["parameters"]["seed"] for body in speed.request_bodies(served(task="generate"), inputs, 1)}
    assert len(seeds) == speed.POOL_SIZE


def test_too_short_a_time_is_refused() -> None:
    assert main(["speed", "--seconds", "4"]) == 2
