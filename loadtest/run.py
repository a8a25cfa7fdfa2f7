"""Run a Locust scenario and check every answer.

Locust runs headless in a process of its own, because it patches the interpreter with gevent.
"""

import argparse
import contextlib
import os
import resource
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from loadtest import payloads, report
from loadtest.http_client import ServiceAddress
from loadtest.report import LoadSample
from loadtest.service_process import ROOT, ServiceStartError, find_service, start_service, tail

MIXED = "mixed"  # all tasks that are served
POLL_S = 0.25
# Requests in flight at the end may still be answered. Then Locust writes its report.
STOP_TIMEOUT_S, REPORT_TIMEOUT_S = 30, 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:3000", help="Address of the service (default: %(default)s).")
    add("--serve", metavar="COMMAND", help="Start the service with this command and stop it at the end.")
    add("--scenario", choices=(*payloads.TASKS, MIXED), default=MIXED, help="Tasks to request (default: %(default)s).")
    add("--users", type=int, default=32, help="Connections, each with one request at a time (default: %(default)s).")
    add("--seconds", type=int, default=60, help="Duration of the load (default: %(default)s).")
    add("--p99-ms", type=float, help="Fail if the p99 latency of an endpoint is higher than this.")
    add("--prefix", default="/v1", help="Path before the task, '' for the BentoML routes (default: %(default)s).")
    add("--seed", type=int, default=0, help="Seed of the request contents (default: %(default)s).")
    report.add_option(parser, "build/load", metavar="DIR")


def run(arguments: argparse.Namespace) -> int:
    """Return 0 if every answer was correct and fast enough, else 1."""
    console = report.console()
    address = ServiceAddress.parse(arguments.url)
    arguments.report.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        service = None
        if arguments.serve:
            console.print(f"starting the service: {arguments.serve}", markup=False)
            service = stack.enter_context(start_service(arguments.serve, address, log=arguments.report / "server.log"))
        models = payloads.read_models(address.url)
        service = service or find_service(address)
        before_s, service_s, client_s = time.perf_counter(), service.cpu_s() if service else 0.0, _children_s()
        samples = _run_locust(arguments, console)
        wall_s = time.perf_counter() - before_s
        cores = {
            "service": (service.cpu_s() - service_s) / wall_s if service else None,
            "client": (_children_s() - client_s) / wall_s,
        }
    rows, bundles = report.summarize(samples), report.summarize(samples, by="model")[:-1]
    reasons = report.failures(rows, p99_ms=arguments.p99_ms)
    result: dict[str, Any] = {
        **report.environment_report(),
        **{name: getattr(arguments, name) for name in ("url", "scenario", "prefix", "users", "seconds")},
        "p99_ms_allowed": arguments.p99_ms,
        "models": [{"id": model.id, "task": model.task, "variant": model.variant} for model in models],
        "endpoints": [asdict(row) for row in rows],
        "bundles": [asdict(row) for row in bundles],
        "cpu_cores": cores,
        "failed": reasons,
    }
    report.write_json(arguments.report / "result.json", result)
    if samples:
        title = f"{arguments.scenario}, {arguments.users} users, {arguments.seconds} s"
        variants = {model.id: model.variant for model in models}
        named = [replace(row, name=f"{row.name} {variants.get(row.name, '')}".rstrip()) for row in bundles]
        console.print(report.load_table(rows, "route", title))
        console.print(report.load_table(named, "bundle", "the same requests by bundle"))
    used = " ".join(f"{name} {report.cpu_use(found)}," for name, found in cores.items())
    console.print(f"CPU use of one core: {used.rstrip(',')}", markup=False, highlight=False)
    if rows and rows[-1].errors:
        console.print(report.error_table(rows))
    for reason in reasons:
        console.print(f"FAILED: {reason}", style="red", markup=False, highlight=False)
    console.print(f"report.html and result.json are in {arguments.report}", markup=False)
    return 1 if reasons else 0


def _children_s() -> float:
    """Return the CPU seconds of the child processes that have ended, such as Locust."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run_locust(arguments: argparse.Namespace, console: Console) -> list[LoadSample]:
    """Run Locust and return its samples. Raises ServiceStartError with the tail of its log if it fails."""
    samples, log = arguments.report / "samples.jsonl", arguments.report / "locust.log"
    samples.unlink(missing_ok=True)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.getenv("PYTHONPATH")])])
    with log.open("wb") as output:
        locust = subprocess.Popen(
            _locust_command(arguments, samples),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path},
        )
        try:
            _wait_for(locust, arguments.seconds, console)
        finally:
            if locust.poll() is None:
                locust.kill()
            locust.wait()
    if locust.returncode != 0:
        raise ServiceStartError(f"Locust ended with {locust.returncode}:\n{tail(log)}")
    return report.read_samples(samples)


def _locust_command(arguments: argparse.Namespace, samples: Path) -> list[str]:
    options = {
        "--locustfile": Path(__file__).with_name("users.py"),
        "--host": arguments.url.rstrip("/"),
        "--users": arguments.users,
        "--spawn-rate": arguments.users,
        "--run-time": f"{arguments.seconds}s",
        "--stop-timeout": STOP_TIMEOUT_S,
        "--html": arguments.report / "report.html",
        "--exit-code-on-error": 0,  # failed requests are judged here; any other code means that Locust broke
        "--loglevel": "WARNING",
        "--prefix": arguments.prefix,
        "--tasks": "" if arguments.scenario == MIXED else arguments.scenario,
        "--payload-seed": arguments.seed,
        "--samples": samples,
    }
    words = [f"{option}={value}" for option, value in options.items()]
    return [sys.executable, "-m", "locust", "--headless", "--only-summary", *words]


def _wait_for(locust: "subprocess.Popen[bytes]", seconds: int, console: Console) -> None:
    """Show progress until Locust ends. Raises ServiceStartError if it does not."""
    started_s = time.monotonic()
    with Progress(
        TextColumn("Locust"), BarColumn(), TimeRemainingColumn(), console=console, transient=True
    ) as progress:
        shown = progress.add_task("load", total=seconds)
        while locust.poll() is None:
            elapsed_s = time.monotonic() - started_s
            if elapsed_s > seconds + STOP_TIMEOUT_S + REPORT_TIMEOUT_S:
                raise ServiceStartError(f"Locust still ran {STOP_TIMEOUT_S + REPORT_TIMEOUT_S} s after its end")
            progress.update(shown, completed=min(elapsed_s, seconds))
            time.sleep(POLL_S)
