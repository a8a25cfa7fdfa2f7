"""Where `loadtest limits` measures: a service with some settings, its requests, and the reference in process.

Knows HTTP and programs. What is measured with them is limits_parts.py's affair.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from loadtest import payloads
from loadtest.bench_server import TOKENS
from loadtest.closed_loop import Drive, drive, free_port, run_loop
from loadtest.server import Server, serving
from loadtest.wire import Address, fetch, request_bytes

TEXTS = 2000
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

    @cached_property
    def defaults(self) -> Mapping[str, Path]:
        """The bundle that answers a request of each task which names none: not every one has every variant."""
        with self.serving() as service:
            cards = payloads.by_task(payloads.read_cards(service.address.url))
        return {task: self.zoo / card.id for task, card in cards.items()}

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

    @contextmanager
    def reference(self, what: str, model: str, variant: str, asked: Any) -> Iterator["Reference"]:
        """in_process.py, on the server's core. Raises LookupError if it fails."""
        with (self.folder / "reference.log").open("w+") as log:
            process = subprocess.Popen(
                [self.python, "-m", "loadtest.peers.in_process", what],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PEER_BUNDLE": str(self.zoo / model), "PEER_VARIANT": variant},
                preexec_fn=lambda: os.sched_setaffinity(0, {self.server_core}),
                text=True,
            )
            with process:
                try:
                    yield Reference(process, Path(log.name), asked)
                finally:
                    process.kill()


class Reference:
    """What the network does in process: `about` was told once, `turn` is taken again and again."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path, asked: Any) -> None:
        self._process, self._log = process, log
        self.about = self._ask(asked)

    def turn(self) -> Figures:
        """Figures of half a second or so."""
        return self._ask("again")

    def _ask(self, what: Any) -> Figures:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            print(json.dumps(what), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise LookupError(f"the reference in process has failed:\n{self._log.read_text()[-2000:]}")
        figures: Figures = json.loads(line)
        return figures


@dataclass(frozen=True, kw_only=True)
class Service:
    """A running service and the requests that it gets."""

    address: Address
    server: Server
    seed: int

    def model(self, task: str) -> payloads.Card:
        """The model that answers a request which names none."""
        return payloads.by_task(payloads.read_cards(self.address.url))[task]

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
