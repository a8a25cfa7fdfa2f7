"""The metrics of worker processes, which the supervising process writes to the metrics files."""

import os
import subprocess
import sys
from pathlib import Path

# In a process of its own, because prometheus_client reads its variable on import.
RECORD = """
import os, sys
from service.server.watchdog import Watchdog
from service.server.worker_metrics import WorkerMetrics

watchdog = Watchdog(30, start_s=300)
metrics = WorkerMetrics({"PROMETHEUS_MULTIPROC_DIR": sys.argv[1]}, workers=3)
ready, own = set(), os.getpid()
exec(sys.argv[2])
metrics.record(ready, watchdog)

from prometheus_client import CollectorRegistry, generate_latest, multiprocess
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""


def recorded(folder: Path, code: str) -> dict[str, float]:
    """Return the metrics after some events, without `seqserve_` in front."""
    environ = {name: value for name, value in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
    command = [sys.executable, "-c", RECORD, str(folder), code]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=60)
    pairs = [line.rsplit(" ", 1) for line in done.stdout.splitlines() if line.startswith("seqserve_")]
    return {name.removeprefix("seqserve_"): float(value) for name, value in pairs}


def test_the_state_memory_and_heartbeat_of_each_worker_are_recorded(tmp_path: Path) -> None:
    found = recorded(
        tmp_path,
        "metrics.started(own, 1); metrics.started(2**22 + 1, 2); ready |= {own}; watchdog.beat(own)\n"
        "for _ in range(4): list(watchdog.look())",
    )
    states = {state: found[f'workers{{state="{state}"}}'] for state in ("ready", "starting", "unresponsive", "missing")}
    assert states == {"ready": 0, "starting": 1, "unresponsive": 1, "missing": 1}
    assert found['worker_heartbeat_age_seconds{worker="1"}'] == 4
    assert found['worker_memory_bytes{worker="1"}'] > 10_000_000
    assert found['worker_starts_total{reason="start"}'] == 2
    assert found['worker_starts_total{reason="watchdog"}'] == 0  # so that its first increase is visible


def test_a_replacement_is_counted_with_the_reason_for_it(tmp_path: Path) -> None:
    found = recorded(
        tmp_path,
        "for pid in (1, 2, 3): metrics.started(pid, pid)\n"
        "metrics.ended(1, 'signal'); metrics.started(4, 1)\n"
        "metrics.started(5, 2); metrics.ended(2, 'watchdog')\n"  # seen in another order
        "metrics.ended(3, 'exit')",  # not replaced yet
    )
    counts = {reason: found[f'worker_starts_total{{reason="{reason}"}}'] for reason in ("start", "signal", "watchdog")}
    assert counts == {"start": 3, "signal": 1, "watchdog": 1}
    assert found['worker_starts_total{reason="exit"}'] == 0
    assert found['worker_memory_bytes{worker="3"}'] == 0


def test_the_files_of_workers_that_have_ended_are_merged(tmp_path: Path) -> None:
    files = [tmp_path / f"{kind}_2.db" for kind in ("counter", "gauge_livesum")]
    for file in files:
        file.write_bytes(bytes(64))
    recorded(tmp_path, "metrics.started(2, 1); metrics.ended(2, 'exit')")
    assert not any(file.exists() for file in files)
