"""What the bench found: medians, the best peer, the verdict, the tables. Pure functions of its result; runs nothing.

The result is what stands in bench.json: `servers` by name, each with `sweep`, `closed` (every round) and `open`.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

COMPARED_AT = 32  # connections: of the sweep, the gates and the table
FIGURES = ("per_s", "p50_ms", "p99_ms", "cpu_ms_per_request", "padding_waste", "foreign_share")
# Above this the server did not have its core to itself, and its figures say less.
DISTURBED = 0.05
SAME = 0.95  # of the most requests per second: what is nearer to it than that differs by chance
NONE = "-"
Result = Mapping[str, Any]


def medians(closed: Sequence[Result]) -> list[dict[str, Any]]:
    """One row a number of connections: the median of each figure over the rounds, and all failures."""
    rows = []
    for connections in sorted({each["connections"] for each in closed}):
        rounds = [each for each in closed if each["connections"] == connections]
        row: dict[str, Any] = {"connections": connections, "rounds": len(rounds)}
        for figure in FIGURES:
            values = [each[figure] for each in rounds if each[figure] is not None]
            row[figure] = statistics.median(values) if values else None
        rows.append({**row, "failed": sum(each["failed"] for each in rounds)})
    return rows


def at(server: Result, connections: int = COMPARED_AT) -> Result | None:
    """The medians at a number of connections, or at the nearest one below that was measured."""
    rows = [row for row in server.get("medians", ()) if row["connections"] <= connections]
    return max(rows, key=lambda row: row["connections"], default=None)


def best_setting(sweep: Sequence[Result]) -> Result | None:
    """The point of a sweep without a failure that has the lowest p99 of those about as fast as the fastest, see SAME.

    None when all have failures.
    """
    able = [point for point in sweep if "error" not in point and not point["failed"]]
    least = SAME * max((float(point["per_s"]) for point in able), default=0.0)
    return min(
        (point for point in able if point["per_s"] >= least), key=lambda point: float(point["p99_ms"]), default=None
    )


def best_peer(servers: Mapping[str, Result], variant: str = "fp32") -> str | None:
    """The peer with the most requests per second: by its rounds where it has any, else by its sweep."""
    speeds = {
        name: (at(server) or best_setting(server["sweep"]) or {"per_s": 0.0})["per_s"]
        for name, server in servers.items()
        if not server["ours"] and server["variant"] == variant
    }
    best = max(speeds, key=lambda name: speeds[name], default=None)
    return best if best is not None and speeds[best] else None


def comparison(servers: Mapping[str, Result], variant: str) -> dict[str, Any] | None:
    """Ours against the best peer on the same file; None where one of them is missing."""
    peer = best_peer(servers, variant)
    ours = next((name for name, each in servers.items() if each["ours"] and each["variant"] == variant), None)
    if peer is None or ours is None:
        return None
    mine, theirs = at(servers[ours]), at(servers[peer])
    if mine is None or theirs is None:
        return None
    ratios = {figure: mine[figure] / theirs[figure] for figure in FIGURES[:4]}
    return {"ours": ours, "peer": peer, "variant": variant, "connections": mine["connections"], "ratios": ratios}


def not_answered(turns: Result, whose: str) -> int:
    """Requests of all turns of "ours" or the "peer" that were not answered with 200."""
    closed = sum(pair[whose]["failed"] for pair in turns.get("pairs", ()))
    opened = [pair[whose] for pair in turns.get("at_rate", {}).get("pairs", ())]
    refused = sum(count for each in opened for status, count in each["statuses"].items() if status != "200")
    return int(closed + refused + sum(each["unanswered"] for each in opened))


def verdict(result: Result, *, at_least: float | None, p99_share: float) -> list[str]:
    """Why this is a failure, a sentence each; empty when it is none. A peer that breaks is not our failure."""
    reasons = []
    for name, server in result.get("servers", {}).items():
        if server["ours"] and "error" in server:
            reasons.append(f"{name}: {server['error'].splitlines()[0]}")
        if server["ours"] and (failed := sum(row["failed"] for row in server.get("medians", ()))):
            reasons.append(f"{name}: {failed} requests failed in the closed loops")
    for turns in result.get("turns", ()):
        if failed := not_answered(turns, "ours"):
            reasons.append(f"{turns['ours']}: {failed} requests failed in turns with {turns['peer']}")
    if at_least is None:
        return reasons
    # In turns where that was measured: it depends least on the machine.
    measured = [*result.get("turns", ()), *result.get("comparisons", ())]
    found = next((each for each in measured if each["variant"] == "fp32"), None)
    if found is None:
        return [*reasons, "there is no comparison at fp32: --at-least needs seqserve-fp32 and a peer that works"]
    ratios, peer = found["ratios"], found["peer"]
    if ratios["per_s"] < at_least:
        reasons.append(f"{ratios['per_s']:.2f} times the requests per second of {peer}, not {at_least:g}")
    if ratios["p99_ms"] > p99_share:
        reasons.append(f"p99 is {ratios['p99_ms']:.2f} times that of {peer}, not {p99_share:g} or less")
    return reasons


def warnings(result: Result) -> list[str]:
    """What a reader of the figures has to know."""
    found = []
    for name, server in result.get("servers", {}).items():
        if "error" in server and not server["ours"]:
            found.append(f"{name} could not be measured: {server['error'].splitlines()[0]}")
        row = at(server)
        if row and (row["foreign_share"] or 0.0) > DISTURBED:
            share = f"{100 * row['foreign_share']:.0f} %"
            found.append(f"{name}: other processes took {share} of its core: measure again on a quiet machine")
    for turns in result.get("turns", ()):
        if failed := not_answered(turns, "peer"):
            found.append(f"{turns['peer']}: {failed} requests failed in turns, so its figures say less")
        if turns["idle_share"] > DISTURBED:
            pair = f"{turns['ours']} and {turns['peer']} in turns"
            found.append(
                f"{pair}: the one that was idle, or others, took {100 * turns['idle_share']:.0f} % of the core"
            )
    return found


def closed_table(result: Result) -> Table:
    """The closed loops at COMPARED_AT connections, the ratios, and the client's ceiling."""
    drawn = _table(
        f"{result['model']}, closed loop, {result['compared_at']} connections, server on core "
        f"{result['server_core']}, client on core {result['client_core']}",
        ("server", "batching"),
        ("requests/s", "p50 ms", "p99 ms", "CPU ms/request", "padding"),
    )
    for server in result["servers"].values():
        row = at(server) or (server["sweep"] and best_setting(server["sweep"]))
        drawn.add_row(server["title"], server.get("setting") or NONE, *_figures(row))
    drawn.add_section()
    for kind, how in (("comparisons", "rounds"), ("turns", "turns")):
        for found in result.get(kind, ()):
            cells = (f"{found['ratios'][figure]:.2f}" for figure in FIGURES[:4])
            drawn.add_row(f"{found['ours']} / {found['peer']}", f"in {how}", *cells)
    if "client_ceiling_per_s" in result:
        drawn.add_row("the client, trivial server", "", f"{result['client_ceiling_per_s']:,.0f}")
    return drawn


