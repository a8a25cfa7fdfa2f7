"""Measure the limits of this service, each with a reference.

The server runs on the first core and the client on the last, except for the part `workers`.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from random import Random
from typing import Any

from loadtest import bench_servers, payloads, report
from loadtest.bench import claim_cores
from loadtest.http_client import ServiceAddress, encode_requests, fetch
from loadtest.load_loops import ClosedLoopResult, OpenLoopResult, closed_loop, open_loop, run_loop, send_all
from loadtest.payloads import ServedModel
from loadtest.service_process import ServiceProcess, start_seqserve

TEXTS = 2000
CAPACITY_AT = (32, 64, 128)  # connections; the fastest loop is the capacity
BULK, BULK_CONNECTIONS = 64, 8
BULK_SHARES = {"fp32": 0.85, "int8": 0.75}  # of the session alone, which is faster with int8
CONNECTIONS = 32
WORKERS_BULK = 16
STREAMS, NEW_TOKENS = 64, 200
TURN_S, TURNS_PER_ROUND = 1.0, 5
PROBES_PER_S = 20.0
GENERATION_TIMEOUT_S = 120.0
OVERLOAD, OVERLOAD_CONNECTIONS = 2.0, 1024
GENERATED = re.compile(r"^seqserve_generated_tokens_total\{[^}]*\} (\S+)$", re.MULTILINE)

Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class LimitsSetup:
    """Where and how long everything is measured."""

    server_core: int
    zoo: Path
    folder: Path
    seconds: float
    overload_seconds: float
    rounds: int
    seed: int

    @cached_property
    def default_bundles(self) -> Mapping[str, Path]:
        """The bundle that answers requests of each task without a model name. Not every bundle has every variant."""
        with self.serve() as service:
            models = payloads.default_models(payloads.read_models(service.address.url))
        return {task: self.zoo / model.id for task, model in models.items()}

    @contextmanager
    def serve(self, *, pinned: bool = True, **settings: str) -> Iterator["LimitsService"]:
        """Run the service with settings, which are named without their prefix."""
        core, cores = (self.server_core if pinned else None), os.sched_getaffinity(0)
        try:
            if not pinned:  # a child inherits the cores of its parent
                os.sched_setaffinity(0, {self.server_core, *cores})
            with start_seqserve(self.folder, "limits", settings, core=core) as process:
                os.sched_setaffinity(0, cores)
                yield LimitsService(process=process, seed=self.seed)
        finally:
            os.sched_setaffinity(0, cores)

    @contextmanager
    def reference(self, kind: str, model: str, variant: str, inputs: Any) -> Iterator["InProcessReference"]:
        """Run peers/in_process.py on the server's core. Raises LookupError if it fails."""
        with (self.folder / "reference.log").open("w+") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "loadtest.peers.in_process", kind],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PEER_BUNDLE": str(self.zoo / model), "PEER_VARIANT": variant},
                preexec_fn=lambda: os.sched_setaffinity(0, {self.server_core}),
                text=True,
            )
            with process:
                try:
                    yield InProcessReference(process, Path(log.name), inputs)
                finally:
                    process.kill()


