"""What a load did: percentiles, errors, a table, a JSON file. Pure functions of the samples; runs nothing.

A sample is one request as users.py writes it. Percentiles are exact (nearest rank over all samples), not those of
Locust's rounded histogram: at a few milliseconds a request its rounding would be most of the figure.
"""

import json
import math
import os
import platform
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

ALL = "all"
ERRORS_SHOWN = 5  # an endpoint


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One request: when it began (since the load's start), how long it took, what came back."""

    at_s: float
    endpoint: str
    latency_ms: float
    status: int  # 0: no answer at all
    error: str  # empty: the right answer


@dataclass(frozen=True, kw_only=True)
class Row:
    """One endpoint's figures."""

    endpoint: str
    requests: int
    per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    errors: Mapping[str, int]  # what was wrong -> how often


def read_samples(path: Path) -> list[Sample]:
    """The samples of a file; a last line that was cut short is left out."""
    samples = []
    for line in path.read_text("utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            at_s, endpoint, latency_ms, status, error = json.loads(line)
            samples.append(Sample(at_s=at_s, endpoint=endpoint, latency_ms=latency_ms, status=status, error=error))
    return samples


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Nearest rank: the smallest value that at least `percent` of all do not exceed. `ordered` is not empty."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def summarise(samples: Sequence[Sample]) -> list[Row]:
    """A row an endpoint by name, then one over all; no rows of no samples."""
    if not samples:
        return []
    begin_s = min(sample.at_s for sample in samples)
    end_s = max(sample.at_s + sample.latency_ms / 1000 for sample in samples)
    names = sorted({sample.endpoint for sample in samples})
    groups = {name: [sample for sample in samples if sample.endpoint == name] for name in names}
    return [_row(name, group, end_s - begin_s) for name, group in [*groups.items(), (ALL, list(samples))]]


def _row(name: str, samples: Sequence[Sample], duration_s: float) -> Row:
    ordered = sorted(sample.latency_ms for sample in samples)
    return Row(
        endpoint=name,
        requests=len(samples),
        per_s=round(len(samples) / max(duration_s, 1e-3), 1),
        p50_ms=percentile(ordered, 50),
        p95_ms=percentile(ordered, 95),
        p99_ms=percentile(ordered, 99),
        max_ms=ordered[-1],
        errors=dict(Counter(sample.error for sample in samples if sample.error)),
    )


def verdict(rows: Sequence[Row], *, p99_ms: float | None) -> list[str]:
    """Why this load is a failure, a sentence each; empty when it is none.

    `p99_ms` is asked of every endpoint by itself: over all of them, many fast answers would hide a slow route.
    """
    if not rows:
        return ["no request was made"]
    total = rows[-1]
    reasons = [f"{sum(total.errors.values())} of {total.requests} requests failed"] if total.errors else []
    if p99_ms is not None:
        reasons += [
            f"{row.endpoint}: p99 is {row.p99_ms:.1f} ms, over the {p99_ms:g} ms allowed"
            for row in rows[:-1]
            if row.p99_ms > p99_ms
        ]
    return reasons


def console() -> Console:
    """Where tables go: a terminal in its own width; a log or a pipe wide enough that no figure is cut."""
    return Console(width=None if sys.stdout.isatty() else 110)


def table(rows: Sequence[Row], title: str) -> Table:
    """The rows for a terminal."""
    drawn = Table(title=title, title_justify="left")
    drawn.add_column("endpoint", no_wrap=True)
    for column in ("requests", "req/s", "p50 ms", "p95 ms", "p99 ms", "max ms", "errors"):
        drawn.add_column(column, justify="right")
    for row in rows:
        if row.endpoint == ALL:
            drawn.add_section()
        latencies = (f"{value:.1f}" for value in (row.p50_ms, row.p95_ms, row.p99_ms, row.max_ms))
        drawn.add_row(row.endpoint, f"{row.requests:,}", f"{row.per_s:,.1f}", *latencies, str(sum(row.errors.values())))
    return drawn


def error_table(rows: Iterable[Row]) -> Table:
    """The most frequent errors of each endpoint; result.json has them all."""
    drawn = Table(title="errors", title_justify="left")
    drawn.add_column("endpoint", no_wrap=True)
    drawn.add_column("what")
    drawn.add_column("how often", justify="right")
    for row in rows:
        if row.endpoint != ALL:
            for error, count in Counter(row.errors).most_common(ERRORS_SHOWN):
                drawn.add_row(row.endpoint, error, str(count))
    return drawn


def circumstances() -> dict[str, object]:
    """What a figure is worth nothing without: the command, the day, the machine."""
    return {
        "command": "python -m loadtest " + shlex.join(sys.argv[1:]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
        },
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def write_json(path: Path, content: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


def as_json(rows: Sequence[Row]) -> list[dict[str, object]]:
    """The rows for a file."""
    return [asdict(row) for row in rows]
