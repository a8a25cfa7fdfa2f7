"""Starts ``bentoml serve`` in a process of its own."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def served(
    home: Path, *, service: str = "tests.support.fake_app:svc", port: int | None = None, **environ: str | None
) -> Iterator[tuple[str, subprocess.Popen[bytes], Path]]:
    """Run the service until the block ends; yield its address, its process and its log.

    A variable that is None is removed from the environment. ``port``: default a free one.
    """
    port = free_port() if port is None else port
    address, log = f"http://127.0.0.1:{port}", home / "log"
    command = [sys.executable, "-m", "bentoml", "serve", service, "--host", "127.0.0.1"]
    # BentoML keeps the workers' metrics in its home, where two services would overwrite each other's.
    given = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True", **environ}
    variables = {name: value for name, value in given.items() if value is not None}
    with log.open("wb") as out:
        process = subprocess.Popen([*command, "--port", str(port)], cwd=ROOT, env=variables, stdout=out, stderr=out)
        try:
            until = time.monotonic() + 180  # on a machine that is busy with other things
            while not _ready(address):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.05)
            yield address, process, log
        finally:
            children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.terminate()
            try:
                process.wait(60)
            finally:
                for left in [process, *children]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        left.kill()


def _ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
