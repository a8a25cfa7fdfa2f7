"""Measure requests and inputs per second, and latency, of one model in half a minute.

The requests are the examples of the bundle. The service and this client share the cores, as they do in `load`.
"""

import argparse
import contextlib
import difflib
import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtest import payloads, report
from loadtest.http_client import ServiceAddress, encode_requests, fetch
from loadtest.load_loops import WARMUP_S, closed_loop, run_loop
from loadtest.payloads import ServedModel
from loadtest.service_process import ROOT, ServiceProcess, find_service, start_seqserve

URL = "http://127.0.0.1:3000"
MANIFEST = "manifest.json"
LOOPS = ((1, 1), (8, 1), (32, 1), (8, 32))  # connections, inputs in one request
NEW_TOKENS = 100  # of each generated text
POOL_SIZE = 200  # different requests
UNITS = {  # of a step; else words
    "characters": "characters",
    "dna": "bases",
    "frames": "frames",
    "series": "values",
    "image": "characters of base64",
}


@dataclass(frozen=True, kw_only=True)
class SpeedFigures:
    """One closed loop. The CPU use is in cores; that of the service is None if it runs on another machine."""

    connections: int
    inputs: int  # in one request
    requests_per_s: float
    inputs_per_s: float
    p50_ms: float
    p99_ms: float
    failed: int
    service_cores: float | None
    client_cores: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", nargs="?", help="Model, run, or bundle's folder (default: the service's first model).")
    add("--url", help=f"Address of the service (default: {URL} if it has the model, else it is started).")
    add("--seconds", type=float, default=28.0, help="Duration of all measurements (default: %(default)s).")
    report.add_option(parser, "build/speed.json")


def run(arguments: argparse.Namespace) -> int:
    """Return 0 if every request was answered with status 200, else 1."""
    console = report.console()
    seconds = arguments.seconds / len(LOOPS) - WARMUP_S
    if seconds <= 0:
        raise ValueError(f"--seconds {arguments.seconds:g} is too short; pass more than {len(LOOPS) * WARMUP_S:g}")
    with _service(arguments) as (address, service, model), console.status(f"measuring {model.id} at {address.url}"):
        inputs = single_inputs(model)
        rows = [_measure(address, service, model, inputs, loop, seconds) for loop in LOOPS]
    result = {
        **report.environment_report(),
        "url": address.url,
        "model": {"id": model.id, "task": model.task, "variant": model.variant},
        "loops": [asdict(row) for row in rows],
    }
    report.write_json(arguments.report, result)
    title = f"{model.id} ({', '.join(filter(None, (model.task, model.variant)))}): {_describe(model, inputs)}"
    columns = ("inputs/request", "requests/s", "inputs/s", "p50 ms", "p99 ms", "service", "client")
    table = report.new_table(title, (), ("connections", *columns))
    for row in rows:
        figures = (f"{row.requests_per_s:,.0f}", f"{row.inputs_per_s:,.0f}", f"{row.p50_ms:.1f}", f"{row.p99_ms:.1f}")
        cores = (report.cpu_use(row.service_cores), report.cpu_use(row.client_cores))
        table.add_row(str(row.connections), str(row.inputs), *figures, *cores)
    console.print(table)
    failed = sum(row.failed for row in rows)
    if failed:
        console.print(f"FAILED: {failed} requests", style="red", markup=False, highlight=False)
    console.print(f"service, client: CPU use of one core; report: {arguments.report}", markup=False, highlight=False)
    return 1 if failed else 0


@contextlib.contextmanager
def _service(arguments: argparse.Namespace) -> Iterator[tuple[ServiceAddress, ServiceProcess | None, ServedModel]]:
    """Find or start a service that has the model. Raises LookupError for an unknown model."""
    address, wanted, served = ServiceAddress.parse(arguments.url or URL), arguments.model, dict[str, ServedModel]()
    try:
        served = {model.id: model for model in payloads.read_models(address.url)}
    except (ConnectionError, ValueError):  # nothing answers, or another program
        if arguments.url:
            raise
    if served and (wanted is None or wanted in served):
        yield address, find_service(address), served[wanted] if wanted else next(iter(served.values()))
        return
    if arguments.url:
        raise LookupError(f"{address.url} has no model {wanted!r}. Choose from {', '.join(served)}.")
    settings = {"bundles": str(find_bundle(wanted))} if wanted else {}
    with start_seqserve(arguments.report.parent, "speed", settings) as service:
        yield service.address, service, payloads.read_models(service.address.url)[0]


