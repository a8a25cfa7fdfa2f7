"""The real service in a process of its own, and what it holds: gauges, sockets, files, memory.

`SEQSERVE_E2E=full` serves the bundles of models/zoo, runs the acceptance tests at full length and checks timings. The
quick mode serves tiny bundles and checks answers only, because timings on a shared machine are not stable.
"""

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from loadtest import payloads
from loadtest.http_client import ServiceAddress, fetch
from loadtest.load_loops import raise_file_limit
from loadtest.payloads import ServedModel
from loadtest.service_process import ServiceProcess, start_seqserve
from tests.support.polling import wait_until

FULL = os.environ.get("SEQSERVE_E2E") == "full"
ROOT = Path(__file__).resolve().parent.parent.parent
STATE_KEY = "a key for the end-to-end tests"
SETTLE_S = 30.0  # for a service to notice resets, and for its timers to expire
LATE_THREADS = 0 if FULL else 8  # of pools that have not needed their thread during a short warm-up
GAUGES = re.compile(r"^(seqserve_(?:active_\w+|queue_items))\S* (\S+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class LiveService:
    """A running service and its models."""

    address: ServiceAddress
    process: ServiceProcess
    models: tuple[ServedModel, ...]

    @property
    def tasks(self) -> set[str]:
        return {task for model in self.models for task in model.tasks}

    def metrics(self) -> str:
        return fetch(f"{self.address.url}/metrics").body.decode()

    def start_times(self) -> dict[int, float]:
        """Return the start time of each process by pid. Equal results mean that no worker has restarted."""
        return {process.pid: process.create_time() for process in self.process.tree()}

    def resources(self) -> "ServiceResources":
        gauges: dict[str, float] = {}
        for name, value in GAUGES.findall(self.metrics()):
            gauges[name] = gauges.get(name, 0.0) + float(value)
        sockets = files = threads = 0
        for process in self.process.tree():
            with contextlib.suppress(psutil.Error):
                sockets += sum(each.laddr.port == self.address.port for each in process.net_connections("tcp"))
                files += process.num_fds()
                threads += process.num_threads()
        memory_mb = self.process.memory_mb()
        return ServiceResources(gauges=gauges, sockets=sockets, files=files, threads=threads, memory_mb=memory_mb)

    def settle(self, before: "ServiceResources | None" = None) -> "ServiceResources":
        """Wait until the service holds no more than `before`, at most for SETTLE_S, and return what it holds."""
        end_s = time.monotonic() + SETTLE_S
        found = self.resources()

        def settled() -> bool:
            nonlocal found
            found = self.resources()
            return not found.leaks(before or found) or time.monotonic() > end_s

        wait_until(settled, timeout_s=2 * SETTLE_S)
        return found


@dataclass(frozen=True, kw_only=True)
class ServiceResources:
    """What a service holds at one moment."""

    gauges: Mapping[str, float]  # active slots, active streams, queued inputs
    sockets: int
    files: int
    threads: int
    memory_mb: float

    def leaks(self, before: "ServiceResources") -> list[str]:
        """Return what is held in addition to `before`. Gauges have to be 0."""
        found = [f"{name} is {value:g}" for name, value in self.gauges.items() if value]
        more = {name: getattr(self, name) - getattr(before, name) for name in ("sockets", "files", "threads")}
        more["threads"] -= LATE_THREADS
        return found + [f"{count} {name}" for name, count in more.items() if count > 0]


@contextlib.contextmanager
def run_live_service(folder: Path, *bundles: Path, core: int | None = None, **settings: str) -> Iterator[LiveService]:
    """Run `bentoml serve` on a free port with SEQSERVE_* settings, and stop all of its processes at the end."""
    raise_file_limit()
    paths = ",".join(map(str, bundles))
    with start_seqserve(folder, "service", {"bundles": paths, **settings}, core=core) as process:
        address = process.address
        yield LiveService(address=address, process=process, models=payloads.read_models(address.url))


@pytest.fixture(scope="session")
def live_bundles(tiny_zoo: Path, tiny_live: Path, tiny_writers: Path) -> tuple[Path, ...]:
    return (ROOT / "models/zoo",) if FULL else (tiny_zoo, tiny_live, tiny_writers)


@pytest.fixture(scope="session")
def live_service(tmp_path_factory: pytest.TempPathFactory, live_bundles: tuple[Path, ...]) -> Iterator[LiveService]:
    """The service that all end-to-end tests of a session share. It has one worker and signs states with STATE_KEY.

    The full mode pins the service to the first core and the tests to the last, so that they do not slow each other.
    """
    folder, cores = tmp_path_factory.mktemp("live"), sorted(os.sched_getaffinity(0))
    pinned = FULL and len(cores) > 1
    core = cores[0] if pinned else None
    with run_live_service(folder, *live_bundles, core=core, state_key=STATE_KEY) as service:
        if pinned:
            os.sched_setaffinity(0, cores[-1:])
        try:
            yield service
        finally:
            os.sched_setaffinity(0, cores)