class InProcessReference:
    """The model without a service. `about` holds constant figures; `turn` measures."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path, inputs: Any) -> None:
        self._process, self._log = process, log
        self.about = self._ask(inputs)

    def turn(self) -> Figures:
        """Measure for about half a second."""
        return self._ask("again")

    def _ask(self, message: Any) -> Figures:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            print(json.dumps(message), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise LookupError(f"the in-process reference failed:\n{self._log.read_text()[-2000:]}")
        figures: Figures = json.loads(line)
        return figures


@dataclass(frozen=True, kw_only=True)
class LimitsService:
    """A running service and its requests."""

    process: ServiceProcess
    seed: int

    @property
    def address(self) -> ServiceAddress:
        return self.process.address

    def model(self, task: str) -> ServedModel:
        """Return the model that answers requests without a model name."""
        return payloads.default_models(payloads.read_models(self.address.url))[task]

    def texts(self, count: int) -> list[str]:
        return payloads.sample_inputs(self.model("tag"), count=count, seed=self.seed)

    def tag_requests(self, inputs: Sequence[Any]) -> list[bytes]:
        return encode_requests(self.address, "/v1/tag", ({"inputs": each} for each in inputs))

    def generate_requests(self, count: int, new_tokens: int) -> list[bytes]:
        return encode_requests(self.address, "/v1/generate", payloads.generate_bodies(count, new_tokens))

    def run_closed(self, requests: Sequence[bytes], *, connections: int, seconds: float) -> ClosedLoopResult:
        """Run a closed loop. Raises ConnectionError if a request fails."""
        found = run_loop(closed_loop(self.address, requests, connections=connections, seconds=seconds))
        if found.failed or not found.latencies_ms:
            raise ConnectionError(f"requests failed: {dict(found.statuses)}")
        return found

    def count_tokens(self, model: str) -> tuple[int, int]:
        """Return (padded, real) tokens so far."""
        return bench_servers.count_tokens(self.address, model)

    def count_generated(self) -> float:
        return sum(map(float, GENERATED.findall(fetch(f"{self.address.url}/metrics").body.decode())))


def check(what: str, value: float, *, least: float | None = None, most: float | None = None) -> Figures:
    """Return a figure with its target and whether it was met."""
    met = (least is None or value >= least) and (most is None or value <= most)
    wanted = f"at least {least:g}" if least is not None else f"at most {most:g}"
    return {"what": what, "is": value, "wanted": wanted, "met": met}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--only", metavar="PART,…", help=f"Measure only these parts: {', '.join(PARTS)}.")
    add("--seconds", type=float, default=8.0, help="Duration of one measurement (default: %(default)s).")
    add("--overload-seconds", type=float, default=60.0, help="Duration of the overload (default: %(default)s).")
    add("--rounds", type=int, default=3, help="Repetitions; medians are reported (default: %(default)s).")
    add("--zoo", type=Path, default=Path("models/zoo"), help="Folder of the bundles (default: %(default)s).")
    add("--seed", type=int, default=0, help="Seed of texts and arrival times (default: %(default)s).")
    report.add_option(parser, "build/limits.json")


def run(arguments: argparse.Namespace) -> int:
    """Return 0 if every target was met, else 1."""
    names = arguments.only.split(",") if arguments.only else list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        raise LookupError(f"--only {unknown[0]}: no such part. Choose from {', '.join(PARTS)}.")
    server_core, client_core = claim_cores()
    setup = LimitsSetup(
        server_core=server_core,
        zoo=arguments.zoo,
        folder=arguments.report.parent,
        seconds=arguments.seconds,
        overload_seconds=arguments.overload_seconds,
        rounds=arguments.rounds,
        seed=arguments.seed,
    )
    console = report.console()
    parts: dict[str, Figures] = {}
    result: dict[str, Any] = {
        **report.environment_report(),
        "server_core": server_core,
        "client_core": client_core,
        "seconds": arguments.seconds,
        "rounds": arguments.rounds,
        "parts": parts,
    }
    table = report.new_table("limits", ("part", "figure"), ("value", "target", ""))
    for name in names:
        with console.status(name):
            figures = parts[name] = PARTS[name](setup)
        report.write_json(arguments.report, result)
        for found in figures["checks"]:
            line = f"{name}: {found['what']}: {found['is']:.4g} ({found['wanted']})"
            console.print(line, markup=False, highlight=False)
            table.add_row(name, found["what"], f"{found['is']:.4g}", found["wanted"], "" if found["met"] else "missed")
    console.print(table)
    return 0 if all(found["met"] for figures in parts.values() for found in figures["checks"]) else 1


def bulk(setup: LimitsSetup) -> Figures:
    """Compare requests of many inputs with the same session in process on the same sentences, sorted by length."""
    figures: Figures = {"checks": []}
    for variant, least in BULK_SHARES.items():
        with setup.serve(bundles=str(setup.default_bundles["tag"]), variant=variant) as service:
            texts = service.texts(TEXTS)
            groups = [texts[at : at + BULK] for at in range(0, TEXTS - BULK + 1, BULK)]
            requests = service.tag_requests(groups)
            with setup.reference("bulk", service.model("tag").id, variant, texts) as reference:
                turns = _in_turns(setup, partial(_sentences_per_s, service, requests), reference)
        figures[variant] = turns
        share = turns["share_of"]["session_per_s"]
        figures["checks"].append(check(f"{variant}: share of the sorted session alone", share, least=least))
    return figures


def _sentences_per_s(service: LimitsService, requests: Sequence[bytes]) -> float:
    return BULK * service.run_closed(requests, connections=BULK_CONNECTIONS, seconds=TURN_S).per_s


def _in_turns(setup: LimitsSetup, ours: Callable[[], float], reference: InProcessReference) -> Figures:
    """Alternate between the service and the reference, because a shared machine changes speed within a minute.

    Return the median rates, the median share of each figure of the reference, and all turns.
    """
    ours()  # the service learns the cost of batches
    turns = [{"ours_per_s": ours(), **reference.turn()} for _ in range(setup.rounds * TURNS_PER_ROUND)]
    names = list(turns[0])
    return {
        **{name: statistics.median(turn[name] for turn in turns) for name in names},
        "share_of": {name: statistics.median(turn["ours_per_s"] / turn[name] for turn in turns) for name in names[1:]},
        "turns": turns,
    }


def padding(setup: LimitsSetup) -> Figures:
    """Compare the padding of requests of 1 to 8 inputs with first-come batches of the same inputs."""
    figures: Figures = {"checks": []}
    for variant in ("fp32", "int8"):
        with setup.serve(bundles=str(setup.default_bundles["tag"]), variant=variant) as service:
            texts, random = service.texts(TEXTS), Random(f"sizes {setup.seed}")
            groups = [random.choices(texts, k=random.randint(1, 8)) for _ in range(1000)]
            model = service.model("tag").id
            before = service.count_tokens(model)
            loop = service.run_closed(service.tag_requests(groups), connections=CONNECTIONS, seconds=setup.seconds)
            waste = bench_servers.padding_waste(before, service.count_tokens(model)) or 0.0
        inputs = [text for group in groups for text in group]
        with setup.reference("bulk", model, variant, inputs[:TEXTS]) as reference:
            first_come = reference.about["first_come_waste"]
        figures[variant] = {
            "waste": waste,
            "first_come_waste": first_come,
            "requests_per_s": loop.per_s,
            "p50_ms": loop.percentile_ms(50),
            "p99_ms": loop.percentile_ms(99),
            "max_ms": loop.percentile_ms(100),
        }
        figures["checks"].append(check(f"{variant}: share of padding in all tokens", waste, most=0.15))
    return figures


def steps(setup: LimitsSetup) -> Figures:
    """Compare the tokens/s of many texts at once with the bare loop of decoding steps."""
    figures: Figures = {"checks": []}
    for variant in ("fp32", "int8"):
        with setup.serve(bundles=str(setup.default_bundles["generate"]), variant=variant) as service:
            requests, model = service.generate_requests(STREAMS * 4, NEW_TOKENS), service.model("generate").id
            with setup.reference("steps", model, variant, STREAMS) as reference:
                turns = _in_turns(setup, partial(_tokens_per_s, service, requests), reference)
        figures[variant] = turns
        share = turns["share_of"]["network_per_s"]
        figures["checks"].append(check(f"{variant}: share of the bare step loop", share, least=0.7))
    return figures


def _tokens_per_s(service: LimitsService, requests: Sequence[bytes]) -> float:
    """Return tokens/s by the service's own count, from the first request to the last reply."""
    before = service.count_generated()
    found = run_loop(send_all(service.address, requests, connections=STREAMS, timeout_s=GENERATION_TIMEOUT_S))
    if found.failed:
        raise ConnectionError(f"requests failed: {dict(found.statuses)}")
    return (service.count_generated() - before) / found.seconds


