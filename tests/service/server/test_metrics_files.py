"""Metrics files on a disk that is full, in a directory that cannot be written, and of processes that have ended."""

import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.server.metrics_files import merge_ended

# Counts in a process of its own: SIGBUS would end this one, and prometheus_client reads its variable on import.
COUNT = """
import logging, sys
from pathlib import Path
from service.server import metrics_files
metrics_files.install()
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="log: %(name)s")
import os, prometheus_client as prometheus
from service.telemetry import Telemetry
telemetry = Telemetry()
for number in range(int(sys.argv[1])):
    if number == int(sys.argv[3]):
        exec(sys.argv[2])
    telemetry.bundle(f"model-{number}", "1", "int8", 0.5)
    telemetry.request("/v1/tag", f"model-{number}", "1", "ok", 0.01)
    telemetry.flush()
registry = prometheus.CollectorRegistry()
prometheus.multiprocess.MultiProcessCollector(registry)
text = prometheus.generate_latest(registry).decode()
print("requests:", sum(line.startswith("seqserve_requests_total{") for line in text.splitlines()))
"""


def counted(folder: Path, models: int, code: str = "", after: int = 1) -> list[str]:
    """Return what a worker prints that counts a request to each model, and runs ``code`` after some of them."""
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    command = [sys.executable, "-c", COUNT, str(models), code, str(after)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


LOGGED = "log: service.server.metrics_files"


def test_files_have_their_blocks_before_they_are_mapped(tmp_path: Path) -> None:
    assert counted(tmp_path, 100) == ["requests: 100"]
    found = [file.stat() for file in tmp_path.glob("*.db")]
    assert len(found) == 3  # counters, histograms, gauges
    assert all(file.st_blocks * 512 >= file.st_size for file in found)
    assert max(file.st_size for file in found) > 1 << 16  # one has grown


@pytest.mark.parametrize("folder", ["missing", "a-file"])
def test_without_a_directory_metrics_are_counted_in_memory(tmp_path: Path, folder: str) -> None:
    (tmp_path / "a-file").touch()
    assert counted(tmp_path / folder, 100) == [LOGGED, "requests: 100"]


def test_a_removed_directory_keeps_what_was_counted(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir()
    remove = "import shutil, os; shutil.rmtree(os.environ['PROMETHEUS_MULTIPROC_DIR'])"
    assert counted(folder, 100, remove)[-1] == "requests: 100"


def test_too_many_open_files_before_the_first_value_count_in_memory(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))"
    assert counted(tmp_path, 3, limit, after=0) == [LOGGED, "requests: 3"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 160 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("used_kb", [0, 60, 160])
def test_a_full_disk_does_not_end_the_worker(small_disk: Path, used_kb: int) -> None:
    (small_disk / "other").write_bytes(bytes(used_kb << 10))
    assert counted(small_disk, 200) == [LOGGED, "requests: 200"]


def test_a_disk_that_fills_up_later_does_not_end_the_worker(small_disk: Path) -> None:
    fill = "import pathlib; open(os.environ['PROMETHEUS_MULTIPROC_DIR'] + '/other', 'wb', 0).write(bytes(1 << 20))"
    assert counted(small_disk, 200, fill) == [LOGGED, "requests: 200"]


def pids(folder: Path) -> set[int]:
    return {int(pid) for file in folder.glob("counter_*.db") if (pid := file.stem.partition("_")[2]).isdigit()}


# Prints every sum and count, of this process and of those before it.
READ = """
from service.server import metrics_files
metrics_files.install()
import prometheus_client as prometheus
registry = prometheus.CollectorRegistry()
prometheus.multiprocess.MultiProcessCollector(registry)
print("\\n".join(sorted(line for line in prometheus.generate_latest(registry).decode().splitlines() if line[0] != "#")))
"""


def read(folder: Path) -> list[str]:
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    done = subprocess.run([sys.executable, "-c", READ], env=environ, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_the_files_of_ended_processes_are_merged_without_a_change_of_the_sums(tmp_path: Path) -> None:
    for models in (3, 300):
        counted(tmp_path, models)
    before = [line for line in read(tmp_path) if "bundle" not in line]
    assert 'seqserve_requests_total{model="model-0",outcome="ok",route="/v1/tag",version="1"} 2.0' in before
    assert merge_ended(tmp_path, pids(tmp_path))
    assert {file.name for file in tmp_path.glob("*.db")} == {"counter_ended.db", "histogram_ended.db"}
    assert read(tmp_path) == before  # without the gauges
    counted(tmp_path, 1)
    assert merge_ended(tmp_path, pids(tmp_path))
    assert {file.name for file in tmp_path.glob("*.db")} == {"counter_ended.db", "histogram_ended.db"}
    assert 'seqserve_requests_total{model="model-0",outcome="ok",route="/v1/tag",version="1"} 3.0' in read(tmp_path)


def test_files_of_running_processes_are_not_merged(tmp_path: Path) -> None:
    counted(tmp_path, 1)
    files = set(tmp_path.iterdir())
    assert merge_ended(tmp_path, {1})
    assert files <= set(tmp_path.iterdir())


def test_files_are_not_merged_while_they_are_read(tmp_path: Path) -> None:
    counted(tmp_path, 1)
    files = set(tmp_path.glob("counter_*.db"))
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert not merge_ended(tmp_path, pids(tmp_path))
        assert set(tmp_path.glob("counter_*.db")) == files
    assert merge_ended(tmp_path, pids(tmp_path))


def test_a_lock_that_is_never_released_does_not_stop_the_metrics(tmp_path: Path) -> None:
    counted(tmp_path, 1)
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert read(tmp_path)


def test_on_a_full_disk_files_stay_as_they_are(small_disk: Path) -> None:
    counted(small_disk, 1)
    before = read(small_disk)
    with (small_disk / "other").open("wb", 0) as file, contextlib.suppress(OSError):
        file.write(bytes(1 << 20))
    with pytest.raises(OSError, match="space"):
        merge_ended(small_disk, pids(small_disk))
    assert [line for line in before if "bundle" not in line] == read(small_disk)
