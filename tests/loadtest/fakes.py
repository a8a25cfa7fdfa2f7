"""A verb of `python -m loadtest` against a fake service that it starts itself."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from loadtest.__main__ import main
from loadtest.closed_loop import free_port


def run(verb: str, report: Path, *more: str, broken: str = "") -> tuple[int, dict[str, Any]]:
    """The exit code and the result file of `verb --quick`."""
    port, cores = free_port(), os.sched_getaffinity(0)
    serve = f"{sys.executable} -m tests.loadtest.fake_service --port {port} --broken '{broken}'"
    where = ["--serve", serve, "--url", f"http://127.0.0.1:{port}", "--report", str(report)]
    code = main([verb, "--quick", *where, *more])
    assert os.sched_getaffinity(0) == cores
    return code, json.loads(report.read_text("utf-8")) if report.exists() else {}