def first_token(setup: LimitsSetup) -> Figures:
    """Measure the time to the first token while other texts are generated at half the capacity."""
    with setup.serve() as service:
        texts, probes = service.generate_requests(STREAMS * 4, NEW_TOKENS), service.generate_requests(STREAMS, 1)
        capacity = _tokens_per_s(service, texts) / NEW_TOKENS

        async def both() -> tuple[OpenLoopResult, OpenLoopResult]:
            return await asyncio.gather(
                open_loop(service.address, texts, rate_per_s=capacity / 2, seconds=setup.seconds, seed=setup.seed),
                open_loop(service.address, probes, rate_per_s=PROBES_PER_S, seconds=setup.seconds, seed=1),
            )

        whole, first = run_loop(both())
    return {
        "texts_per_s": capacity,
        "rate_per_s": capacity / 2,
        "whole_texts": whole.summary(),
        "first_token": first.summary(),
        "checks": [check("p99 of the first token, ms", first.summary()["ok"]["p99_ms"], most=50.0)],
    }


def tail(setup: LimitsSetup) -> Figures:
    """Measure p99 over p50 at 70 % of the capacity of a moment before, with Poisson arrivals."""
    with setup.serve() as service:
        requests = service.tag_requests(service.texts(TEXTS))
        connections = _fastest(service, requests, setup.seconds / 2)
        loops = []
        for number in range(setup.rounds):
            rate = 0.7 * _closed_per_s(service, requests, connections, setup.seconds)
            load = open_loop(service.address, requests, rate_per_s=rate, seconds=setup.seconds, seed=number)
            loops.append(run_loop(load).summary())
    ratios = [loop["ok"]["p99_ms"] / loop["ok"]["p50_ms"] for loop in loops]
    return {
        "connections_of_the_capacity": connections,
        "rounds": loops,
        "checks": [check("p99 over p50", statistics.median(ratios), most=3.0)],
    }


