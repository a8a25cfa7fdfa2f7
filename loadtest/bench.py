"""Compare seqserve with other servers of the same bundles, or with another checkout.

Each server runs on one core and the client on another. docs/explanation/benchmarks.md explains the phases.
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

from loadtest import bench_against, bench_report, bench_servers, payloads, report
from loadtest.bench_phases import BenchPlan, BenchStage, measure_generation, measure_requests
from loadtest.bench_report import COMPARED_AT
from loadtest.bench_servers import BatchSetting, BenchContext, BenchServer, run_server
from loadtest.load_loops import raise_file_limit
from loadtest.payloads import ServedModel

POOL_SIZE = 2000  # different texts
QUICK = BenchPlan(
    seconds=1.0, sweep_seconds=1.0, rounds=1, connections=(1, COMPARED_AT), shares=(0.6,), points=1, pairs=2
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    plan = BenchPlan()
    add = parser.add_argument
    add("--only", metavar="NAME,…", help=f"Measure only these servers: {bench_servers.known_names()}.")
    add(
        "--task",
        choices=("tag", "generate", "translate", "all"),
        default="all",
        help="Task to measure (default: %(default)s, tag and generate).",
    )
    add("--seconds", type=float, help=f"Duration of one measurement (default: {plan.seconds:g}; with --against: 1).")
    add("--rounds", type=int, default=plan.rounds, help="Repetitions of the closed loops (default: %(default)s).")
    add(
        "--quick",
        action="store_true",
        help="Check in a few minutes that everything works. The figures are not reliable.",
    )
    add("--constant-headers", action="store_true", help="Send the same headers each time, without x-request-id.")
    add(
        "--at-least",
        type=float,
        metavar="RATIO",
        help="Fail below RATIO times the requests/s of the best peer, both with fp32.",
    )
    add(
        "--p99-share",
        type=float,
        default=0.5,
        help="With --at-least, fail above this share of the peer's p99 (default: %(default)s).",
    )
    add(
        "--peers",
        default=".venv-peers/bin/python",
        metavar="PYTHON",
        help="Interpreter of the peers (default: %(default)s).",
    )
    add("--zoo", type=Path, default=Path("models/zoo"), help="Folder of the bundles (default: %(default)s).")
    add(
        "--checkpoint",
        type=Path,
        default=Path("runs/shakespeare/best.pt"),
        help="Weights of the PyTorch loop (default: %(default)s).",
    )
    add("--seed", type=int, default=plan.seed, help="Seed of texts and arrival times (default: %(default)s).")
    report.add_option(parser, "build/bench.json")
    against = parser.add_argument_group("comparison with another checkout")
    against.add_argument(
        "--against",
        type=Path,
        metavar="DIR",
        help="Compare this tree with the checkout DIR, which has its own .venv, in alternating runs."
        " --only then selects scenarios by the start of their names.",
    )
    against.add_argument("--pairs", type=int, default=15, help="Runs of each scenario (default: %(default)s).")
    against.add_argument("--variant", default="int8", help="Variant to serve (default: %(default)s).")


def run(arguments: argparse.Namespace) -> int:
    """Return 0 if this service answered everything and met --at-least, else 1."""
    console = report.console()
    if arguments.against is not None:
        found = bench_against.compare_checkouts(arguments, claim_cores(), console)
        return bench_against.conclude(found, arguments, console)
    if arguments.quick and arguments.at_least is not None:
        raise ValueError("--at-least needs the best setting of each peer, but --quick tries one. Remove --quick.")
    servers = bench_servers.select(arguments.only, arguments.task)
    if not all(server.ours for server in servers) and shutil.which(arguments.peers) is None:
        raise LookupError(f"{arguments.peers} does not exist. Run `make bench`, pass --peers, or use --only seqserve.")
    server_core, client_core = claim_cores()
    plan = QUICK if arguments.quick else BenchPlan(rounds=arguments.rounds)
    plan = replace(plan, seed=arguments.seed, seconds=arguments.seconds or plan.seconds)
    plan = replace(plan, sweep_seconds=min(plan.sweep_seconds, plan.seconds))
    result: dict[str, Any] = {
        **report.environment_report(),
        "server_core": server_core,
        "client_core": client_core,
        "seconds": plan.seconds,
        "rounds": plan.rounds,
        "quick": arguments.quick,
        "constant_headers": arguments.constant_headers,
        "compared_at": COMPARED_AT,
    }
    with console.status("starting") as status:

        def say(line: str) -> None:
            console.print(line, markup=False, highlight=False)
            status.update(line)

        def save() -> None:
            report.write_json(arguments.report, result)

        context = BenchContext(
            texts=["A text ."],
            model="",
            zoo=arguments.zoo,
            folder=arguments.report.parent,
            interpreters={"ours": sys.executable, "peers": arguments.peers},
            server_core=server_core,
            constant_headers=arguments.constant_headers,
            versions=package_versions(sys.executable) | package_versions(arguments.peers),
        )
        _measure(BenchStage(plan=plan, context=context, result=result, say=say, save=save), servers, arguments)
    return _conclude(arguments, result, console)


def _measure(stage: BenchStage, servers: Sequence[BenchServer], arguments: argparse.Namespace) -> None:
    """Run the selected tasks, each with its default model."""
    task = "translate" if arguments.task == "translate" else "tag"
    ours = bench_servers.OUR_TRANSLATORS if task == "translate" else bench_servers.OUR_SERVERS
    models = _default_models(ours[0], stage.context)
    if task not in models:
        raise LookupError(f"{arguments.zoo} has no bundle for the task {task!r}; pass another --zoo")
    if arguments.task != "generate":
        texts = payloads.sample_inputs(models[task], count=POOL_SIZE, seed=arguments.seed)
        context = replace(stage.context, texts=texts, model=models[task].id)
        measure_requests(replace(stage, context=context), servers, ours)
    if arguments.task in ("generate", "all"):
        context = replace(stage.context, model=models["generate"].id)
        ours_only = all(server.ours for server in servers)
        measure_generation(replace(stage, context=context), arguments.checkpoint, ours_only=ours_only)


def claim_cores() -> tuple[int, int]:
    """Return the cores of the server and the client: the first and the last that this process may use.

    The client, which is this process, moves to its core.
    """
    usable = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {usable[-1]})
    raise_file_limit()
    return usable[0], usable[-1]


def _default_models(server: BenchServer, context: BenchContext) -> Mapping[str, ServedModel]:
    zoo = {"SEQSERVE_BUNDLES": os.path.abspath(context.zoo)}
    with run_server(replace(server, environment=zoo), BatchSetting(), context) as up:
        return payloads.default_models(payloads.read_models(up.process.address.url))


def package_versions(python: str) -> dict[str, str]:
    """Return the packages of an interpreter's environment, or {} if it does not run."""
    program = "import json, importlib.metadata as m; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    with contextlib.suppress(OSError, ValueError):
        done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
        found: dict[str, str] = json.loads(done.stdout)
        return found
    return {}


def _conclude(arguments: argparse.Namespace, result: dict[str, Any], console: Console) -> int:
    limits = {"at_least": arguments.at_least, "p99_share": arguments.p99_share}
    reasons = result["failed"] = bench_report.failures(result, **limits)
    result["warnings"] = bench_report.warnings(result)
    report.write_json(arguments.report, result)
    if "servers" in result:
        bench_report.draw_bench(result, arguments.report.with_suffix(".png"))
        console.print(bench_report.closed_table(result))
        console.print(bench_report.open_table(result))
    if "generate" in result:
        console.print(bench_report.generation_table(result))
    for line in result["warnings"]:
        console.print(line, style="yellow", markup=False, highlight=False)
    for line in reasons:
        console.print(f"FAILED: {line}", style="red", markup=False, highlight=False)
    console.print(f"the report is {arguments.report}", markup=False, highlight=False)
    return 1 if reasons else 0
