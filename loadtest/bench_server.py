"""One server of the bench: started on its core, compared with the reference, loaded, measured.

Knows what a measurement is. Leaves which servers, settings and loads there are to bench.py.
"""

import asyncio
import contextlib
import json
import os
import re
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from loadtest.catalogue import Entry, Setting, Tags
from loadtest.closed_loop import drive, free_port, run_loop
from loadtest.open_loop import drive_open
from loadtest.server import Server, serving
from loadtest.wire import Address, Connection, fetch, request_bytes

ANSWER_TIMEOUT_S = 30.0
START_TIMEOUT_S = 120.0
POLL_S = 0.2
# What a server's failure looks like from here; anything else is a bug of the bench.
FAILURES = (RuntimeError, OSError, ValueError, LookupError, TypeError)
TOKENS = re.compile(r'^seqserve_(padded|processed)_tokens_total\{[^}]*model="([^"]*)"[^}]*\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What all measurements have in common."""

    texts: Sequence[str]
    model: str
    zoo: Path
    folder: Path  # of logs and what servers leave
    places: Mapping[str, str]  # the interpreters that commands name
    server_core: int
    versions: Mapping[str, str] = field(default_factory=dict)  # of packages, for the file


@dataclass(frozen=True, kw_only=True)
class Closed:
    """One closed loop against one server."""

    connections: int
    per_s: float
    p50_ms: float
    p99_ms: float
    failed: int
    cpu_ms_per_request: float
    padding_waste: float | None  # padding over all tokens that were computed; None where nobody counts them
    foreign_share: float  # of the server's core, taken by processes that are not the server's


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server that is ready."""

    entry: Entry
    address: Address
    server: Server
    requests: Sequence[bytes]
    stats: Path
    model: str
    core: int

    def closed(self, *, connections: int, seconds: float) -> Closed:
        """Load it with a closed loop; ConnectionError when it answers nothing."""
        tokens, before = self._tokens(), self._clocks()  # to count the tokens is work of the server's, too
        seen = run_loop(drive(self.address, self.requests, connections=connections, seconds=seconds))
        wall_s, cpu_s, core_s = (now - then for now, then in zip(self._clocks(), before, strict=True))
        if not seen.latencies_ms:
            raise ConnectionError(f"{self.entry.name} has answered nothing: {dict(seen.statuses)}")
        return Closed(
            connections=connections,
            per_s=seen.per_s,
            p50_ms=seen.percentile_ms(50),
            p99_ms=seen.percentile_ms(99),
            failed=seen.failed,
            cpu_ms_per_request=cpu_s * 1000 / seen.answers,
            padding_waste=waste(tokens, self._tokens()),
            foreign_share=max(0.0, core_s - cpu_s) / wall_s,
        )

    def open(self, *, rate_per_s: float, seconds: float, seed: int) -> dict[str, Any]:
        """Load it with an open loop; its summary with what it cost."""
        before = self._clocks()
        seen = run_loop(drive_open(self.address, self.requests, rate_per_s=rate_per_s, seconds=seconds, seed=seed))
        wall_s, cpu_s, core_s = (now - then for now, then in zip(self._clocks(), before, strict=True))
        return {
            **seen.summary(),
            "cpu_share": cpu_s / wall_s,
            "foreign_share": max(0.0, core_s - cpu_s) / wall_s,
        }

    def ask(self, count: int) -> list[bytes]:
        """The answers to the first `count` texts, one after the other; ValueError for a status that is not 200."""
        return run_loop(self._ask(count))

    async def _ask(self, count: int) -> list[bytes]:
        connection, bodies = await Connection.open(self.address), []
        try:
            for request in self.requests[:count]:
                reply = await connection.ask(request, timeout_s=ANSWER_TIMEOUT_S)
                if reply.status != 200:
                    raise ValueError(f"{self.entry.name} answered {reply.status}: {reply.body[:200]!r}")
                bodies.append(reply.body)
        finally:
            connection.close()
        return bodies

    def compare(self, expected: Sequence[Tags]) -> None:
        """ValueError unless it gives the tags of the reference: it would not do the same work."""
        for body, right in zip(self.ask(len(expected)), expected, strict=True):
            if (tags := self.entry.read(json.loads(body))) != right:
                raise ValueError(f"{self.entry.name} does other work: {tags} where seqserve answers {right}")

    def _clocks(self) -> tuple[float, float, float]:
        """Seconds of the wall, of the server's processes, and of its core's work for whomever."""
        times = psutil.cpu_times(percpu=True)[self.core]
        core_s = sum(times) - times.idle - times.iowait - times.guest - times.guest_nice  # guests count as user, too
        return time.perf_counter(), self.server.cpu_s(), core_s

    def _tokens(self) -> tuple[int, int]:
        """(padded, real) tokens of all batches so far, zeros where nobody has counted any."""
        if self.entry.ours:
            lines = TOKENS.findall(fetch(f"{self.address.url}/metrics").body.decode())
            found = {kind: int(float(count)) for kind, model, count in lines if model == self.model}
            return found.get("padded", 0), found.get("processed", 0)
        content = self.stats.read_bytes()
        padded, real = struct.unpack("<QQ", content) if content else (0, 0)
        return padded, real


def waste(before: tuple[int, int], after: tuple[int, int]) -> float | None:
    """Padding over padded tokens between two counts of (padded, real) tokens; None where none were counted."""
    padded, real = (late - early for late, early in zip(after, before, strict=True))
    return 1 - real / padded if padded > 0 else None


@contextlib.contextmanager
def running(entry: Entry, setting: Setting, ground: Ground) -> Iterator[Running]:
    """Start a server with one setting of its batching, pinned to the server's core; stop it on the way out."""
    address = Address(host="127.0.0.1", port=free_port())
    stats = ground.folder / "bench-stats.bin"
    stats.parent.mkdir(parents=True, exist_ok=True)
    stats.write_bytes(b"")
    places = {**ground.places, "host": address.host, "port": str(address.port)}
    environment = {
        "BENTOML_HOME": os.path.abspath(ground.folder / "bentoml" / "bench"),
        "PEER_BUNDLE": str(ground.zoo / ground.model),
        "PEER_VARIANT": entry.variant,
        "PEER_STATS": os.path.abspath(stats),
        **entry.environment,
        **setting.environment,
    }
    if entry.ours and ground.model:  # not every bundle of the zoo has every variant
        environment["SEQSERVE_BUNDLES"] = str(ground.zoo / ground.model)
    with serving(
        entry.words(places),
        address,
        log=ground.folder / f"bench-{entry.name}.log",
        core=ground.server_core,
        environment=environment,
        ready=entry.ready,
        timeout_s=START_TIMEOUT_S,
    ) as server:
        requests = [request_bytes(address, entry.path, entry.encode(text)) for text in ground.texts]
        run_loop(_until_answered(address, requests[0]))
        yield Running(
            entry=entry,
            address=address,
            server=server,
            requests=requests,
            stats=stats,
            model=ground.model,
            core=ground.server_core,
        )


async def _until_answered(address: Address, request: bytes) -> None:
    """Some servers say that they are ready before their model is; TimeoutError when it never answers 200."""
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        while True:
            connection = await Connection.open(address)
            try:
                if (await connection.ask(request, timeout_s=ANSWER_TIMEOUT_S)).status == 200:
                    return
            finally:
                connection.close()
            await asyncio.sleep(POLL_S)
