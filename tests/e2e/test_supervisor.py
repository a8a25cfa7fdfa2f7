"""Workers that end: the supervising process logs it and starts another, or ends the service."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.bentoml_server import ROOT, free_port, served
from tests.support.polling import wait_until


def test_a_killed_worker_is_logged_and_replaced_at_once(tmp_path: Path) -> None:
    with served(tmp_path, SEQSERVE_WORKERS="2") as (address, process, log):

        def workers() -> set[int]:
            return {child.pid for child in psutil.Process(process.pid).children()}

        wait_until(lambda: "ready: " in log.read_text(), timeout_s=120)
        before = workers()
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: len(workers() - before) == 1)
        lines = [line for line in log.read_text().splitlines() if f"worker {killed} " in line]
        assert len(lines) == 1
        assert "SIGKILL" in lines[0]
        assert httpx.get(f"{address}/livez").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_request_that_the_start_suggests_gets_an_answer(tmp_path: Path) -> None:
    with served(tmp_path, service="service.app:Seqserve", SEQSERVE_BUNDLES="models/zoo/names") as (_, _, log):
        wait_until(lambda: "ready: " in log.read_text(), timeout_s=120)
        (command,) = re.findall("Try: (curl .*)", log.read_text())
        done = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=30, check=True)
        assert set(json.loads(done.stdout)[0][0]) == {"label", "score"}


def start(tmp_path: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    serve = ("serve", "tests.support.fake_app:svc", "--host", "127.0.0.1")
    command = [sys.executable, "-m", "bentoml", *serve, *arguments]
    env = {**os.environ, "BENTOML_HOME": str(tmp_path), **environ}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=180, check=False)


def test_a_start_without_a_worker_ends_with_the_reason(tmp_path: Path) -> None:
    done = start(tmp_path, "--port", str(free_port()), FAIL=str(ROOT))
    assert done.returncode == 1
    assert "the device has no memory left" in done.stdout.splitlines()[-1]


def test_the_service_ends_once_no_worker_is_left_and_none_can_start(tmp_path: Path) -> None:
    fail = tmp_path / "fail"
    settings = {"FAIL": str(fail), "SEQSERVE_WORKERS": "2"}
    with served(tmp_path, **settings) as (address, process, log):
        wait_until(lambda: "ready: " in log.read_text(), timeout_s=120)
        first, second = psutil.Process(process.pid).children()
        fail.touch()
        first.kill()
        wait_until(lambda: log.read_text().count("before it was ready") >= 2, timeout_s=120)
        assert httpx.get(f"{address}/livez").status_code == 200  # the other one serves on
        second.kill()
        assert process.wait(180) == 1
        assert "the device has no memory left" in log.read_text().splitlines()[-1]


def test_a_taken_grpc_port_ends_the_start(tmp_path: Path) -> None:
    port = str(free_port())
    done = start(tmp_path, "--port", port, SEQSERVE_GRPC_PORT=port)
    assert done.returncode == 1
    assert "SEQSERVE_GRPC_PORT" in done.stderr
    assert "Traceback" not in done.stderr
