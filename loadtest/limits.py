"""`python -m loadtest limits`: how far this service goes, each limit beside what it is to be measured against.

Large requests against the same session in the same process; padding against first-come batches; generation against
the bare step loop; the first token while others write; twice the load that it can bear; two workers against one.
Peers are bench.py's affair. Server on the first core and client on the last, but for the workers.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from loadtest import report
from loadtest.bench import cores
from loadtest.limits_parts import PARTS
from loadtest.limits_stand import Stand
from loadtest.open_loop import allow_connections


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", metavar="PART,PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--seconds", type=float, default=8.0, help="of one measurement")
    parser.add_argument("--overload-seconds", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=3, help="of each measurement that is compared; medians are told")
    parser.add_argument("--zoo", type=Path, default=Path("models/zoo"), help="where the bundles are")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, default=Path("build/limits.json"), metavar="FILE")


def command(arguments: argparse.Namespace) -> int:
    """0 if every target was met, else 1."""
    names = arguments.only.split(",") if arguments.only else list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        raise LookupError(f"there is no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    server_core, client_core = cores()
    os.sched_setaffinity(0, {client_core})
    allow_connections()
    stand = Stand(
        server_core=server_core,
        python=sys.executable,
        zoo=arguments.zoo,
        folder=arguments.report.parent,
        seconds=arguments.seconds,
        overload_seconds=arguments.overload_seconds,
        rounds=arguments.rounds,
        seed=arguments.seed,
    )
    console = report.console()
    result: dict[str, Any] = {
        **report.circumstances(),
        "server_core": server_core,
        "client_core": client_core,
        "seconds": arguments.seconds,
        "rounds": arguments.rounds,
        "parts": {},
    }
    for name in names:
        with console.status(name):
            figures = result["parts"][name] = PARTS[name](stand)
        report.write_json(arguments.report, result)
        for line in lines(name, figures):
            console.print(line, markup=False, highlight=False)
    console.print(table(result["parts"]))
    return 0 if all(check["met"] for part in result["parts"].values() for check in part["checks"]) else 1


def lines(name: str, figures: Mapping[str, Any]) -> list[str]:
    """What a part found, a line a check."""
    return [f"{name}: {check['what']}: {check['is']:.4g} ({check['wanted']})" for check in figures["checks"]]


def table(parts: Mapping[str, Mapping[str, Any]]) -> Table:
    """All checks."""
    drawn = Table(title="limits", title_justify="left")
    for column, justify in (("part", "left"), ("what", "left"), ("is", "right"), ("wanted", "right"), ("", "left")):
        drawn.add_column(column, justify=justify)  # type: ignore[arg-type]
    for name, figures in parts.items():
        checks: Sequence[Mapping[str, Any]] = figures["checks"]
        for check in checks:
            drawn.add_row(name, check["what"], f"{check['is']:.4g}", check["wanted"], "" if check["met"] else "missed")
    return drawn
