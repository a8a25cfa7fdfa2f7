"""Compare two checkouts of seqserve in alternating runs on the same core.

On a shared machine a server may gain or lose a third of its speed within a minute. Runs of about a second, in turns,
see the same machine, so the ratio of neighbors is stable where absolute figures are not.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from loadtest import payloads, report
from loadtest.bench_report import alternate, ratio_quartiles
from loadtest.http_client import ServiceAddress, encode_requests
from loadtest.load_loops import closed_loop, open_loop, percentiles, run_loop, send_all
from loadtest.service_process import ServiceProcess, start_seqserve

BUNDLES = ("pos-en", "shakespeare")
CONNECTIONS = (1, 32, 128)
HEADERS = ("constant", "changing")  # without and with an x-request-id that changes with every request
POOL_SIZE = 2000  # different requests
STREAMS, NEW_TOKENS = 64, 200
OVERLOAD, OVERLOAD_CONNECTIONS = 2.0, 1024
WARMUP_S = 0.3  # of each run
SEND_TIMEOUT_S = 120.0
FIGURES = ("per_s", "p99_ms", "cpu_us")
SIDES = ("new", "old")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RunFigures:
    """One run of one scenario. `per_s` counts requests, tokens, or the 200s of an open loop; `cpu_us` is for each."""

    per_s: float
    p99_ms: float
    cpu_us: float
    failed: int


@dataclass(frozen=True, kw_only=True)
class Checkout:
    """A running service of one checkout, with prepared requests by name."""

    side: str
    process: ServiceProcess
    requests: Mapping[str, Sequence[bytes]]

    @property
    def address(self) -> ServiceAddress:
        return self.process.address

    def run(self, load: Coroutine[Any, Any, T]) -> tuple[T, float]:
        """Return the result of a load, and the CPU seconds that the service used."""
        before_s = self.process.cpu_s()
        found = run_loop(load)
        return found, self.process.cpu_s() - before_s


Scenario = Callable[[Checkout, int], RunFigures]  # gets the number of the pair


def compare_checkouts(arguments: argparse.Namespace, cores: tuple[int, int], console: Console) -> dict[str, Any]:
    """Measure all scenarios on this tree and on the checkout `--against`, and return the report."""
    server_core, client_core = cores
    trees = {"new": Path.cwd(), "old": arguments.against.resolve()}
    result: dict[str, Any] = {
        **report.environment_report(),
        "against": str(trees["old"]),
        "server_core": server_core,
        "client_core": client_core,
        "scenarios": {},
    }
    seconds = arguments.seconds or 1.0
    with ExitStack() as stack:
        pair = [stack.enter_context(_serve(side, trees[side], arguments, server_core)) for side in SIDES]
        for name, prepare in scenarios(pair[1], seconds).items():
            if arguments.only and not any(name.startswith(only.strip()) for only in arguments.only.split(",")):
                continue
            scenario = prepare()
            pairs = alternate(scenario, pair[0], pair[1], arguments.pairs + 1)[1:]  # the first one warms up
            result["scenarios"][name] = found = summarize(pairs)
            per_s, p99_ms, cpu_us = (_ratio(found["ratios"][figure]) for figure in FIGURES)
            console.print(f"{name}: rate {per_s}, p99 {p99_ms}, CPU {cpu_us}", markup=False, highlight=False)
            report.write_json(arguments.report, result)
    return result


def scenarios(old: Checkout, seconds: float) -> dict[str, Callable[[], Scenario]]:
    """Return how to prepare each scenario by name. The old checkout determines the amount of work and the rates."""

    def generate(kind: str) -> Scenario:
        return partial(_generate, kind=kind, texts=_texts_per_run(old, kind, seconds))

    def overload(kind: str) -> Scenario:
        closed = [_tag(old, 0, kind=kind, connections=count, seconds=2 * seconds) for count in (32, 64, 128)]
        rate_per_s = OVERLOAD * max(run.per_s for run in closed)
        return partial(_overload, kind=kind, rate_per_s=rate_per_s, seconds=2 * seconds)

    found: dict[str, Callable[[], Scenario]] = {}
    for kind in HEADERS:
        for count in CONNECTIONS:
            tag = partial(_tag, kind=kind, connections=count, seconds=seconds)
            found[f"tag-{count}-{kind}"] = partial(partial, tag)
    found |= {f"{kind}-{STREAMS}": partial(generate, kind) for kind in ("generate", "generate_stream")}
    return found | {f"overload-{kind}": partial(overload, kind) for kind in HEADERS}


def summarize(pairs: Sequence[tuple[RunFigures, RunFigures]]) -> dict[str, Any]:
    """Return quartiles of new/old for each figure, the medians of each side, failures, and all (new, old) pairs."""
    rows = [(asdict(new), asdict(old)) for new, old in pairs]
    return {
        "ratios": ratio_quartiles(rows, FIGURES),
        "medians": {
            side: {figure: statistics.median(row[number][figure] for row in rows) for figure in FIGURES}
            for number, side in enumerate(SIDES)
        },
        "failed": {side: sum(row[number]["failed"] for row in rows) for number, side in enumerate(SIDES)},
        "pairs": rows,
    }


@contextmanager
def _serve(side: str, tree: Path, arguments: argparse.Namespace, core: int) -> Iterator[Checkout]:
    if not (tree / ".venv/bin/python").exists():
        raise LookupError(f"{tree} has no .venv/bin/python. Run `make setup` there.")
    bundles = ",".join(str((arguments.zoo / name).resolve()) for name in BUNDLES)
    folder, settings = arguments.report.parent, {"bundles": bundles, "variant": arguments.variant}
    with start_seqserve(folder, f"against-{side}", settings, tree=tree, core=core) as service:
        address = service.address
        model = payloads.default_models(payloads.read_models(address.url))["tag"]
        tagging = [{"inputs": text} for text in payloads.sample_inputs(model, count=POOL_SIZE, seed=arguments.seed)]
        writing = payloads.generate_bodies(POOL_SIZE, NEW_TOKENS)
        requests = {
            "constant": encode_requests(address, "/v1/tag", tagging, constant_headers=True),
            "changing": encode_requests(address, "/v1/tag", tagging),
            "generate": encode_requests(address, "/v1/generate", writing),
            "generate_stream": encode_requests(address, "/v1/generate_stream", writing),
        }
        yield Checkout(side=side, process=service, requests=requests)


def _tag(checkout: Checkout, _: int, *, kind: str, connections: int, seconds: float) -> RunFigures:
    requests = checkout.requests[kind]
    load = closed_loop(checkout.address, requests, connections=connections, seconds=seconds, warmup_s=WARMUP_S)
    found, cpu_s = checkout.run(load)
    if not found.latencies_ms:
        raise ConnectionError(f"the {checkout.side} checkout answered nothing: {dict(found.statuses)}")
    cpu_us = cpu_s * 1e6 / found.replies
    return RunFigures(per_s=found.per_s, p99_ms=found.percentile_ms(99), cpu_us=cpu_us, failed=found.failed)


def _generate(checkout: Checkout, _: int, *, kind: str, texts: int) -> RunFigures:
    requests = checkout.requests[kind][:texts]
    load = send_all(checkout.address, requests, connections=STREAMS, timeout_s=SEND_TIMEOUT_S)
    found, cpu_s = checkout.run(load)
    if not found.latencies_ms:
        raise ConnectionError(f"the {checkout.side} checkout answered nothing: {dict(found.statuses)}")
    if kind == "generate_stream" and found.events < texts * NEW_TOKENS and not found.failed:
        raise ConnectionError(f"the {checkout.side} checkout sent {found.events} events for {texts} texts")
    written = (texts - found.failed) * NEW_TOKENS
    cpu_us = cpu_s * 1e6 / max(1, written)
    return RunFigures(per_s=written / found.seconds, p99_ms=found.percentile_ms(99), cpu_us=cpu_us, failed=found.failed)


def _texts_per_run(checkout: Checkout, kind: str, seconds: float) -> int:
    """Return how many texts the checkout writes in about `seconds`: a multiple of STREAMS."""
    _generate(checkout, 0, kind=kind, texts=STREAMS)
    tokens = seconds * _generate(checkout, 0, kind=kind, texts=2 * STREAMS).per_s
    return min(POOL_SIZE // STREAMS, max(1, round(tokens / NEW_TOKENS / STREAMS))) * STREAMS


def _overload(checkout: Checkout, number: int, *, kind: str, rate_per_s: float, seconds: float) -> RunFigures:
    load = open_loop(
        checkout.address,
        checkout.requests[kind],
        rate_per_s=rate_per_s,
        seconds=seconds,
        seed=number,
        max_connections=OVERLOAD_CONNECTIONS,
        open_first=OVERLOAD_CONNECTIONS,
        warmup_s=2 * WARMUP_S,
    )
    found, cpu_s = checkout.run(load)
    ok = percentiles(found.latencies_ms(ok=True))
    if ok is None:
        raise ConnectionError(f"the {checkout.side} checkout answered nothing: {found.statuses()}")
    lost = found.unanswered + sum(count for status, count in found.statuses().items() if status not in (200, 429))
    cpu_us = cpu_s * 1e6 / found.statuses()[200]
    return RunFigures(per_s=found.goodput_per_s, p99_ms=ok["p99_ms"], cpu_us=cpu_us, failed=lost)


def _ratio(found: Sequence[float]) -> str:
    lower, middle, upper = found
    return f"{middle:.2f} ({lower:.2f}-{upper:.2f})"


def against_table(result: Mapping[str, Any]) -> Table:
    """Return the ratios new/old: medians and quartiles, with the medians of both sides."""
    columns = (
        "rate ratio",
        "p99 ratio",
        "CPU ratio",
        "new/s",
        "old/s",
        "new p99",
        "old p99",
        "new µs",
        "old µs",
        "failed",
    )
    table = report.new_table(f"this tree / {result['against']}, runs in turns", ("scenario",), columns)
    for name, found in result["scenarios"].items():
        new, old = (found["medians"][side] for side in SIDES)
        cells = [_ratio(found["ratios"][figure]) for figure in FIGURES]
        cells += [f"{new['per_s']:,.0f}", f"{old['per_s']:,.0f}", f"{new['p99_ms']:.1f}", f"{old['p99_ms']:.1f}"]
        cells += [f"{new['cpu_us']:.0f}", f"{old['cpu_us']:.0f}"]
        table.add_row(name, *cells, f"{found['failed']['new']}, {found['failed']['old']}")
    return table


def conclude(result: Mapping[str, Any], arguments: argparse.Namespace, console: Console) -> int:
    """Print the table. Return 1 if a request to this tree failed, else 0."""
    report.write_json(arguments.report, result)
    console.print(against_table(result))
    failed = {name: found["failed"]["new"] for name, found in result["scenarios"].items() if found["failed"]["new"]}
    for name, count in failed.items():
        print(f"FAILED: {name}: {count} requests failed", file=sys.stderr)
    console.print(f"all runs are in {arguments.report}", markup=False, highlight=False)
    return 1 if failed else 0
