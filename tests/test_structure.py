"""The size of what a maintainer has to read."""

import subprocess
import sys

from tests.support.executed_files import ROOT

FILES_OF_A_REQUEST = 16


def test_one_request_executes_few_files() -> None:
    command = [sys.executable, "-m", "tests.support.executed_files"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True).stdout.split()
    assert "service/engine.py" in found
    assert len(found) <= FILES_OF_A_REQUEST, found
