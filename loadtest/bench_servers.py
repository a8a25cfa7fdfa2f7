"""The servers of `bench`: how each is started, called and measured.

Peers run in an environment of their own (`--peers`), so nothing here imports their frameworks.
"""

import contextlib
import json
import os
import re
import struct
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import psutil  # type: ignore[import-untyped]

from loadtest.http_client import ServiceAddress, encode_requests, fetch, free_port
from loadtest.load_loops import closed_loop, open_loop, run_loop
from loadtest.service_process import ServiceProcess, start_service

T = TypeVar("T")
Tags = list[tuple[str, str]]  # label and word; scores are not compared

# Placeholders of a command: the two interpreters, and the address to listen at.
OURS, PEERS, HOST, PORT = "{ours}", "{peers}", "{host}", "{port}"
LISTEN = ("--host", HOST, "--port", PORT)
ANSWER_TIMEOUT_S = 30.0
START_TIMEOUT_S = 120.0
POLL_S = 0.2
# Errors that a broken server causes. Any other exception is a bug of the benchmark.
SERVER_ERRORS = (RuntimeError, OSError, ValueError, LookupError, TypeError)
TOKENS = re.compile(r'^seqserve_(padded|processed)_tokens_total\{[^}]*model="([^"]*)"[^}]*\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class BatchSetting:
    """One point of a sweep over a framework's batching. Servers without such options have one empty setting."""

    max_batch: int | None = None
    wait_ms: float | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that peers/tagger.py reads."""
        pairs = {"PEER_MAX_BATCH": self.max_batch, "PEER_WAIT_MS": self.wait_ms}
        return {name: f"{value:g}" for name, value in pairs.items() if value is not None}

    def __str__(self) -> str:
        parts = [] if self.max_batch is None else [f"batch {self.max_batch}"]
        return ", ".join(parts + ([] if self.wait_ms is None else [f"wait {self.wait_ms:g} ms"]))


@dataclass(frozen=True, kw_only=True)
class BenchServer:
    """One server under test."""

    name: str
    title: str
    command: Sequence[str]
    ready: str
    path: str
    body: Callable[[str], Any]
    read: Callable[[Any], Tags]  # extracts what is compared from an answer
    settings: Sequence[BatchSetting] = (BatchSetting(),)
    environment: Mapping[str, str] = field(default_factory=dict)
    ours: bool = False
    variant: str = "fp32"
    package: str = ""  # its version goes into the report

    def fill(self, values: Mapping[str, str]) -> list[str]:
        """Return the command with its placeholders filled in."""
        return [word.format_map(values) for word in self.command]


def grid(batches: Sequence[int], waits_ms: Sequence[float | None]) -> tuple[BatchSetting, ...]:
    return tuple(BatchSetting(max_batch=batch, wait_ms=wait_ms) for batch in batches for wait_ms in waits_ms)


def plain_body(text: str) -> Any:
    return {"inputs": text}


def list_body(text: str) -> Any:
    """Return the body for a batchable BentoML method: a list with one text."""
    return {"inputs": [text]}


def v2_body(text: str) -> Any:
    """Return the body of the Open Inference Protocol V2: one BYTES tensor with one string."""
    return {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [text]}]}


def plain_tags(answer: Any) -> Tags:
    return [(tag.get("entity", tag.get("entity_group")), tag["word"]) for tag in answer]


def list_tags(answer: Any) -> Tags:
    return plain_tags(answer[0])


def v2_tags(answer: Any) -> Tags:
    return plain_tags(json.loads(answer["outputs"][0]["data"][0]))


def peer_program(module: str) -> tuple[str, ...]:
    return (PEERS, "-m", f"loadtest.peers.{module}", *LISTEN)


def peer_uvicorn(app: str) -> tuple[str, ...]:
    return (PEERS, "-m", "uvicorn", f"loadtest.peers.{app}", "--no-access-log", "--log-level", "warning", *LISTEN)


def bentoml_serve(service: str) -> tuple[str, ...]:
    return (OURS, "-m", "bentoml", "serve", service, *LISTEN)


def seqserve(
    variant: str,
    path: str = "/v1/tag",
    body: Callable[[str], Any] = plain_body,
    read: Callable[[Any], Tags] = plain_tags,
) -> BenchServer:
    """Return this service with one variant."""
    return BenchServer(
        name=f"seqserve-{variant}",
        title=f"seqserve {variant}",
        command=bentoml_serve("service.app:Seqserve"),
        ready="/readyz",
        path=path,
        body=body,
        read=read,
        environment={"SEQSERVE_VARIANT": variant},
        ours=True,
        variant=variant,
        package="bentoml",
    )


def _peer(name: str, title: str, command: Sequence[str], *, path: str = "/tag", **more: Any) -> BenchServer:
    """Return a peer with plain bodies and answers unless `more` says otherwise."""
    defaults = {"ready": "/readyz", "body": plain_body, "read": plain_tags, "package": name}
    return BenchServer(name=name, title=title, command=command, path=path, **{**defaults, **more})


OUR_SERVERS = (seqserve("fp32"), seqserve("int8"))  # their answers are the reference
DEFAULT = "seqserve-int8"  # what this service runs without settings
# Peers serve the fp32 file, which both sides have. The best of them is measured with the int8 file as well.
CATALOG: tuple[BenchServer, ...] = (
    *OUR_SERVERS,
    _peer(
        "mosec",
        "mosec",
        (PEERS, "-m", "loadtest.peers.mosec_worker", "--address", HOST, "--port", PORT),
        ready="/",
        path="/inference",
        settings=(*grid([4, 8, 12, 16, 32], [1]), BatchSetting(max_batch=32, wait_ms=5)),
    ),
    _peer(
        "starlette",
        "Starlette + batcher",
        peer_uvicorn("asgi:batching_app"),
        settings=(*grid([4, 8, 16, 32], [0]), *grid([8, 32], [2])),
    ),
    _peer("fastapi-def", "FastAPI def, no batching", peer_uvicorn("asgi:app"), path="/def", package="fastapi"),
    _peer("fastapi-async", "FastAPI async, no batching", peer_uvicorn("asgi:app"), path="/async", package="fastapi"),
    _peer(
        "mlserver",
        "MLServer",
        peer_program("mlserver_runtime"),
        ready="/v2/models/tagger/ready",
        path="/v2/models/tagger/infer",
        body=v2_body,
        read=v2_tags,
        settings=grid([4, 8, 32], [1, 5]),
    ),
    _peer(
        "litserve",
        "LitServe",
        peer_program("litserve_api"),
        ready="/health",
        path="/predict",
        settings=(*grid([4, 8, 32], [0]), *grid([8, 32], [2]), BatchSetting(max_batch=32, wait_ms=5)),
    ),
    _peer(
        "bentoml",
        "BentoML batchable",
        bentoml_serve("loadtest.peers.bentoml_batchable:TagService"),
        body=list_body,
        read=list_tags,
        settings=grid([8, 16, 32, 100], [None]),  # it adapts its wait
    ),
    _peer(
        "ray",
        "Ray Serve",
        peer_program("ray_serve"),
        ready="/-/healthz",
        path="/",
        settings=grid([8, 32], [0, 2]),
        environment={"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_DEDUP_LOGS": "0"},
    ),
)


def read_translation(answer: Any) -> Tags:
    """Return the text of the only translation."""
    ((only),) = answer
    return [("text", only["translation_text"])]


OUR_TRANSLATORS = tuple(seqserve(variant, "/v1/translate", read=read_translation) for variant in ("fp32", "int8"))
TRANSLATORS: tuple[BenchServer, ...] = (
    *OUR_TRANSLATORS,
    _peer(
        "starlette",
        "Starlette + static batches",
        peer_uvicorn("translator:app"),
        path="/translate",
        read=read_translation,
        settings=(*grid([8, 16, 32], [0]), *grid([16, 32], [5])),
    ),
)


def with_int8(server: BenchServer) -> BenchServer:
    """Return the same peer with the int8 file."""
    return replace(server, name=f"{server.name}-int8", title=f"{server.title} int8", variant="int8")


def select(names: str | None, task: str = "tag") -> list[BenchServer]:
    """Return the servers of a comma-separated list, where `seqserve` means both of ours. Raises LookupError."""
    catalog = TRANSLATORS if task == "translate" else CATALOG
    if names is None:
        return list(catalog)
    wanted = [name.strip() for name in names.split(",")]
    if unknown := set(wanted) - {server.name for server in catalog} - {"seqserve"}:
        known = ", ".join(("seqserve", *(server.name for server in catalog if not server.ours)))
        raise LookupError(f"--only {', '.join(sorted(unknown))}: no such server. Choose from {known}.")
    return [server for server in catalog if server.name in wanted or (server.ours and "seqserve" in wanted)]


def known_names() -> str:
    return ", ".join(("seqserve", *(server.name for server in CATALOG)))


@dataclass(frozen=True, kw_only=True)
class BenchContext:
    """What all measurements share."""

    texts: Sequence[str]
    model: str
    zoo: Path
    folder: Path  # for logs and files of the servers
    interpreters: Mapping[str, str]  # by placeholder: ours, peers
    server_core: int
    constant_headers: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)  # of packages


@dataclass(frozen=True, kw_only=True)
class ClosedLoopFigures:
    """One closed loop against one server."""

    connections: int
    per_s: float
    p50_ms: float
    p99_ms: float
    failed: int
    cpu_ms_per_request: float
    padding_waste: float | None  # share of padding in all computed tokens; None if nothing counts them
    foreign_share: float  # of the server's core, used by other processes


@dataclass(frozen=True, kw_only=True)
class RunningServer:
    """A server that is ready."""

    server: BenchServer
    process: ServiceProcess
    requests: Sequence[bytes]
    stats: Path
    context: BenchContext

    def run_closed(self, *, connections: int, seconds: float) -> ClosedLoopFigures:
        """Run a closed loop. Raises ConnectionError if the server answers nothing."""
        tokens = self._tokens()
        load = closed_loop(self.process.address, self.requests, connections=connections, seconds=seconds)
        found, wall_s, cpu_s, core_s = self._run(load)
        if not found.latencies_ms:
            raise ConnectionError(f"{self.server.name} answered nothing: {dict(found.statuses)}")
        return ClosedLoopFigures(
            connections=connections,
            per_s=found.per_s,
            p50_ms=found.percentile_ms(50),
            p99_ms=found.percentile_ms(99),
            failed=found.failed,
            cpu_ms_per_request=cpu_s * 1000 / found.replies,
            padding_waste=padding_waste(tokens, self._tokens()),
            foreign_share=max(0.0, core_s - cpu_s) / wall_s,
        )

    def run_open(self, *, rate_per_s: float, seconds: float, seed: int) -> dict[str, Any]:
        """Run an open loop and return its summary with the CPU use."""
        load = open_loop(self.process.address, self.requests, rate_per_s=rate_per_s, seconds=seconds, seed=seed)
        found, wall_s, cpu_s, core_s = self._run(load)
        shares = {"cpu_share": cpu_s / wall_s, "foreign_share": max(0.0, core_s - cpu_s) / wall_s}
        return {**found.summary(), **shares}

    def _run(self, load: Coroutine[Any, Any, T]) -> tuple[T, float, float, float]:
        """Return the result, and the seconds of the wall clock, of the server, and of all work on its core."""
        before = self._clocks()
        found = run_loop(load)
        wall_s, cpu_s, core_s = (now - then for now, then in zip(self._clocks(), before, strict=True))
        return found, wall_s, cpu_s, core_s

    def _clocks(self) -> tuple[float, float, float]:
        times = psutil.cpu_times(percpu=True)[self.context.server_core]
        core_s = sum(times) - times.idle - times.iowait - times.guest - times.guest_nice  # guests are in user too
        return time.perf_counter(), self.process.cpu_s(), core_s

    def ask(self, count: int) -> list[bytes]:
        """Return the answers to the first `count` texts. Raises ValueError for a status other than 200."""
        bodies = []
        for text in self.context.texts[:count]:
            reply = fetch(f"{self.process.address.url}{self.server.path}", json.dumps(self.server.body(text)).encode())
            if reply.status != 200:
                raise ValueError(f"{self.server.name} answered {reply.status}: {reply.body[:200]!r}")
            bodies.append(reply.body)
        return bodies

    def compare(self, expected: Sequence[Tags]) -> None:
        """Raise ValueError unless the tags equal those of the reference: the server would not do the same work."""
        for body, reference in zip(self.ask(len(expected)), expected, strict=True):
            if (tags := self.server.read(json.loads(body))) != reference:
                raise ValueError(f"{self.server.name} answers {tags} where seqserve answers {reference}")

    def _tokens(self) -> tuple[int, int]:
        """Return (padded, real) tokens of all batches so far; zeros if they are not counted."""
        if self.server.ours:
            return count_tokens(self.process.address, self.context.model)
        content = self.stats.read_bytes()
        padded, real = struct.unpack("<QQ", content) if content else (0, 0)
        return padded, real


def count_tokens(address: ServiceAddress, model: str) -> tuple[int, int]:
    """Return (padded, real) tokens of one model from seqserve's metrics."""
    lines = TOKENS.findall(fetch(f"{address.url}/metrics").body.decode())
    found = {kind: int(float(count)) for kind, name, count in lines if name == model}
    return found.get("padded", 0), found.get("processed", 0)


def padding_waste(before: tuple[int, int], after: tuple[int, int]) -> float | None:
    """Return the share of padding between two counts of (padded, real) tokens, or None without tokens."""
    padded, real = (late - early for late, early in zip(after, before, strict=True))
    return 1 - real / padded if padded > 0 else None


@contextlib.contextmanager
def run_server(server: BenchServer, setting: BatchSetting, context: BenchContext) -> Iterator[RunningServer]:
    """Start a server on its core with one batch setting, and stop it at the end."""
    address = ServiceAddress(host="127.0.0.1", port=free_port())
    stats = context.folder / "bench-stats.bin"
    stats.parent.mkdir(parents=True, exist_ok=True)
    stats.write_bytes(b"")
    environment = {
        "BENTOML_HOME": os.path.abspath(context.folder / "bentoml" / f"bench-{server.name}"),
        "PEER_BUNDLE": str(context.zoo / context.model),
        "PEER_VARIANT": server.variant,
        "PEER_STATS": os.path.abspath(stats),
        **server.environment,
        **setting.environment,
    }
    if server.ours and context.model:  # not every bundle of the zoo has every variant
        environment["SEQSERVE_BUNDLES"] = str(context.zoo / context.model)
    with start_service(
        server.fill({**context.interpreters, "host": address.host, "port": str(address.port)}),
        address,
        log=context.folder / f"bench-{server.name}.log",
        core=context.server_core,
        environment=environment,
        ready=server.ready,
        timeout_s=START_TIMEOUT_S,
    ) as process:
        bodies = [server.body(text) for text in context.texts]
        _wait_until_answered(f"{address.url}{server.path}", json.dumps(bodies[0]).encode())
        yield RunningServer(
            server=server,
            process=process,
            requests=encode_requests(address, server.path, bodies, constant_headers=context.constant_headers),
            stats=stats,
            context=context,
        )


def _wait_until_answered(url: str, body: bytes) -> None:
    """Wait until the model answers 200, which some servers delay after being ready. Raises TimeoutError."""
    end_s = time.monotonic() + ANSWER_TIMEOUT_S
    while fetch(url, body).status != 200:
        if time.monotonic() > end_s:
            raise TimeoutError(f"{url} did not answer 200 within {ANSWER_TIMEOUT_S:g} s")
        time.sleep(POLL_S)
