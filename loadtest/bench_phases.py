"""The measurements of `bench`, in order: reference answers, sweeps, closed loops, turns, open loops, generation.

The report is written after each server, so a peer that breaks does not affect the others.
"""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from loadtest import bench_report, bench_servers
from loadtest.bench_report import COMPARED_AT, COMPARED_FIGURES, alternate, ratio_quartiles
from loadtest.bench_servers import (
    SERVER_ERRORS,
    BatchSetting,
    BenchContext,
    BenchServer,
    ClosedLoopFigures,
    RunningServer,
    Tags,
    peer_uvicorn,
    run_server,
    seqserve,
)
from loadtest.http_client import ServiceAddress, encode_requests
from loadtest.load_loops import measure_ceiling, run_loop, send_all

SAME_ANSWERS = 50  # texts whose answers are compared before a measurement
CEILING_S = 5.0
OWN_SHARE = 0.7  # an extra rate for our servers, as a share of their own capacity
TURN_S = 1.0
TURN_SHARE = 0.7  # of the peer's throughput: the common rate of open loops in turns
TURN_FIGURES = ("p50_ms", "p99_ms")
STREAMS, NEW_TOKENS, TEMPERATURE = 64, 200, 0.8
PROMPT = "ROMEO:"
TEXT_TIMEOUT_S = 300.0
WARMUP_TEXTS = 4
Chosen = Sequence[tuple[BenchServer, BatchSetting]]


@dataclass(frozen=True, kw_only=True)
class BenchPlan:
    """How much is measured."""

    seconds: float = 5.0  # of one measurement
    sweep_seconds: float = 3.0
    rounds: int = 3
    connections: Sequence[int] = (1, 4, 16, 32, 64)
    shares: Sequence[float] = (0.3, 0.6, 0.9)  # rates of the open loops, of the best peer's capacity
    points: int | None = None  # settings of a sweep; None for all
    pairs: int = 15  # runs in turns
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class BenchStage:
    """What every phase gets. `say` prints a line; `save` writes the report."""

    plan: BenchPlan
    context: BenchContext
    result: dict[str, Any]
    say: Callable[[str], None]
    save: Callable[[], None]

    @property
    def servers(self) -> dict[str, dict[str, Any]]:
        servers: dict[str, dict[str, Any]] = self.result.setdefault("servers", {})
        return servers


def measure_requests(stage: BenchStage, servers: Sequence[BenchServer], ours: Sequence[BenchServer]) -> None:
    """Run all phases on `servers`, and on the best peer also with the int8 file. The answers of `ours` are expected."""
    stage.result["model"] = stage.context.model
    expected = {}
    for server in ours:
        with run_server(server, BatchSetting(), stage.context) as up:
            bodies = up.ask(SAME_ANSWERS)
        expected[server.variant] = [server.read(json.loads(body)) for body in bodies]
        reply_bytes = sum(map(len, bodies)) // len(bodies)  # the same for both variants, except digits
    found = [(server, sweep(stage, server, expected[server.variant])) for server in servers]
    if (best := bench_report.best_peer(stage.servers)) is not None:
        again = bench_servers.with_int8(next(server for server in servers if server.name == best))
        found.append((again, sweep(stage, again, expected[again.variant])))
    chosen = [(server, setting) for server, setting in found if setting is not None]
    closed_rounds(stage, chosen)
    turns(stage, chosen)
    open_loops(stage, chosen)
    stage.result["client_ceiling_per_s"] = _ceiling(stage, ours[0], reply_bytes)
    stage.save()


def _ceiling(stage: BenchStage, server: BenchServer, reply_bytes: int) -> float:
    """Return the requests/s of the client against a server that does no work."""
    address = ServiceAddress(host="127.0.0.1", port=1)
    bodies = map(server.body, stage.context.texts)
    requests = encode_requests(address, server.path, bodies, constant_headers=stage.context.constant_headers)
    return measure_ceiling(
        requests,
        connections=COMPARED_AT,
        seconds=min(CEILING_S, stage.plan.seconds),
        core=stage.context.server_core,
        reply_bytes=reply_bytes,
    ).per_s


