"""`python -m loadtest run`: one scenario of users.py for a while, then the table, the files and the verdict.

Locust runs headless in a process of its own and streams its samples to a file that is read here.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from loadtest import payloads, plot, report
from loadtest.payloads import Card
from loadtest.report import Row, Sample
from loadtest.server import ServerError, serving, tail
from loadtest.wire import Address

USERS = {"tag": "Tagging", "classify": "Classifying", "generate": "Generating", "mixed": "Mixed"}
ROOT = Path(__file__).resolve().parent.parent
POLL_S = 0.25
# What is in flight when the time is up may still be answered, and counts; then Locust has to write its report.
STOP_TIMEOUT_S, GRACE_S = 30, 60
BROKEN = 2  # exit code for a load that could not be made, as opposed to one that failed


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default="http://127.0.0.1:3000", help="the service (default: %(default)s)")
    parser.add_argument("--serve", metavar="COMMAND", help="start the service with this first, stop it afterwards")
    parser.add_argument("--scenario", choices=USERS, default="mixed")
    parser.add_argument("--users", type=int, default=32, help="connections, each with one request at a time")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--p99-ms", type=float, help="fail if an endpoint's p99 is over this")
    parser.add_argument("--prefix", default="/v1", help="/v1 for the lean path, '' for the BentoML routes")
    parser.add_argument("--seed", type=int, default=0, help="of the requests' contents")
    parser.add_argument("--report", type=Path, default=Path("build/load"), metavar="DIR")


def command(arguments: argparse.Namespace) -> int:
    """Run the scenario; 0 if every answer was right and fast enough, 1 if not, 2 if there was no load."""
    console = report.console()
    address = Address.parse(arguments.url)
    arguments.report.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if arguments.serve:
            console.print(f"starting the service: {arguments.serve}", markup=False)
            stack.enter_context(serving(arguments.serve, address, log=arguments.report / "server.log"))
        cards = payloads.read_cards(address.url)
        samples = _run_locust(arguments, console)
    return _conclude(arguments, console, cards, samples)


def _run_locust(arguments: argparse.Namespace, console: Console) -> list[Sample]:
    """The samples of one headless Locust; ServerError with the tail of its log when it breaks."""
    samples, log = arguments.report / "samples.jsonl", arguments.report / "locust.log"
    samples.unlink(missing_ok=True)
    with log.open("wb") as output:
        locust = subprocess.Popen(
            _locust_command(arguments, samples),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.getenv("PYTHONPATH")])])},
        )
        try:
            _show_progress(locust, samples, arguments, console)
        finally:
            if locust.poll() is None:
                locust.kill()
            locust.wait()
    if locust.returncode != 0:
        raise ServerError(f"Locust ended with {locust.returncode}:\n{tail(log)}")
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
        "--exit-code-on-error": 0,  # errors are judged here; what is left means that Locust itself broke
        "--loglevel": "WARNING",
        "--prefix": arguments.prefix,
        "--payload-seed": arguments.seed,
        "--samples": samples,
    }
    words = [f"{option}={value}" for option, value in options.items()]
    return [sys.executable, "-m", "locust", "--headless", "--only-summary", *words, USERS[arguments.scenario]]


def _show_progress(
    locust: "subprocess.Popen[bytes]", samples: Path, arguments: argparse.Namespace, console: Console
) -> None:
    """Follow the file of samples until Locust ends; ServerError if it does not."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    started_s, requests, errors = time.monotonic(), 0, 0
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress(*columns, console=console, transient=True))
        shown = progress.add_task("starting Locust", total=arguments.seconds)
        while locust.poll() is None and not samples.exists():
            time.sleep(POLL_S)
        follow = stack.enter_context(samples.open("r", encoding="utf-8")) if samples.exists() else None
        while locust.poll() is None:
            elapsed_s = time.monotonic() - started_s
            if elapsed_s > arguments.seconds + STOP_TIMEOUT_S + GRACE_S:
                raise ServerError(f"Locust did not end {STOP_TIMEOUT_S + GRACE_S} s after its time was up")
            for line in follow or ():
                requests += line.endswith("\n")
                errors += line.endswith('"]\n') and not line.endswith('""]\n')
            text = f"{requests:,} requests, {errors:,} errors"
            progress.update(shown, completed=min(elapsed_s, arguments.seconds), description=text)
            time.sleep(POLL_S)


def _conclude(arguments: argparse.Namespace, console: Console, cards: tuple[Card, ...], samples: list[Sample]) -> int:
    rows = report.summarise(samples)
    reasons = report.verdict(rows, p99_ms=arguments.p99_ms)
    title = f"{arguments.scenario}, {arguments.users} users, {arguments.seconds} s"
    report.write_json(arguments.report / "result.json", _result(arguments, cards, rows, reasons))
    if samples:
        plot.draw_latency(samples, arguments.report / "latency.png", title=title)
        console.print(report.table(rows, title))
    if rows and rows[-1].errors:
        console.print(report.error_table(rows))
    for reason in reasons:
        console.print(f"FAILED: {reason}", style="red", markup=False, highlight=False)
    console.print(f"report.html, result.json and latency.png are in {arguments.report}", markup=False)
    return 1 if reasons else 0


def _result(
    arguments: argparse.Namespace, cards: tuple[Card, ...], rows: list[Row], reasons: list[str]
) -> dict[str, object]:
    return {
        **report.circumstances(),
        "url": arguments.url,
        "scenario": arguments.scenario,
        "prefix": arguments.prefix,
        "users": arguments.users,
        "seconds": arguments.seconds,
        "p99_ms_allowed": arguments.p99_ms,
        "models": [{"id": card.id, "task": card.task, "variant": card.variant} for card in cards],
        "endpoints": report.as_json(rows),
        "failed": reasons,
    }
