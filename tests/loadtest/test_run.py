"""run, as it is started: exit codes, files, and a package that patches nothing."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import loadtest
from loadtest.__main__ import main
from loadtest.closed_loop import free_port

PACKAGE = Path(loadtest.__file__).parent


def run(tmp_path: Path, broken: str, *more: str) -> int:
    port = free_port()
    serve = f"{sys.executable} -m tests.loadtest.fake_service --port {port} --broken '{broken}'"
    how = ["--users", "4", "--seconds", "1", "--report", str(tmp_path), *more]
    return main(["run", "--serve", serve, "--url", f"http://127.0.0.1:{port}", *how])


def test_a_good_service_gives_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "", "--p99-ms", "10000") == 0, capsys.readouterr()
    result = json.loads((tmp_path / "result.json").read_text("utf-8"))
    endpoints = {row["endpoint"]: row for row in result["endpoints"]}
    assert {"/v1/tag", "/v1/classify", "/v1/generate", "all"} <= endpoints.keys()
    assert endpoints["all"]["requests"] > 50
    assert result["machine"]["cpu"]
    assert "python -m loadtest" in result["command"]
    assert (tmp_path / "report.html").stat().st_size > 1000
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")


def test_wrong_answers_with_status_200_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "answers", "--scenario", "tag") == 1
    assert "wrong answer" in capsys.readouterr().out


def test_a_service_that_is_not_there_is_no_load(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--url", f"http://127.0.0.1:{free_port()}"]) == 2
    assert "is the service running there?" in capsys.readouterr().err


def test_importing_the_command_patches_nothing() -> None:
    code = "import sys, loadtest.__main__; print(sorted({'gevent', 'locust'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_peers_import_from_the_repository() -> None:
    inside = {"models", "service", "training", "tests"}
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & inside, path.name
            assert not any(name.startswith("loadtest.peers") for name in names), path.name
