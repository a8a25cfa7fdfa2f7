"""`python -m loadtest bench`: seqserve against other servers of the same bundles, each on one core, in one run.

For each server: does it answer as ours does, and which setting of its batching is its best? Then closed loops over
rounds, one server running at a time, then ours and the best peer side by side in turns, then open loops at rates that
are the same for all, then generation. The file is written after each server: what breaks one peer loses nothing of the
others.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from loadtest import bench_against, bench_plot, bench_report, catalogue, payloads, report
from loadtest.bench_generate import measure_generation
from loadtest.bench_phases import Plan, Stage, measure_tagging
from loadtest.bench_report import COMPARED_AT
from loadtest.bench_server import Ground, running
from loadtest.catalogue import Entry, Setting
from loadtest.load_loops import raise_file_limit as allow_connections
from loadtest.payloads import Card

POOL_SIZE = 2000  # texts
QUICK = Plan(seconds=1.0, sweep_seconds=1.0, rounds=1, connections=(1, COMPARED_AT), shares=(0.6,), points=1, pairs=2)


def configure(parser: argparse.ArgumentParser) -> None:
    plan = Plan()
    parser.add_argument("--only", metavar="NAME,NAME", help=f"these of {catalogue.known()}")
    parser.add_argument("--task", choices=("tag", "generate", "all"), default="all")
    parser.add_argument("--seconds", type=float, help="of one measurement (5; with --against: 1)")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="DIR",
        help="Compare this tree with the checkout DIR, which has its own .venv, in alternating runs. With --only,"
        " run the scenarios whose names start with these words.",
    )
    parser.add_argument("--pairs", type=int, default=15, help="With --against, run each scenario this many times.")
    parser.add_argument("--variant", default="int8", help="With --against, serve this variant (default: %(default)s).")
    parser.add_argument("--rounds", type=int, default=plan.rounds)
    parser.add_argument("--quick", action="store_true", help="a minute a server at most: does it all work?")
    parser.add_argument(
        "--at-least", type=float, help="fail if fp32 has less than this many times the best peer's speed"
    )
    parser.add_argument("--p99-share", type=float, default=0.5, help="with --at-least: of the peer's p99, at most")
    parser.add_argument("--peers", default=".venv-peers/bin/python", metavar="PYTHON", help="of their environment")
    parser.add_argument(
        "--zoo", type=Path, default=Path("models/zoo"), help="where the bundles are that everybody serves"
    )
    parser.add_argument("--checkpoint", type=Path, default=Path("runs/shakespeare/best.pt"), help="for PyTorch's loop")
    parser.add_argument("--seed", type=int, default=plan.seed, help="of texts and arrivals")
    parser.add_argument("--report", type=Path, default=Path("build/bench.json"), metavar="FILE")


def command(arguments: argparse.Namespace) -> int:
    """0 if ours has answered everything (and, with --at-least, was fast enough), else 1."""
    if arguments.quick and arguments.at_least is not None:
        raise ValueError("--quick tries one setting of each peer: --at-least would compare with less than its best")
    server_core, client_core = cores()
    if arguments.against is not None:
        os.sched_setaffinity(0, {client_core})
        allow_connections()
        arguments.seconds = arguments.seconds or 1.0
        console = report.console()
        found = bench_against.compare_checkouts(arguments, (server_core, client_core), console)
        return bench_against.conclude(found, arguments, console)
    entries = catalogue.select(arguments.only)
    arguments.seconds = arguments.seconds or Plan().seconds
    if shutil.which(arguments.peers) is None:
        raise LookupError(f"{arguments.peers} is not there: `make bench` makes it, or give another --peers PYTHON")
    os.sched_setaffinity(0, {client_core})
    allow_connections()
    plan = QUICK if arguments.quick else Plan(seconds=arguments.seconds, rounds=arguments.rounds)
    plan = replace(plan, seed=arguments.seed, sweep_seconds=min(plan.sweep_seconds, plan.seconds))
    ground = _ground(arguments, server_core)
    result: dict[str, Any] = {
        **report.circumstances(),
        "server_core": server_core,
        "client_core": client_core,
        "seconds": plan.seconds,
        "rounds": plan.rounds,
        "quick": arguments.quick,  # one setting a peer: no comparison with its best
        "compared_at": COMPARED_AT,
    }
    console = report.console()
    with _progress(console) as progress:
        shown = progress.add_task("starting", total=None)

        def say(line: str) -> None:
            console.print(line, markup=False, highlight=False)
            progress.update(shown, description=line)

        def save() -> None:
            report.write_json(arguments.report, result)

        stage = Stage(plan=plan, ground=ground, result=result, say=say, save=save)
        _measure(stage, entries, arguments)
    return conclude(arguments, result, console)


def _ground(arguments: argparse.Namespace, server_core: int) -> Ground:
    """What all measurements have in common, until the model and its texts are known."""
    return Ground(
        texts=["A text ."],
        model="",
        zoo=arguments.zoo,
        folder=arguments.report.parent,
        places={"ours": sys.executable, "peers": arguments.peers},
        server_core=server_core,
        versions=versions(sys.executable) | versions(arguments.peers),
    )


def _measure(stage: Stage, entries: Sequence[Entry], arguments: argparse.Namespace) -> None:
    """The parts that were asked for, each with the first model of its task."""
    cards = read_cards(stage.ground)
    if arguments.task != "generate":
        texts = payloads.build_single(cards["tag"], count=POOL_SIZE, seed=arguments.seed)
        ground = replace(stage.ground, texts=[payload.inputs for payload in texts], model=cards["tag"].id)
        measure_tagging(replace(stage, ground=ground), entries)
    if arguments.task != "tag":
        ground = replace(stage.ground, model=cards["generate"].id)
        measure_generation(replace(stage, ground=ground), arguments.checkpoint)


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True
    )


def cores() -> tuple[int, int]:
    """(server's, client's): the first and the last core that this process may use; one core has to serve both."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


def read_cards(ground: Ground) -> Mapping[str, Card]:
    """What answers a request of each task that names no model, of those that ours serves."""
    with running(replace(catalogue.OURS_FIRST[0], environment={}), Setting(), ground) as up:
        return payloads.by_task(payloads.read_cards(up.address.url))


def versions(python: str) -> dict[str, str]:
    """The packages of an environment, for the file; an interpreter that says nothing has none."""
    program = "import json, importlib.metadata as m; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    with contextlib.suppress(OSError, ValueError):
        done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
        found: dict[str, str] = json.loads(done.stdout)
        return found
    return {}


def conclude(arguments: argparse.Namespace, result: dict[str, Any], console: Console) -> int:
    """Verdict, file, picture, tables."""
    reasons = result["failed"] = bench_report.verdict(
        result, at_least=arguments.at_least, p99_share=arguments.p99_share
    )
    result["warnings"] = bench_report.warnings(result)
    report.write_json(arguments.report, result)
    if "servers" in result:
        bench_plot.draw_bench(result, arguments.report.with_suffix(".png"))
        console.print(bench_report.closed_table(result))
        console.print(bench_report.open_table(result))
    if "generate" in result:
        console.print(bench_report.generate_table(result))
    for line in result["warnings"]:
        console.print(line, style="yellow", markup=False, highlight=False)
    for line in reasons:
        console.print(f"FAILED: {line}", style="red", markup=False, highlight=False)
    console.print(f"all of it is in {arguments.report}, the picture beside it", markup=False, highlight=False)
    return 1 if reasons else 0
