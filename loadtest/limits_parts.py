"""The parts of `loadtest limits`: each starts what it needs, measures, and says what was wanted.

A part returns its figures and `checks`: what, is, wanted, met. Knows HTTP and programs; in_process.py alone among the
peers knows the models.
"""

import asyncio
import json
import os
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from loadtest import payloads
from loadtest.bench_server import TOKENS, waste
from loadtest.closed_loop import Drive, drive, free_port, run_loop
from loadtest.open_loop import Arrivals, drive_open
from loadtest.server import Server, serving
from loadtest.wire import Address, fetch, request_bytes

TEXTS = 2000
BULK, BULK_CONNECTIONS = 64, 8
CONNECTIONS = 32
STREAMS, NEW_TOKENS = 64, 200
PROBES_PER_S = 20.0
OVERLOAD, OVERLOAD_CONNECTIONS = 2.0, 1024
CAPACITY_AT = (32, 64, 128)  # connections: the fastest is the capacity
PROMPT = "ROMEO:"
GENERATED = re.compile(r"^seqserve_generated_tokens_total\{[^}]*\} (\S+)$", re.MULTILINE)

Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Stand:
    """Where and how long everything is measured."""

    server_core: int
    python: str
    zoo: Path
    folder: Path
    seconds: float
    overload_seconds: float
    rounds: int
    seed: int

    @contextmanager
    def serving(self, *, pinned: bool = True, **settings: str) -> Iterator["Service"]:
        """The service with some settings (names without their prefix), stopped on the way out."""
        address = Address(host="127.0.0.1", port=free_port())
        where = ("--host", address.host, "--port", str(address.port))
        environment = {f"SEQSERVE_{name.upper()}": value for name, value in settings.items()}
        environment["BENTOML_HOME"] = os.path.abspath(self.folder / "bentoml" / "limits")
        command = [self.python, "-m", "bentoml", "serve", "service.app:Seqserve", *where]
        cores = os.sched_getaffinity(0)
        try:
            if not pinned:  # a child has the cores of its parent
                os.sched_setaffinity(0, {self.server_core, *cores})
            with serving(
                command,
                address,
                log=self.folder / "limits.log",
                core=self.server_core if pinned else None,
                environment=environment,
            ) as server:
                os.sched_setaffinity(0, cores)
                yield Service(address=address, server=server, seed=self.seed)
        finally:
            os.sched_setaffinity(0, cores)

    def reference(self, what: str, model: str, variant: str, asked: Any) -> Figures:
        """What in_process.py finds, alone on the server's core."""
        done = subprocess.run(
            [self.python, "-m", "loadtest.peers.in_process", what],
            input=json.dumps(asked),
            env={**os.environ, "PEER_BUNDLE": str(self.zoo / model), "PEER_VARIANT": variant},
            preexec_fn=lambda: os.sched_setaffinity(0, {self.server_core}),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LookupError(f"the reference in process has failed:\n{done.stderr[-2000:]}")
        figures: Figures = json.loads(done.stdout)
        return figures


@dataclass(frozen=True, kw_only=True)
class Service:
    """A running service and the requests that it gets."""

    address: Address
    server: Server
    seed: int

    def model(self, task: str) -> payloads.Card:
        return next(card for card in payloads.read_cards(self.address.url) if card.task == task)

    def texts(self, task: str = "tag") -> list[str]:
        singles = payloads.build_single(self.model(task), count=TEXTS, seed=self.seed)
        return [payload.inputs for payload in singles]

    def tagging(self, inputs: Sequence[Any]) -> list[bytes]:
        bodies = (json.dumps({"inputs": each}, ensure_ascii=False).encode() for each in inputs)
        return [request_bytes(self.address, "/v1/tag", body) for body in bodies]

    def writing(self, count: int, new_tokens: int) -> list[bytes]:
        asked = ({"max_new_tokens": new_tokens, "temperature": 0.8, "seed": seed} for seed in range(count))
        bodies = (json.dumps({"inputs": PROMPT, "parameters": each}).encode() for each in asked)
        return [request_bytes(self.address, "/v1/generate", body) for body in bodies]

    def closed(self, requests: Sequence[bytes], *, connections: int, seconds: float) -> Drive:
        seen = run_loop(drive(self.address, requests, connections=connections, seconds=seconds))
        if seen.failed or not seen.latencies_ms:
            raise ConnectionError(f"requests have failed: {dict(seen.statuses)}")
        return seen

    def capacity_per_s(self, requests: Sequence[bytes], *, seconds: float) -> float:
        loops = (self.closed(requests, connections=count, seconds=seconds) for count in CAPACITY_AT)
        return max(loop.per_s for loop in loops)

    def padding(self) -> tuple[int, int]:
        """(padded, real) tokens so far."""
        found = {kind: int(float(count)) for kind, _, count in TOKENS.findall(self._metrics())}
        return found.get("padded", 0), found.get("processed", 0)

    def generated(self) -> float:
        return sum(map(float, GENERATED.findall(self._metrics())))

    def _metrics(self) -> str:
        return fetch(f"{self.address.url}/metrics").body.decode()

    def memory_mb(self) -> float:
        return float(sum(process.memory_info().rss for process in self.server.tree())) / 1e6


def check(what: str, found: float, *, least: float | None = None, most: float | None = None) -> Figures:
    met = (least is None or found >= least) and (most is None or found <= most)
    wanted = f"at least {least:g}" if least is not None else f"at most {most:g}"
    return {"what": what, "is": found, "wanted": wanted, "met": met}


def bulk(stand: Stand) -> Figures:
    """Requests of many inputs, and the same session called in process on the same sentences, sorted."""
    figures: Figures = {"checks": []}
    for variant in ("fp32", "int8"):
        with stand.serving(variant=variant) as service:
            texts = service.texts()
            groups = [texts[at : at + BULK] for at in range(0, TEXTS - BULK + 1, BULK)]
            requests = service.tagging(groups)
            model = service.model("tag").id
            ours, references = [], []
            for _ in range(stand.rounds):
                loop = service.closed(requests, connections=BULK_CONNECTIONS, seconds=stand.seconds)
                ours.append(loop.per_s * BULK)
                references.append(stand.reference("bulk", model, variant, texts))
        session = statistics.median(each["session_per_s"] for each in references)
        everything = statistics.median(each["everything_per_s"] for each in references)
        found = figures[variant] = {
            "sentences_per_s": statistics.median(ours),
            "session_per_s": session,
            "everything_in_process_per_s": everything,
        }
        share = found["sentences_per_s"] / session
        figures["checks"].append(check(f"{variant}: share of the sorted session alone", share, least=0.85))
        found["share_of_everything_in_process"] = found["sentences_per_s"] / everything
    return figures


def padding(stand: Stand) -> Figures:
    """Padding of requests of 1 to 8 inputs, beside first-come batches of the same inputs."""
    figures: Figures = {"checks": []}
    for variant in ("fp32", "int8"):
        with stand.serving(variant=variant) as service:
            texts, random = service.texts(), Random(f"sizes {stand.seed}")
            groups = [random.choices(texts, k=random.randint(1, 8)) for _ in range(1000)]
            requests = service.tagging(groups)
            before = service.padding()
            loop = service.closed(requests, connections=CONNECTIONS, seconds=stand.seconds)
            share = waste(before, service.padding()) or 0.0
            model = service.model("tag").id
        asked = [text for group in groups for text in group]
        first_come = stand.reference("bulk", model, variant, asked[:TEXTS])["first_come_waste"]
        figures[variant] = {
            "waste": share,
            "first_come_waste": first_come,
            "requests_per_s": loop.per_s,
            "p50_ms": loop.percentile_ms(50),
            "p99_ms": loop.percentile_ms(99),
            "longest_ms": loop.percentile_ms(100),
        }
        figures["checks"].append(check(f"{variant}: padding, share of all tokens", share, most=0.15))
    return figures


def steps(stand: Stand) -> Figures:
    """Tokens/s of many texts at once, beside the bare loop of steps at that size."""
    figures: Figures = {"checks": []}
    for variant in ("fp32", "int8"):
        with stand.serving(variant=variant) as service:
            requests, model = service.writing(STREAMS * 4, NEW_TOKENS), service.model("generate").id
            ours, references = [], []
            for _ in range(stand.rounds):
                ours.append(_tokens_per_s(service, requests, stand.seconds))
                references.append(stand.reference("steps", model, variant, STREAMS))
        found = figures[variant] = {
            "tokens_per_s": statistics.median(ours),
            "network_alone_per_s": statistics.median(each["network_per_s"] for each in references),
            "with_draws_per_s": statistics.median(each["with_draws_per_s"] for each in references),
        }
        share = found["tokens_per_s"] / found["network_alone_per_s"]
        figures["checks"].append(check(f"{variant}: share of the bare step loop", share, least=0.7))
    return figures


def _tokens_per_s(service: Service, requests: Sequence[bytes], seconds: float) -> float:
    """By the service's own count, from the first request to the last answer: no text is cut by a window."""
    before, started = service.generated(), time.perf_counter()
    service.closed(requests, connections=STREAMS, seconds=seconds)
    # The last texts are written by ever fewer rows: that, too, is time.
    taken_s = time.perf_counter() - started
    return (service.generated() - before) / taken_s


def first_token(stand: Stand) -> Figures:
    """The time to the first token while others are in mid-stream, at half the load that is borne."""
    with stand.serving() as service:
        texts, probes = service.writing(STREAMS * 4, NEW_TOKENS), service.writing(STREAMS, 1)
        capacity = _tokens_per_s(service, texts, stand.seconds) / NEW_TOKENS

        async def both() -> tuple[Arrivals, Arrivals]:
            return await asyncio.gather(
                drive_open(service.address, texts, rate_per_s=capacity / 2, seconds=stand.seconds, seed=stand.seed),
                drive_open(service.address, probes, rate_per_s=PROBES_PER_S, seconds=stand.seconds, seed=1),
            )

        writing, probing = run_loop(both())
    found = probing.summary()["ok"]
    return {
        "texts_per_s": capacity,
        "rate_per_s": capacity / 2,
        "whole_texts": writing.summary(),
        "first_token": probing.summary(),
        "checks": [check("p99 of the first token, ms", found["p99_ms"], most=50.0)],
    }


def tail(stand: Stand) -> Figures:
    """p99 beside p50 at 70 % of the load that is borne, requests arriving at random."""
    with stand.serving() as service:
        requests = service.tagging(service.texts())
        capacity = service.capacity_per_s(requests, seconds=stand.seconds / 2)
        loops = []
        for number in range(stand.rounds):
            rate = 0.7 * capacity
            load = drive_open(service.address, requests, rate_per_s=rate, seconds=stand.seconds, seed=number)
            loops.append(run_loop(load).summary())
    shares = [loop["ok"]["p99_ms"] / loop["ok"]["p50_ms"] for loop in loops]
    return {
        "capacity_per_s": capacity,
        "rounds": loops,
        "checks": [check("p99 over p50", statistics.median(shares), most=3.0)],
    }


def overload(stand: Stand) -> Figures:
    """Twice the load that is borne: what is answered, how fast is refused, what it leaves behind."""
    with stand.serving() as service:
        requests = service.tagging(service.texts())
        peak = service.capacity_per_s(requests, seconds=stand.seconds)

        def load(rate_per_s: float, seconds: float) -> Arrivals:
            return run_loop(
                drive_open(service.address, requests, rate_per_s=rate_per_s, seconds=seconds, most=OVERLOAD_CONNECTIONS)
            )

        load(OVERLOAD * peak, stand.seconds)
        memory_before = service.memory_mb()
        seen = load(OVERLOAD * peak, stand.overload_seconds)
        memory_after = service.memory_mb()
        # Its first second is not measured: what is, begins a second after the load has ended.
        after = load(0.3 * peak, 3.0).summary()
    found = seen.summary()
    return {
        "peak_per_s": peak,
        "load": found,
        "by_second": [[each.second, each.goodput, each.refused] for each in seen.per_second()],
        "memory_mb": [memory_before, memory_after],
        "a_second_after": after,
        "checks": [
            check("goodput, share of the peak", found["goodput_per_s"] / peak, least=0.9),
            check("p99 of refusals, ms", (found["refused"] or {"p99_ms": 0.0})["p99_ms"], most=10.0),
            check("memory after over before", memory_after / memory_before, most=1.05),
            check("p99 a second after its end, ms", after["ok"]["p99_ms"], most=20.0),
        ],
    }


def workers(stand: Stand) -> Figures:
    """Two worker processes beside one, on all cores, the client's share included."""
    per_s: dict[str, list[float]] = {"1": [], "2": []}
    client: list[float] = []
    for _ in range(stand.rounds):
        for count, found in per_s.items():
            with stand.serving(pinned=False, workers=count) as service:
                requests = service.tagging(service.texts())
                cpu_s, started = time.process_time(), time.perf_counter()
                found.append(service.closed(requests, connections=2 * CONNECTIONS, seconds=stand.seconds).per_s)
                if count == "2":
                    client.append((time.process_time() - cpu_s) / (time.perf_counter() - started))
    one, two = (statistics.median(found) for found in per_s.values())
    return {
        "requests_per_s": per_s,
        "client_share_of_a_core": statistics.median(client),
        "checks": [check("two workers over one", two / one, least=1.8)],
    }


PARTS: Mapping[str, Callable[[Stand], Figures]] = {
    each.__name__.replace("_", "-"): each for each in (bulk, padding, steps, first_token, tail, overload, workers)
}
