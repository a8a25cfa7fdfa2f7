"""Tests of `seqserve load`: exit codes, files, and no gevent in this process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.__main__ import main
from loadtest.http_client import free_port


def run(folder: Path, broken: str, *more: str) -> int:
    port = free_port()
    serve = f"{sys.executable} -m tests.support.fake_service --port {port} --broken '{broken}'"
    words = ["--users", "4", "--seconds", "1", "--report", str(folder), *more]
    return main(["run", "--serve", serve, "--url", f"http://127.0.0.1:{port}", *words])


def test_run_writes_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "", "--p99-ms", "10000") == 0, capsys.readouterr()
    result = json.loads((tmp_path / "result.json").read_text("utf-8"))
    endpoints = {row["name"]: row for row in result["endpoints"]}
    assert {"/v1/tag", "/v1/classify", "/v1/generate", "all"} <= endpoints.keys()
    assert endpoints["all"]["requests"] > 20
    assert {row["name"] for row in result["bundles"]} == {"pos-fake", "sentiment-fake", "shakespeare-fake"}
    inputs_per_s = sum(row["inputs_per_s"] for row in result["bundles"])
    assert endpoints["all"]["inputs_per_s"] == pytest.approx(inputs_per_s, rel=0.01)
    assert min(result["cpu_cores"].values()) > 0
    assert result["machine"]["cpu"]
    assert "python -m loadtest" in result["command"]
    assert (tmp_path / "report.html").stat().st_size > 1000


def test_wrong_answers_with_status_200_fail(tmp_path: Path) -> None:
    assert run(tmp_path, "answers", "--scenario", "tag") == 1
    assert json.loads((tmp_path / "result.json").read_text("utf-8"))["failed"]


def test_missing_service_exits_with_2(tmp_path: Path) -> None:
    assert main(["run", "--url", f"http://127.0.0.1:{free_port()}", "--report", str(tmp_path)]) == 2


def test_importing_the_command_does_not_import_gevent() -> None:
    code = "import sys, loadtest.__main__; print(sorted({'gevent', 'locust'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
