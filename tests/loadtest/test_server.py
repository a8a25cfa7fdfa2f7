"""server.py: a service that is started is stopped, whatever happens; one that does not start says why."""

import os
import sys
from pathlib import Path

import psutil
import pytest

from loadtest import server
from loadtest.closed_loop import free_port
from loadtest.server import ServerError, serving
from loadtest.wire import Address

FAKE = [sys.executable, "-m", "tests.loadtest.fake_service", "--port"]
# As BentoML's supervisor does: the worker gets a session of its own, so the group's signals do not reach it.
DETACHED = """
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-m", "tests.loadtest.fake_service", "--port", sys.argv[1]], start_new_session=True)
time.sleep(60)
"""


@pytest.fixture
def address() -> Address:
    return Address(host="127.0.0.1", port=free_port())


@pytest.mark.parametrize("how", ["plain", "detached"])
def test_no_process_is_left_even_after_an_error(address: Address, tmp_path: Path, how: str) -> None:
    words = [*FAKE, str(address.port)] if how == "plain" else [sys.executable, "-c", DETACHED, str(address.port)]
    seen: list[psutil.Process] = []

    def load() -> None:
        with serving(words, address, log=tmp_path / "log") as running:
            seen.extend(running.tree())
            assert set(server.workers(address) or ()) & {process.pid for process in seen}
            raise KeyError("the load broke")

    with pytest.raises(KeyError):
        load()
    assert len(seen) == (1 if how == "plain" else 2)
    assert not any(psutil.pid_exists(process.pid) for process in seen)
    assert server.workers(address) is None


def test_a_service_that_ends_at_once_is_reported_with_its_log(address: Address, tmp_path: Path) -> None:
    words = [*FAKE, str(address.port), "--broken", "start"]
    with pytest.raises(ServerError, match="the bundle is broken"), serving(words, address, log=tmp_path / "log"):
        pass


def test_a_service_that_is_never_ready_is_stopped(address: Address, tmp_path: Path) -> None:
    words = [*FAKE, str(address.port), "--broken", "ready"]
    with (
        pytest.raises(ServerError, match="not ready in 1 s"),
        serving(words, address, log=tmp_path / "log", timeout_s=1),
    ):
        pass
    assert server.workers(address) is None


def test_an_address_in_use_is_refused(address: Address, tmp_path: Path) -> None:
    words = [*FAKE, str(address.port)]
    with (
        serving(words, address, log=tmp_path / "log"),
        pytest.raises(ServerError, match="taken already"),
        serving(words, address, log=tmp_path / "other"),
    ):
        pass


def test_a_service_can_be_pinned(address: Address, tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    with serving([*FAKE, str(address.port)], address, log=tmp_path / "log", core=core) as running:
        assert [process.cpu_affinity() for process in running.tree()] == [[core]]
        assert running.cpu_s() > 0


def test_a_command_that_does_not_exist_is_named(address: Address, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="no-such-program"), serving("no-such-program", address, log=tmp_path / "log"):
        pass