def overload(setup: LimitsSetup) -> Figures:
    """Send twice the capacity: measure goodput, the latency of refusals, memory, and the time to recover."""
    with setup.serve() as service:
        requests = service.tag_requests(service.texts(TEXTS))
        connections = _fastest(service, requests, setup.seconds)
        # Overload once before the measurement, so that memory has its full size.
        peak = _closed_per_s(service, requests, connections, setup.seconds)
        _overload(service, requests, OVERLOAD * peak, setup.seconds)
        rounds = [_overload_round(setup, service, requests, connections) for _ in range(setup.rounds)]

    def median(figure: Callable[[Figures], float]) -> float:
        return statistics.median(figure(found) for found in rounds)

    def lost(load: Figures) -> int:
        others = (count for status, count in load["statuses"].items() if status not in ("200", "429"))
        return int(load["unanswered"] + sum(others))

    goodput = median(lambda found: found["load"]["goodput_per_s"] / found["peak_per_s"])
    refused = median(lambda found: (found["load"]["refused"] or {"p99_ms": 0.0})["p99_ms"])
    memory = median(lambda found: found["memory_mb"][1] / found["memory_mb"][0])
    recovered = median(lambda found: found["a_second_after"]["ok"]["p99_ms"])
    return {
        "connections_of_the_peak": connections,
        "rounds": rounds,
        "checks": [
            check("goodput, share of the peak", goodput, least=0.9),
            check("p99 of refusals, ms", refused, most=10.0),
            check("requests neither answered nor refused with 429", sum(lost(each["load"]) for each in rounds), most=0),
            check("memory after over before", memory, most=1.05),
            check("p99 a second after the end, ms", recovered, most=20.0),
        ],
    }