def sweep(stage: BenchStage, server: BenchServer, expected: Sequence[Tags]) -> BatchSetting | None:
    """Check the answers, try the settings, and return the best one; None if the server does not work."""
    points: list[dict[str, Any]] = []
    found = stage.servers[server.name] = {
        "title": server.title,
        "of": server.name.removesuffix("-int8"),
        "ours": server.ours,
        "variant": server.variant,
        "version": stage.context.versions.get(server.package, ""),
        "command": " ".join(server.command),
        "sweep": points,
        "closed": [],
        "open": [],
    }
    settings = server.settings[: stage.plan.points]
    for setting in settings:
        point: dict[str, Any] = {"setting": str(setting), **asdict(setting)}
        try:
            with run_server(server, setting, stage.context) as up:
                up.compare(expected)
                point |= asdict(up.run_closed(connections=COMPARED_AT, seconds=stage.plan.sweep_seconds))
            line = f"{point['per_s']:,.0f} requests/s, p99 {point['p99_ms']:.1f} ms"
        except SERVER_ERRORS as error:
            point["error"] = str(error)
            line = str(error).partition("\n")[0]
        points.append(point)
        stage.say(f"{server.name}: {point['setting'] or 'default'}: {line}")
    best = bench_report.best_setting(points)
    if best is None:
        found["error"] = next((point["error"] for point in points if "error" in point), "every setting has failures")
    else:
        found["setting"] = best["setting"]
    stage.save()
    return next((setting for setting in settings if best is not None and str(setting) == best["setting"]), None)


def closed_rounds(stage: BenchStage, chosen: Chosen) -> None:
    """Run closed loops at each number of connections. Every round has all servers, in alternating order."""
    for number in range(1, stage.plan.rounds + 1):
        for server, setting in chosen if number % 2 else reversed(chosen):
            found = stage.servers[server.name]
            if "error" in found:
                stage.say(f"round {number}: {server.name}: skipped")
                continue
            loops: list[ClosedLoopFigures] = []
            try:
                with run_server(server, setting, stage.context) as up:
                    for connections in stage.plan.connections:
                        loops.append(up.run_closed(connections=connections, seconds=stage.plan.seconds))
            except SERVER_ERRORS as error:
                found["error"] = f"round {number}: {error}"
            found["closed"] += [{"round": number, **asdict(loop)} for loop in loops]
            found["medians"] = bench_report.medians(found["closed"])
            line = "; ".join(f"{loop.connections}: {loop.per_s:,.0f}/s" for loop in loops)
            stage.say(f"round {number}: {server.name}: {line}")
            stage.save()


def turns(stage: BenchStage, chosen: Chosen) -> None:
    """Compare ours and the best peer of each variant in turns, and our default with the best peer."""
    by_name = {server.name: (server, setting) for server, setting in chosen}
    best = {variant: bench_report.best_peer(stage.servers, variant) for variant in ("fp32", "int8")}
    pairs = [(f"seqserve-{variant}", peer) for variant, peer in best.items()] + [(bench_servers.DEFAULT, best["fp32"])]
    stage.result["turns"] = []
    for ours, peer in pairs:
        if ours not in by_name or peer not in by_name:
            continue
        try:
            found = compare_in_turns(stage.context, by_name[ours], by_name[peer], pairs=stage.plan.pairs)
        except SERVER_ERRORS as error:
            stage.say(f"in turns: {ours} and {peer}: {error}")
            continue
        stage.result["turns"].append(found)
        (lower, upper), ratios, at_rate = found["quartiles"]["per_s"], found["ratios"], found["at_rate"]
        stage.say(
            f"in turns: {ours} / {peer}: requests/s {ratios['per_s']:.2f} ({lower:.2f} to {upper:.2f}), "
            f"p99 {ratios['p99_ms']:.2f}; both at {at_rate['rate_per_s']:,.0f} requests/s: "
            f"p99 {at_rate['ratios']['p99_ms']:.2f}"
        )
        stage.save()


