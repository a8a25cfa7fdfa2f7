"""Figures of a load test: samples, percentiles, tables and the JSON report.

Percentiles are exact. Locust rounds its histogram, which would be most of the figure at a few milliseconds a request.
"""

import contextlib
import json
import os
import platform
import shlex
import sys
from argparse import ArgumentParser
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from loadtest.load_loops import percentile

ALL = "all"
# From slow to fast. With VNNI or AMX, int8 products take one instruction instead of three.
INSTRUCTION_SETS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8")
ERRORS_SHOWN = 5  # per endpoint


@dataclass(frozen=True, kw_only=True)
class LoadSample:
    """One request of Locust."""

    at_s: float  # start, since the start of the load
    endpoint: str
    latency_ms: float
    status: int  # 0: no reply
    error: str  # "": a correct answer
    model: str = ""
    inputs: int = 1


@dataclass(frozen=True, kw_only=True)
class LoadFigures:
    """The figures of one endpoint or one model."""

    name: str
    requests: int
    per_s: float
    inputs_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    errors: Mapping[str, int]  # count by message


def add_option(parser: ArgumentParser, path: str, *, metavar: str = "FILE") -> None:
    """Add `--report`, which names the file or the folder (`DIR`) of the report."""
    what = "Folder" if metavar == "DIR" else "File"
    about = f"{what} of the report (default: %(default)s)."
    parser.add_argument("--report", type=Path, default=Path(path), metavar=metavar, help=about)


def read_samples(path: Path) -> list[LoadSample]:
    """Read the samples that users.py wrote, except an incomplete last line."""
    samples = []
    for line in path.read_text("utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            samples.append(LoadSample(**json.loads(line)))
    return samples


def summarize(samples: Sequence[LoadSample], *, by: str = "endpoint") -> list[LoadFigures]:
    """Return the figures of each endpoint or model by name, then those of all. No samples give no figures."""
    if not samples:
        return []
    begin_s = min(sample.at_s for sample in samples)
    seconds = max(sample.at_s + sample.latency_ms / 1000 for sample in samples) - begin_s
    groups: dict[str, list[LoadSample]] = defaultdict(list)
    for sample in samples:
        groups[getattr(sample, by)].append(sample)
    return [_figures(name, group, seconds) for name, group in [*sorted(groups.items()), (ALL, list(samples))]]


def _figures(name: str, samples: Sequence[LoadSample], seconds: float) -> LoadFigures:
    ordered = sorted(sample.latency_ms for sample in samples)
    return LoadFigures(
        name=name,
        requests=len(samples),
        per_s=round(len(samples) / max(seconds, 1e-3), 1),
        inputs_per_s=round(sum(sample.inputs for sample in samples) / max(seconds, 1e-3), 1),
        p50_ms=percentile(ordered, 50),
        p95_ms=percentile(ordered, 95),
        p99_ms=percentile(ordered, 99),
        max_ms=ordered[-1],
        errors=dict(Counter(sample.error for sample in samples if sample.error)),
    )


def failures(rows: Sequence[LoadFigures], *, p99_ms: float | None) -> list[str]:
    """Return why the load failed, one sentence each.

    `p99_ms` applies to each endpoint, because many fast answers would hide a slow route.
    """
    if not rows:
        return ["no request was made"]
    total = rows[-1]
    reasons = [f"{sum(total.errors.values())} of {total.requests} requests failed"] if total.errors else []
    if p99_ms is not None:
        reasons += [
            f"{row.name}: p99 is {row.p99_ms:.1f} ms, the limit is {p99_ms:g} ms"
            for row in rows[:-1]
            if row.p99_ms > p99_ms
        ]
    return reasons


def console() -> Console:
    """Return a console as wide as the terminal, or 110 columns for a log or pipe."""
    return Console(width=None if sys.stdout.isatty() else 110)


def new_table(title: str, texts: Sequence[str], numbers: Sequence[str]) -> Table:
    """Return an empty table with text columns, then right-aligned columns."""
    table = Table(title=title, title_justify="left")
    for column in texts:
        table.add_column(column)
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def load_table(rows: Sequence[LoadFigures], what: str, title: str) -> Table:
    columns = ("requests", "requests/s", "inputs/s", "p50 ms", "p95 ms", "p99 ms", "max ms", "errors")
    table = new_table(title, (what,), columns)
    for row in rows:
        if row.name == ALL:
            table.add_section()
        rates = (f"{value:,.1f}" for value in (row.per_s, row.inputs_per_s))
        latencies = (f"{value:.1f}" for value in (row.p50_ms, row.p95_ms, row.p99_ms, row.max_ms))
        table.add_row(row.name, f"{row.requests:,}", *rates, *latencies, str(sum(row.errors.values())))
    return table


def error_table(rows: Iterable[LoadFigures]) -> Table:
    """Return the most frequent errors of each endpoint. result.json has all of them."""
    table = new_table("errors", ("endpoint", "error"), ("count",))
    for row in rows:
        if row.name != ALL:
            for error, count in Counter(row.errors).most_common(ERRORS_SHOWN):
                table.add_row(row.name, error, str(count))
    return table


def cpu_use(cores: float | None) -> str:
    """Return the use of CPU as a share of one core."""
    return "unknown" if cores is None else f"{100 * cores:.0f} %"


def environment_report() -> dict[str, object]:
    """Return the command, the date and the machine, which every report contains."""
    return {
        "command": "python -m loadtest " + shlex.join(sys.argv[1:]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
            "instruction_sets": instruction_sets(_cpuinfo("flags")),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
        },
    }


def instruction_sets(flags: str) -> list[str]:
    """Return those of the flags of a processor that decide how fast matrix products are."""
    return [name for name in INSTRUCTION_SETS if name in flags.split()]


def _cpuinfo(field: str) -> str:
    """Return a field of the first processor in /proc/cpuinfo, or "" where there is none."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == field:
                return value.strip()
    return ""


def write_json(path: Path, content: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
