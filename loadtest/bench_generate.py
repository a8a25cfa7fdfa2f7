"""The generation part of the bench: many texts at once through /v1/generate and through the usual PyTorch loop.

All requests are sent at the same moment and the clock stops with the last answer, so that tokens/s is what was
written over the time it took, without a window whose edges cut texts. What is written is sampled and is not compared;
that it has the length asked for is checked.
"""

import asyncio
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loadtest.bench_phases import Stage
from loadtest.bench_server import FAILURES, Running, running
from loadtest.catalogue import OURS, PEERS, WHERE, Entry, Setting
from loadtest.closed_loop import run_loop
from loadtest.wire import Connection

STREAMS, TOKENS, TEMPERATURE = 64, 200, 0.8
PROMPT = "ROMEO:"
TEXT_TIMEOUT_S = 300.0
WARMUP_TEXTS = 4


@dataclass(frozen=True, kw_only=True)
class Burst:
    """Texts that were asked for at once, all of them written."""

    seconds: float
    slowest_s: float
    cpu_s: float


def our_body(prompt: str) -> Any:
    return {"inputs": prompt, "parameters": {"max_new_tokens": TOKENS, "temperature": TEMPERATURE}}


def loop_body(prompt: str) -> Any:
    return {"inputs": prompt, "max_new_tokens": TOKENS, "temperature": TEMPERATURE}


def entries(checkpoint: Path) -> list[Entry]:
    """Ours with both files, and the loop as it is usually written and tuned; with random weights for want of a file."""
    ours = Entry(
        name="seqserve-fp32",
        title="seqserve fp32",
        command=(OURS, "-m", "bentoml", "serve", "service.app:Seqserve", *WHERE),
        ready="/readyz",
        path="/v1/generate",
        body=our_body,
        read=written,
        environment={"SEQSERVE_VARIANT": "fp32"},
        ours=True,
    )
    quantised = replace(
        ours, name="seqserve-int8", title="seqserve int8", environment={"SEQSERVE_VARIANT": "int8"}, variant="int8"
    )
    loop = Entry(
        name="torch-loop",
        title="PyTorch loop",
        command=(PEERS, "-m", "uvicorn", "loadtest.peers.torch_loop:app", "--log-level", "warning", *WHERE),
        ready="/readyz",
        path="/generate",
        body=loop_body,
        read=written,
        environment={"PEER_CHECKPOINT": str(checkpoint)} if checkpoint.exists() else {},
    )
    tuned = replace(
        loop,
        name="torch-loop-tuned",
        title="PyTorch loop, oneDNN off",
        environment={**loop.environment, "PEER_ONEDNN": "0"},
    )
    queued = replace(
        tuned,
        name="torch-loop-queued",
        title="PyTorch loop, oneDNN off, one by one",
        environment={**tuned.environment, "PEER_AT_ONCE": "0"},
    )
    return [ours, quantised, loop, tuned, queued]


def written(answer: Any) -> list[tuple[str, str]]:
    """Not tags: the text; ValueError unless it has the length that was asked for."""
    text = answer["generated_text"]
    if len(text) != TOKENS:
        raise ValueError(f"{len(text)} characters were generated, not {TOKENS}")
    return [("text", text)]


def weights(entry: Entry) -> str:
    if entry.ours:
        return entry.variant
    return "fp32, checkpoint" if "PEER_CHECKPOINT" in entry.environment else "fp32, random"


def measure_generation(stage: Stage, checkpoint: Path) -> None:
    """Every server in turn, `rounds` times while it runs."""
    servers: dict[str, dict[str, Any]] = {}
    stage.result["generate"] = {"model": stage.ground.model, "streams": STREAMS, "tokens": TOKENS, "servers": servers}
    ground = replace(stage.ground, texts=[PROMPT])
    for entry in entries(checkpoint):
        found = servers[entry.name] = {"title": entry.title, "ours": entry.ours, "weights": weights(entry)}
        try:
            with running(entry, Setting(), ground) as up:
                burst(up, WARMUP_TEXTS)
                rounds = found["rounds"] = [_round(up) for _ in range(stage.plan.rounds)]
        except FAILURES as error:
            found["error"] = str(error)
            stage.say(f"generation: {entry.name}: {str(error).splitlines()[0]}")
        else:
            median = found["median"] = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
            stage.say(f"generation: {entry.name}: {median['tokens_per_s']:,.0f} tokens/s")
        stage.save()


def _round(server: Running) -> dict[str, float]:
    together, alone = burst(server, STREAMS), burst(server, 1)
    return {
        "tokens_per_s": STREAMS * TOKENS / together.seconds,
        "slowest_s": together.slowest_s,
        "cpu_ms_per_1000_tokens": together.cpu_s * 1e6 / (STREAMS * TOKENS),
        "alone_tokens_per_s": TOKENS / alone.seconds,
    }


def burst(server: Running, count: int) -> Burst:
    """Ask for `count` texts at once; ValueError for a wrong answer."""
    before_s = server.server.cpu_s()
    seconds, slowest_s = run_loop(_ask_at_once(server, count))
    return Burst(seconds=seconds, slowest_s=slowest_s, cpu_s=server.server.cpu_s() - before_s)


async def _ask_at_once(server: Running, count: int) -> tuple[float, float]:
    connections = [await Connection.open(server.address) for _ in range(count)]
    try:
        began_s = time.perf_counter()
        times = await asyncio.gather(*(_ask(server, connection) for connection in connections))
        return time.perf_counter() - began_s, max(times)
    finally:
        for connection in connections:
            connection.close()


async def _ask(server: Running, connection: Connection) -> float:
    began_s = time.perf_counter()
    reply = await connection.ask(server.requests[0], timeout_s=TEXT_TIMEOUT_S)
    if reply.status != 200:
        raise ValueError(f"{server.entry.name} answered {reply.status}: {reply.body[:200]!r}")
    server.entry.read(reply.json())
    return time.perf_counter() - began_s
