"""What `limits` measures with: the service with given settings, its requests, and the in-process reference."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from loadtest import bench_servers, payloads
from loadtest.http_client import ServiceAddress, encode_requests, fetch
from loadtest.load_loops import ClosedLoopResult, closed_loop, run_loop
from loadtest.payloads import ServedModel
from loadtest.service_process import ServiceProcess, start_seqserve

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