def find_bundle(name: str) -> Path:
    """Return the bundle at a path or of a name: in SEQSERVE_BUNDLES, the zoo, or runs. Raises LookupError."""
    for place in (Path(name), Path(name, "bundle"), ROOT / name):
        if (place / MANIFEST).is_file():
            return place.resolve()
    known = bundles_by_name()
    if name in known:
        return known[name].resolve()
    near = difflib.get_close_matches(name, known, n=1)
    remedy = f"did you mean {near[0]}?" if near else f"export a run, or choose one of {', '.join(sorted(known))}"
    raise LookupError(f"there is no bundle {name!r}; {remedy}")


def bundles_by_name() -> dict[str, Path]:
    """Return every bundle by the names of its model and of its directory or run. The first of a name wins."""
    served = [ROOT / part.strip() for part in os.environ.get("SEQSERVE_BUNDLES", "").split(",") if part.strip()]
    known: dict[str, Path] = {}
    for folder in (*served, ROOT / "models/zoo", ROOT / "runs", Path("runs")):
        for file in sorted(file for level in range(3) for file in folder.glob("*/" * level + MANIFEST)):
            bundle = file.parent
            directory = bundle.parent if bundle.name == "bundle" else bundle
            try:
                model = json.loads(file.read_text("utf-8")).get("name", directory.name)
            except (OSError, ValueError):  # the start of the service reports it
                model = directory.name
            for each in (model, directory.name):
                known.setdefault(each, bundle)
    return known


def single_inputs(model: ServedModel) -> list[Any]:
    """Return the examples that are one input each or, if there are none, invented inputs."""
    kind = list if model.codec in ("frames", "series") else str
    found = [each for each in model.examples if isinstance(each, kind)]
    return found or payloads.sample_inputs(model, count=POOL_SIZE, seed=0)


def _describe(model: ServedModel, inputs: Sequence[Any]) -> str:
    unit = UNITS.get(model.codec, "words")
    lengths = [len(each.split()) if unit == "words" else len(each) for each in inputs]
    generated = f", {NEW_TOKENS} new tokens each" if model.task == "generate" else ""
    return f"{len(inputs)} inputs of {sum(lengths) / len(lengths):.0f} {unit} on average{generated}"


def _measure(
    address: ServiceAddress,
    service: ServiceProcess | None,
    model: ServedModel,
    inputs: Sequence[Any],
    loop: tuple[int, int],
    seconds: float,
) -> SpeedFigures:
    """Run one closed loop. Raises ValueError if the first request is refused."""
    connections, count = loop
    path, bodies = f"/v1/{model.tasks[0]}", request_bodies(model, inputs, count)
    first = fetch(f"{address.url}{path}", json.dumps(bodies[0]).encode())
    if first.status != 200:
        raise ValueError(f"{path} answered {first.status}: {first.body[:300].decode(errors='replace')}")
    started_s, client_s = time.perf_counter(), time.process_time()
    service_s = service.cpu_s() if service else 0.0
    requests = encode_requests(address, path, bodies)
    found = run_loop(closed_loop(address, requests, connections=connections, seconds=seconds))
    wall_s = time.perf_counter() - started_s
    if not found.latencies_ms:
        raise ConnectionError(f"{address.url} answered nothing: {dict(found.statuses)}")
    return SpeedFigures(
        connections=connections,
        inputs=count,
        requests_per_s=found.per_s,
        inputs_per_s=found.per_s * count,
        p50_ms=found.percentile_ms(50),
        p99_ms=found.percentile_ms(99),
        failed=found.failed,
        service_cores=(service.cpu_s() - service_s) / wall_s if service else None,
        client_cores=(time.process_time() - client_s) / wall_s,
    )


def request_bodies(model: ServedModel, inputs: Sequence[Any], count: int) -> list[dict[str, Any]]:
    """Return requests of `count` inputs each, which go through `inputs` in order."""
    forecasts = model.task == "forecast"
    cycle = itertools.cycle({"target": each} if forecasts else each for each in inputs)
    bodies = []
    for number in range(POOL_SIZE):
        found = [next(cycle) for _ in range(count)]
        body = {"inputs": found if count > 1 or forecasts else found[0], "model": model.id}
        if model.task == "generate":
            body["parameters"] = {"max_new_tokens": NEW_TOKENS, "temperature": 0.8, "seed": number}
        bodies.append(body)
    return bodies