def compare_in_turns(
    context: BenchContext,
    ours: tuple[BenchServer, BatchSetting],
    peer: tuple[BenchServer, BatchSetting],
    *,
    pairs: int,
) -> dict[str, Any]:
    """Load two servers on one core in turns, and return the ratios of neighboring runs.

    On a shared machine, runs that are minutes apart compare the minutes. First in a closed loop, whose latency mostly
    restates its throughput (Little's law). Then at a common rate of Poisson arrivals. The idle server uses almost
    nothing of the core; `idle_share` is how much. Raises ConnectionError if a server answers nothing.
    """
    with run_server(*ours, context) as mine, run_server(*peer, context) as theirs:

        def closed(up: RunningServer, _: int) -> ClosedLoopFigures:
            return up.run_closed(connections=COMPARED_AT, seconds=TURN_S)

        found = alternate(closed, mine, theirs, pairs)
        rate_per_s = TURN_SHARE * statistics.median(other.per_s for _, other in found)
        opened = alternate(partial(_open_turn, rate_per_s), mine, theirs, pairs)
    return {
        "ours": ours[0].name,
        "peer": peer[0].name,
        "variant": ours[0].variant,
        "connections": COMPARED_AT,
        **_ratios([(asdict(one), asdict(other)) for one, other in found], COMPARED_FIGURES),
        "idle_share": statistics.median(run.foreign_share for pair in found for run in pair),
        "at_rate": {"rate_per_s": rate_per_s, "share": TURN_SHARE, **_ratios(opened, TURN_FIGURES)},
    }


def _open_turn(rate_per_s: float, up: RunningServer, seed: int) -> dict[str, Any]:
    found = up.run_open(rate_per_s=rate_per_s, seconds=TURN_S, seed=seed)
    if found["ok"] is None:
        raise ConnectionError(f"{up.server.name} answered none of {rate_per_s:.0f} requests/s: {found}")
    return {
        **{figure: found["ok"][figure] for figure in TURN_FIGURES},
        **{key: found[key] for key in ("goodput_per_s", "statuses", "unanswered")},
    }


def _ratios(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], figures: Sequence[str]) -> dict[str, Any]:
    spread = ratio_quartiles(pairs, figures)
    return {
        "ratios": {figure: middle for figure, (_, middle, _) in spread.items()},
        "quartiles": {figure: (lower, upper) for figure, (lower, _, upper) in spread.items()},
        "pairs": [{"ours": one, "peer": other} for one, other in pairs],
    }


def open_loops(stage: BenchStage, chosen: Chosen) -> None:
    """Load every server at shares of the best peer's capacity, and ours also at a share of its own."""
    peer = bench_report.best_peer(stage.servers)
    common = [round(capacity(stage.servers[peer]) * share) for share in stage.plan.shares] if peer else []
    for server, setting in chosen:
        found = stage.servers[server.name]
        own = capacity(found)
        if "error" in found or not own:
            stage.say(f"open loop: {server.name}: skipped")
            continue
        rates = sorted({*common, *([round(own * OWN_SHARE)] if server.ours else [])})
        try:
            with run_server(server, setting, stage.context) as up:
                for rate in rates:
                    # Over its capacity the queue only grows, and latency measures the length of the load.
                    if rate > own:
                        found["open"].append({"rate_per_s": rate, "skipped": "over its capacity"})
                        continue
                    found["open"].append(up.run_open(rate_per_s=rate, seconds=stage.plan.seconds, seed=stage.plan.seed))
        except SERVER_ERRORS as error:
            found["error"] = f"open loop: {error}"
        stage.say(f"open loop: {server.name}: at {', '.join(f'{rate:,}' for rate in rates)} requests/s")
        stage.save()


def capacity(server: Mapping[str, Any]) -> float:
    """Return the highest median requests/s of the closed loops."""
    return max((float(row["per_s"]) for row in server.get("medians", ())), default=0.0)


