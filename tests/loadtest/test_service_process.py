"""Tests of loadtest.service_process: a started service is stopped in every case."""

import os
import sys
from pathlib import Path

import psutil
import pytest

from loadtest.http_client import ServiceAddress, fetch, free_port
from loadtest.service_process import ServiceStartError, start_service

FAKE = [sys.executable, "-m", "tests.support.fake_service", "--port"]
# Like BentoML's supervisor: the worker has a session of its own, so signals to the group do not reach it.
DETACHED = """
import subprocess, sys
subprocess.Popen([sys.executable, "-m", "tests.support.fake_service", "--port", sys.argv[1]], start_new_session=True)
subprocess.run(["sleep", "60"])
"""


@pytest.fixture
def address() -> ServiceAddress:
    return ServiceAddress(host="127.0.0.1", port=free_port())


@pytest.mark.parametrize("kind", ["plain", "detached"])
def test_an_error_leaves_no_process(address: ServiceAddress, tmp_path: Path, kind: str) -> None:
    words = [*FAKE, str(address.port)] if kind == "plain" else [sys.executable, "-c", DETACHED, str(address.port)]
    processes: list[psutil.Process] = []

    def load() -> None:
        with start_service(words, address, log=tmp_path / "log") as service:
            processes.extend(service.tree())
            raise KeyError("the load broke")

    with pytest.raises(KeyError):
        load()
    assert len(processes) == (1 if kind == "plain" else 3)
    assert not any(psutil.pid_exists(process.pid) for process in processes)


def test_service_that_ends_at_once_raises_with_its_log(address: ServiceAddress, tmp_path: Path) -> None:
    words = [*FAKE, str(address.port), "--broken", "start"]
    with (
        pytest.raises(ServiceStartError, match="cannot start: the bundle is broken"),
        start_service(words, address, log=tmp_path / "log"),
    ):
        pass


def test_service_that_is_never_ready_is_stopped(address: ServiceAddress, tmp_path: Path) -> None:
    words = [*FAKE, str(address.port), "--broken", "ready"]
    with (
        pytest.raises(ServiceStartError, match="readyz"),
        start_service(words, address, log=tmp_path / "log", timeout_s=1),
    ):
        pass
    with pytest.raises(ConnectionError):
        fetch(f"{address.url}/readyz")


def test_address_in_use_raises(address: ServiceAddress, tmp_path: Path) -> None:
    words = [*FAKE, str(address.port)]
    with (
        start_service(words, address, log=tmp_path / "log"),
        pytest.raises(ServiceStartError, match=address.url),
        start_service(words, address, log=tmp_path / "other"),
    ):
        pass


def test_core_pins_the_service(address: ServiceAddress, tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    with start_service([*FAKE, str(address.port)], address, log=tmp_path / "log", core=core) as service:
        assert [process.cpu_affinity() for process in service.tree()] == [[core]]
        assert service.cpu_s() > 0
        assert service.memory_mb() > 1


def test_folder_is_the_working_directory(address: ServiceAddress, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    words = [*FAKE, str(address.port)]
    with start_service(words, address, log=tmp_path / "log", folder=root) as service:
        assert service.process.cwd() == str(root)


def test_missing_program_raises(address: ServiceAddress, tmp_path: Path) -> None:
    with (
        pytest.raises(ServiceStartError, match="no-such-program"),
        start_service("no-such-program", address, log=tmp_path / "log"),
    ):
        pass
