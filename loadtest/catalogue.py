"""The servers of `python -m loadtest bench`: how each is started, asked and understood, and what its sweep tries.

Knows their commands, routes and bodies. Starts nothing, measures nothing, and imports none of them: the frameworks
live in environments of their own, of which only the interpreters are named here.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Tags = list[tuple[str, str]]  # label and word; scores are not compared

# How an interpreter, a host and a port stand in a command until it is run.
OURS, PEERS, HOST, PORT = "{ours}", "{peers}", "{host}", "{port}"
WHERE = ("--host", HOST, "--port", PORT)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One point of a sweep: the framework's batching. Servers that batch by themselves, or not at all, have one."""

    max_batch: int | None = None
    wait_ms: float | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What peers read, see peers/tagger.py."""
        pairs = {"PEER_MAX_BATCH": self.max_batch, "PEER_WAIT_MS": self.wait_ms}
        return {name: f"{value:g}" for name, value in pairs.items() if value is not None}

    def __str__(self) -> str:
        parts = [] if self.max_batch is None else [f"batch {self.max_batch}"]
        return ", ".join(parts + ([] if self.wait_ms is None else [f"wait {self.wait_ms:g} ms"]))


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One server under test."""

    name: str
    title: str
    command: Sequence[str]
    ready: str
    path: str
    body: Callable[[str], Any]
    read: Callable[[Any], Tags]  # what of its answer is compared
    settings: Sequence[Setting] = (Setting(),)
    environment: Mapping[str, str] = field(default_factory=dict)
    ours: bool = False
    variant: str = "fp32"
    package: str = ""  # whose version belongs to the figures

    def encode(self, text: str) -> bytes:
        return json.dumps(self.body(text), ensure_ascii=False).encode()

    def words(self, places: Mapping[str, str]) -> list[str]:
        """The command with its interpreters, host and port filled in."""
        return [word.format_map(places) for word in self.command]


def grid(batches: Sequence[int], waits_ms: Sequence[float | None]) -> tuple[Setting, ...]:
    return tuple(Setting(max_batch=batch, wait_ms=wait_ms) for batch in batches for wait_ms in waits_ms)


def plain_body(text: str) -> Any:
    return {"inputs": text}


def list_body(text: str) -> Any:
    """The same input as a batchable BentoML method wants it: a list of one."""
    return {"inputs": [text]}


def v2_body(text: str) -> Any:
    """Open Inference Protocol V2: one BYTES tensor of one string."""
    return {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [text]}]}


def plain_tags(answer: Any) -> Tags:
    return [(tag.get("entity", tag.get("entity_group")), tag["word"]) for tag in answer]


def list_tags(answer: Any) -> Tags:
    return plain_tags(answer[0])


def v2_tags(answer: Any) -> Tags:
    return plain_tags(json.loads(answer["outputs"][0]["data"][0]))


def _program(module: str) -> tuple[str, ...]:
    return (PEERS, "-m", f"loadtest.peers.{module}", *WHERE)


def _uvicorn(module: str) -> tuple[str, ...]:
    return (PEERS, "-m", "uvicorn", f"loadtest.peers.{module}:app", "--no-access-log", "--log-level", "warning", *WHERE)


def _bento(service: str) -> tuple[str, ...]:
    return (OURS, "-m", "bentoml", "serve", service, *WHERE)


def _seqserve(variant: str) -> Entry:
    return Entry(
        name=f"seqserve-{variant}",
        package="bentoml",
        title=f"seqserve {variant}",
        command=_bento("service.app:Seqserve"),
        ready="/readyz",
        path="/v1/tag",
        body=plain_body,
        read=plain_tags,
        environment={"SEQSERVE_VARIANT": variant},
        ours=True,
        variant=variant,
    )


def _fastapi(route: str, title: str) -> Entry:
    return Entry(
        name=f"fastapi-{route}",
        package="fastapi",
        title=title,
        command=_uvicorn("fastapi_onnxruntime"),
        ready="/readyz",
        path=f"/{route}",
        body=plain_body,
        read=plain_tags,
    )


OURS_FIRST: tuple[Entry, ...] = (_seqserve("fp32"), _seqserve("int8"))  # what they answer is the reference
DEFAULT = "seqserve-int8"  # what ours serves where nothing is set
# The peers serve fp32, the file that both sides have: the best of them is measured with int8 as well.
CATALOGUE: tuple[Entry, ...] = (
    *OURS_FIRST,
    Entry(
        name="mosec",
        package="mosec",
        title="mosec",
        command=(PEERS, "-m", "loadtest.peers.mosec_worker", "--address", HOST, "--port", PORT),
        ready="/",
        path="/inference",
        body=plain_body,
        read=plain_tags,
        settings=(*grid([4, 8, 12, 16, 32], [1]), Setting(max_batch=32, wait_ms=5)),
    ),
    Entry(
        name="starlette",
        package="starlette",
        title="Starlette + batcher",
        command=_uvicorn("starlette_batcher"),
        ready="/readyz",
        path="/tag",
        body=plain_body,
        read=plain_tags,
        settings=(*grid([4, 8, 16, 32], [0]), *grid([8, 32], [2])),
    ),
    _fastapi("def", "FastAPI def, no batching"),
    _fastapi("async", "FastAPI async, no batching"),
    Entry(
        name="mlserver",
        package="mlserver",
        title="MLServer",
        command=_program("mlserver_runtime"),
        ready="/v2/models/tagger/ready",
        path="/v2/models/tagger/infer",
        body=v2_body,
        read=v2_tags,
        settings=grid([4, 8, 32], [1, 5]),
    ),
    Entry(
        name="litserve",
        package="litserve",
        title="LitServe",
        command=_program("litserve_api"),
        ready="/health",
        path="/predict",
        body=plain_body,
        read=plain_tags,
        settings=(*grid([4, 8, 32], [0]), *grid([8, 32], [2]), Setting(max_batch=32, wait_ms=5)),
    ),
    Entry(
        name="bentoml",
        package="bentoml",
        title="BentoML batchable",
        command=_bento("loadtest.peers.bentoml_batchable:Tags"),
        ready="/readyz",
        path="/tag",
        body=list_body,
        read=list_tags,
        settings=grid([8, 16, 32, 100], [None]),  # it adapts its wait by itself
    ),
    Entry(
        name="ray",
        package="ray",
        title="Ray Serve",
        command=_program("ray_serve"),
        ready="/-/healthz",
        path="/",
        body=plain_body,
        read=plain_tags,
        settings=grid([8, 32], [0, 2]),
        environment={"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_DEDUP_LOGS": "0"},
    ),
)


def on_int8(entry: Entry) -> Entry:
    """The same server with the other file."""
    return replace(entry, name=f"{entry.name}-int8", title=f"{entry.title} int8", variant="int8")


def select(names: str | None) -> list[Entry]:
    """The entries of a comma-separated list, `seqserve` meaning both of ours; LookupError for a name that is none."""
    if names is None:
        return list(CATALOGUE)
    asked = [name.strip() for name in names.split(",")]
    if strange := set(asked) - {entry.name for entry in CATALOGUE} - {"seqserve"}:
        raise LookupError(f"--only: no server is called {', '.join(sorted(strange))}: there are {known()}")
    return [entry for entry in CATALOGUE if entry.name in asked or (entry.ours and "seqserve" in asked)]


def known() -> str:
    return ", ".join(("seqserve", *(entry.name for entry in CATALOGUE)))