def our_body(prompt: str) -> Any:
    return {"inputs": prompt, "parameters": {"max_new_tokens": NEW_TOKENS, "temperature": TEMPERATURE}}


def loop_body(prompt: str) -> Any:
    return {"inputs": prompt, "max_new_tokens": NEW_TOKENS, "temperature": TEMPERATURE}


def generation_servers(checkpoint: Path) -> list[BenchServer]:
    """Return our variants and three forms of the usual PyTorch loop; without a checkpoint its weights are random."""
    loop = BenchServer(
        name="torch-loop",
        title="PyTorch loop",
        command=peer_uvicorn("torch_loop:app"),
        ready="/readyz",
        path="/generate",
        body=loop_body,
        read=read_text,
        environment={"PEER_CHECKPOINT": str(checkpoint)} if checkpoint.exists() else {},
    )
    tuned = {**loop.environment, "PEER_ONEDNN": "0"}
    queued = {**tuned, "PEER_AT_ONCE": "0"}
    return [
        *(seqserve(variant, "/v1/generate", our_body, read_text) for variant in ("fp32", "int8")),
        loop,
        replace(loop, name="torch-loop-tuned", title="PyTorch loop, oneDNN off", environment=tuned),
        replace(loop, name="torch-loop-queued", title="PyTorch loop, oneDNN off, one by one", environment=queued),
    ]


def read_text(answer: Any) -> Tags:
    """Return the text. Raises ValueError unless it has the requested length."""
    text = answer["generated_text"]
    if len(text) != NEW_TOKENS:
        raise ValueError(f"{len(text)} characters were generated, not {NEW_TOKENS}")
    return [("text", text)]


def measure_generation(stage: BenchStage, checkpoint: Path, *, ours_only: bool) -> None:
    """Measure many texts at once and one alone on each server, `rounds` times."""
    results: dict[str, dict[str, Any]] = {}
    stage.result["generate"] = {
        "model": stage.context.model,
        "streams": STREAMS,
        "tokens": NEW_TOKENS,
        "servers": results,
    }
    context = replace(stage.context, texts=[PROMPT] * STREAMS)
    for server in generation_servers(checkpoint):
        if ours_only and not server.ours:
            continue
        weights = "fp32, checkpoint" if "PEER_CHECKPOINT" in server.environment else "fp32, random"
        found = results[server.name] = {
            "title": server.title,
            "ours": server.ours,
            "weights": server.variant if server.ours else weights,
        }
        try:
            with run_server(server, BatchSetting(), context) as up:
                for body in up.ask(WARMUP_TEXTS):
                    server.read(json.loads(body))
                rounds = [_generation_round(up) for _ in range(stage.plan.rounds)]
        except SERVER_ERRORS as error:
            found["error"] = str(error)
            stage.say(f"generation: {server.name}: {str(error).splitlines()[0]}")
        else:
            found["rounds"] = rounds
            found["median"] = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
            stage.say(f"generation: {server.name}: {found['median']['tokens_per_s']:,.0f} tokens/s")
        stage.save()


def _generation_round(up: RunningServer) -> dict[str, float]:
    before_s = up.process.cpu_s()
    seconds, slowest_s = _burst(up, STREAMS)
    cpu_s = up.process.cpu_s() - before_s
    return {
        "tokens_per_s": STREAMS * NEW_TOKENS / seconds,
        "slowest_s": slowest_s,
        "cpu_ms_per_1000_tokens": cpu_s * 1e6 / (STREAMS * NEW_TOKENS),
        "alone_tokens_per_s": NEW_TOKENS / _burst(up, 1)[0],
    }


def _burst(up: RunningServer, count: int) -> tuple[float, float]:
    """Request `count` texts at once; return the seconds until the last reply, and those of the slowest text."""
    load = send_all(up.process.address, up.requests[:count], connections=count, timeout_s=TEXT_TIMEOUT_S)
    found = run_loop(load)
    if found.failed:
        raise ValueError(f"{up.server.name}: of {count} texts, {found.failed} failed: {dict(found.statuses)}")
    return found.seconds, max(found.latencies_ms) / 1000