def _overload_round(setup: LimitsSetup, service: LimitsService, requests: Sequence[bytes], connections: int) -> Figures:
    """Overload the service between two measurements of its peak, which changes on a shared machine."""
    before = _closed_per_s(service, requests, connections, setup.seconds)
    memory_before = service.process.memory_mb()
    found = _overload(service, requests, OVERLOAD * before, setup.overload_seconds)
    memory_after = service.process.memory_mb()
    # The warm-up of one second is not measured: the figures begin a second after the overload.
    recovered = run_loop(open_loop(service.address, requests, rate_per_s=0.3 * before, seconds=3.0)).summary()
    return {
        "peak_per_s": (before + _closed_per_s(service, requests, connections, setup.seconds)) / 2,
        "load": found.summary(),
        "memory_mb": [memory_before, memory_after],
        "a_second_after": recovered,
    }


def _fastest(service: LimitsService, requests: Sequence[bytes], seconds: float) -> int:
    """Return the number of connections with the most requests/s."""
    closed = {count: _closed_per_s(service, requests, count, seconds) for count in CAPACITY_AT}
    return max(closed, key=lambda count: closed[count])


def _closed_per_s(service: LimitsService, requests: Sequence[bytes], connections: int, seconds: float) -> float:
    return service.run_closed(requests, connections=connections, seconds=seconds).per_s


def _overload(service: LimitsService, requests: Sequence[bytes], rate_per_s: float, seconds: float) -> OpenLoopResult:
    """Run an open loop over connections that are open before, as in a connection pool."""
    count = OVERLOAD_CONNECTIONS
    return run_loop(
        open_loop(
            service.address, requests, rate_per_s=rate_per_s, seconds=seconds, max_connections=count, open_first=count
        )
    )


def workers(setup: LimitsSetup) -> Figures:
    """Compare two workers with one on all cores, which the client shares, for requests of one input and of many.

    The client takes CPU time from two workers but not from one. It takes little for requests of many inputs.
    """
    per_s: dict[str, dict[int, list[float]]] = {kind: {1: [], 2: []} for kind in ("single", "many")}
    client: dict[str, list[float]] = {kind: [] for kind in per_s}
    for _ in range(setup.rounds):
        for count in (1, 2):
            with setup.serve(pinned=False, workers=str(count)) as service:
                texts = service.texts(TEXTS)
                groups = [texts[at : at + WORKERS_BULK] for at in range(0, TEXTS - WORKERS_BULK + 1, WORKERS_BULK)]
                # One ready worker makes the service ready and gets all connections of the first seconds.
                service.run_closed(service.tag_requests(texts), connections=CONNECTIONS, seconds=setup.seconds)
                for kind, inputs in (("single", texts), ("many", groups)):
                    requests = service.tag_requests(inputs)
                    cpu_s, started = time.process_time(), time.perf_counter()
                    loop = service.run_closed(requests, connections=2 * CONNECTIONS, seconds=setup.seconds)
                    per_s[kind][count].append(loop.per_s)
                    if count == 2:
                        client[kind].append((time.process_time() - cpu_s) / (time.perf_counter() - started))
    shares = {kind: statistics.median(found) for kind, found in client.items()}
    return {
        "requests_per_s": per_s,
        "client_share_of_a_core": shares,
        "checks": [
            check(
                f"{kind} inputs: two workers over one (client: {shares[kind]:.0%} of a core)",
                statistics.median(found[2]) / statistics.median(found[1]),
                least=1.8,
            )
            for kind, found in per_s.items()
        ],
    }


PARTS: Mapping[str, Callable[[LimitsSetup], Figures]] = {
    part.__name__.replace("_", "-"): part for part in (bulk, padding, steps, first_token, tail, overload, workers)
}
