"""The bench over tagging: reference, sweeps, closed loops in rounds, open loops at common rates, the client's ceiling.

Takes servers one at a time and writes what it found into the result, which is saved after each of them. Knows what is
measured in which order; how, is bench_server.py's affair.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loadtest import bench_report, catalogue
from loadtest.bench_report import COMPARED_AT
from loadtest.bench_server import FAILURES, Closed, Ground, running
from loadtest.bench_turns import compare_in_turns, told
from loadtest.catalogue import Entry, Setting, Tags
from loadtest.closed_loop import measure_ceiling
from loadtest.wire import Address, request_bytes

SAME_ANSWERS = 50  # texts whose answers are compared before anything is measured
CEILING_S = 5.0
OWN_SHARE = 0.7  # of our own capacity: a rate at which ours is asked besides those for all
Chosen = Sequence[tuple[Entry, Setting]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured."""

    seconds: float = 5.0  # of one measurement
    sweep_seconds: float = 3.0
    rounds: int = 3
    connections: Sequence[int] = (1, 4, 16, 32, 64)
    shares: Sequence[float] = (0.3, 0.6, 0.9)  # of the best peer's capacity: the rates of the open loops
    points: int | None = None  # of a sweep; None: all
    pairs: int = 15  # of turns, ours and the best peer's
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What every phase is handed. `say` shows a line, one a server; `save` writes the result."""

    plan: Plan
    ground: Ground
    result: dict[str, Any]
    say: Callable[[str], None]
    save: Callable[[], None]

    @property
    def servers(self) -> dict[str, dict[str, Any]]:
        servers: dict[str, dict[str, Any]] = self.result.setdefault("servers", {})
        return servers


def measure_tagging(stage: Stage, entries: Sequence[Entry]) -> None:
    """All phases over `entries`, and over the best peer once more with the int8 file."""
    stage.result["model"] = stage.ground.model
    expected = {}
    for entry in catalogue.OURS_FIRST:
        with running(entry, Setting(), stage.ground) as up:
            bodies = up.ask(SAME_ANSWERS)
        expected[entry.variant] = [entry.read(json.loads(body)) for body in bodies]
        answer_bytes = sum(map(len, bodies)) // len(bodies)  # of either variant: only scores differ
    found = [(entry, sweep(stage, entry, expected[entry.variant])) for entry in entries]
    if (best := bench_report.best_peer(stage.servers)) is not None:
        again = catalogue.on_int8(next(entry for entry in entries if entry.name == best))
        found.append((again, sweep(stage, again, expected[again.variant])))
    chosen = [(entry, setting) for entry, setting in found if setting is not None]
    closed_rounds(stage, chosen)
    comparisons = (bench_report.comparison(stage.servers, variant) for variant in expected)
    stage.result["comparisons"] = [each for each in comparisons if each is not None]
    in_turns(stage, chosen)
    open_loops(stage, chosen)
    stage.result["client_ceiling_per_s"] = ceiling(stage, answer_bytes=answer_bytes)
    stage.save()


def ceiling(stage: Stage, *, answer_bytes: int) -> float:
    """What the client can do at all, against a server that does not think."""
    entry, address = catalogue.OURS_FIRST[0], Address(host="127.0.0.1", port=1)
    seen = measure_ceiling(
        [request_bytes(address, entry.path, entry.encode(text)) for text in stage.ground.texts],
        connections=COMPARED_AT,
        seconds=min(CEILING_S, stage.plan.seconds),
        core=stage.ground.server_core,
        answer_bytes=answer_bytes,
    )
    return seen.per_s


def sweep(stage: Stage, entry: Entry, expected: Sequence[Tags]) -> Setting | None:
    """Compare its answers, try its settings, return the best; None when it does not work at all."""
    points: list[dict[str, Any]] = []
    server = stage.servers[entry.name] = {
        "title": entry.title,
        "of": entry.name.removesuffix("-int8"),
        "ours": entry.ours,
        "variant": entry.variant,
        "version": stage.ground.versions.get(entry.package, ""),
        "command": " ".join(entry.command),
        "sweep": points,
        "closed": [],
        "open": [],
    }
    settings = entry.settings[: stage.plan.points]
    for setting in settings:
        point: dict[str, Any] = {"setting": str(setting), **asdict(setting)}
        try:
            with running(entry, setting, stage.ground) as up:
                up.compare(expected)
                point |= asdict(up.closed(connections=COMPARED_AT, seconds=stage.plan.sweep_seconds))
        except FAILURES as error:
            point["error"] = str(error)
        points.append(point)
        stage.say(f"{entry.name}: {point['setting'] or 'as it is'}: {_told(point)}")
    best = bench_report.best_setting(points)
    if best is None:
        server["error"] = next((point["error"] for point in points if "error" in point), "every setting has failures")
    else:
        server["setting"] = best["setting"]
    stage.save()
    return next((each for each in settings if best is not None and str(each) == best["setting"]), None)


def closed_rounds(stage: Stage, chosen: Chosen) -> None:
    """Closed loops at every number of connections, all servers in each round, in turned order every other round."""
    for number in range(1, stage.plan.rounds + 1):
        for entry, setting in chosen if number % 2 else reversed(chosen):
            server = stage.servers[entry.name]
            if "error" in server:
                stage.say(f"round {number}: {entry.name}: left out")
                continue
            found: list[Closed] = []
            try:
                with running(entry, setting, stage.ground) as up:
                    for connections in stage.plan.connections:
                        found.append(up.closed(connections=connections, seconds=stage.plan.seconds))
            except FAILURES as error:
                server["error"] = f"round {number}: {error}"
            server["closed"] += [{"round": number, **asdict(each)} for each in found]
            server["medians"] = bench_report.medians(server["closed"])
            stage.say(f"round {number}: {entry.name}: " + "; ".join(_told_of(each) for each in found))
            stage.save()


def in_turns(stage: Stage, chosen: Chosen) -> None:
    """Ours and the best peer once more on each file that both have, side by side; and what ours serves by default."""
    by_name = {entry.name: (entry, setting) for entry, setting in chosen}
    pairs = [(each["ours"], each["peer"]) for each in stage.result["comparisons"]]
    default, peer = catalogue.DEFAULT, bench_report.best_peer(stage.servers)
    if peer is not None and default in by_name and (default, peer) not in pairs:
        pairs.append((default, peer))
    turns = stage.result["turns"] = []
    for ours, theirs in pairs:
        try:
            found = compare_in_turns(stage.ground, by_name[ours], by_name[theirs], pairs=stage.plan.pairs)
        except FAILURES as error:
            stage.say(f"in turns: {ours} and {theirs}: {error}")
            continue
        turns.append(found)
        stage.say(told(found))
        stage.save()


def open_loops(stage: Stage, chosen: Chosen) -> None:
    """Every server at shares of the best peer's capacity; ours at a share of its own, too."""
    peer = bench_report.best_peer(stage.servers)
    common = [round(capacity(stage.servers[peer]) * share) for share in stage.plan.shares] if peer else []
    for entry, setting in chosen:
        server = stage.servers[entry.name]
        own = capacity(server)
        if "error" in server or not own:
            stage.say(f"open loop: {entry.name}: left out")
            continue
        rates = sorted({*common, *([round(own * OWN_SHARE)] if entry.ours else [])})
        try:
            with running(entry, setting, stage.ground) as up:
                for rate in rates:
                    # Without an end to its queue, all that could be seen is how long the load lasted.
                    if rate > own:
                        server["open"].append({"rate_per_s": rate, "skipped": "over its capacity"})
                        continue
                    server["open"].append(up.open(rate_per_s=rate, seconds=stage.plan.seconds, seed=stage.plan.seed))
        except FAILURES as error:
            server["error"] = f"open loop: {error}"
        stage.say(f"open loop: {entry.name}: at {', '.join(f'{rate:,}' for rate in rates)} requests/s")
        stage.save()


def capacity(server: Mapping[str, Any]) -> float:
    """The most requests per second of its closed loops, medians over the rounds."""
    return max((float(row["per_s"]) for row in server.get("medians", ())), default=0.0)


def _told(point: Mapping[str, Any]) -> str:
    if "error" in point:
        return str(point["error"]).splitlines()[0]
    return f"{point['per_s']:,.0f} requests/s, p99 {point['p99_ms']:.1f} ms"


def _told_of(found: Closed) -> str:
    return f"{found.connections}: {found.per_s:,.0f}/s"