def _figures(row: Result | None) -> tuple[str, ...]:
    if not row:
        return (NONE,) * 5
    cpu, padding = row["cpu_ms_per_request"], row["padding_waste"]
    return (
        f"{row['per_s']:,.0f}",
        f"{row['p50_ms']:.2f}",
        f"{row['p99_ms']:.2f}",
        f"{cpu:.3f}",
        NONE if padding is None else f"{100 * padding:.0f} %",
    )


def open_table(result: Result) -> Table:
    """The open loops: what came back of what was sent."""
    drawn = _table(
        "open loop: latency from the moment that a request was due",
        ("server",),
        ("sent/s", "200s/s", "p50 ms", "p99 ms", "refused", "unanswered"),
    )
    for server in result["servers"].values():
        for row in server.get("open", ()):
            ok = row.get("ok") or {}
            if "skipped" in row:
                cells = [row["skipped"], NONE, NONE, NONE, NONE]
            else:
                cells = [f"{row['goodput_per_s']:,.0f}"]
                cells += [f"{ok[key]:.2f}" if key in ok else NONE for key in ("p50_ms", "p99_ms")]
                refused = sum(count for status, count in row["statuses"].items() if status != "200")
                cells += [f"{refused:,}", f"{row['unanswered']:,}"]
            drawn.add_row(server["title"], f"{row['rate_per_s']:,.0f}", *cells)
    return drawn


def generate_table(result: Result) -> Table:
    """Tokens per second of many texts at once, and of one alone."""
    streams, tokens = result["generate"]["streams"], result["generate"]["tokens"]
    drawn = _table(
        f"generation: {streams} texts of {tokens} characters at once",
        ("server", "weights"),
        ("tokens/s", "slowest s", "CPU ms/1,000 tokens", "one alone, tokens/s"),
    )
    for server in result["generate"]["servers"].values():
        if "error" in server:
            drawn.add_row(server["title"], server["weights"], NONE, NONE, NONE, NONE)
            continue
        row = server["median"]
        cells = (f"{row['tokens_per_s']:,.0f}", f"{row['slowest_s']:.2f}", f"{row['cpu_ms_per_1000_tokens']:.1f}")
        drawn.add_row(server["title"], server["weights"], *cells, f"{row['alone_tokens_per_s']:,.0f}")
    return drawn


def _table(title: str, texts: Sequence[str], numbers: Sequence[str]) -> Table:
    drawn = Table(title=title, title_justify="left")
    for column in texts:
        drawn.add_column(column)
    for column in numbers:
        drawn.add_column(column, justify="right")
    return drawn
