"""Results of `bench`: medians, the best peer, gates, tables and the plot.

The result is what bench.json contains: `servers` by name, each with `sweep`, `closed` (every round) and `open`.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter, NullLocator
from rich.table import Table

from loadtest.report import new_table

COMPARED_AT = 32  # connections of the sweep, the gates and the table
COMPARED_FIGURES = ("per_s", "p50_ms", "p99_ms", "cpu_ms_per_request")
FIGURES = (*COMPARED_FIGURES, "padding_waste", "foreign_share")
DISTURBED = 0.05  # share of the core used by others, above which figures are not reliable
TIE = 0.95  # settings within 5 % of the fastest differ by chance
TINY = 1e-9
NONE = "-"
PANELS = (("per_s", "requests/s"), ("p50_ms", "p50, ms"), ("p99_ms", "p99, ms"))
COLORS = [f"tab:{name}" for name in ("blue", "green", "orange", "purple", "brown", "cyan", "olive", "pink")]  # of peers
MARKERS = "osv^Dp*Xd"
BenchResult = Mapping[str, Any]
S = TypeVar("S")
R = TypeVar("R")


def medians(closed: Sequence[BenchResult]) -> list[dict[str, Any]]:
    """Return one row per number of connections: medians over the rounds, and the sum of failures."""
    rows = []
    for connections in sorted({loop["connections"] for loop in closed}):
        rounds = [loop for loop in closed if loop["connections"] == connections]
        row: dict[str, Any] = {"connections": connections, "rounds": len(rounds)}
        for figure in FIGURES:
            values = [loop[figure] for loop in rounds if loop[figure] is not None]
            row[figure] = statistics.median(values) if values else None
        rows.append({**row, "failed": sum(loop["failed"] for loop in rounds)})
    return rows


def alternate(run: Callable[[S, int], R], ours: S, other: S, pairs: int) -> list[tuple[R, R]]:
    """Call `run` on both servers `pairs` times in alternating order. It gets the number of the pair."""
    found = []
    for number in range(pairs):
        if number % 2 == 0:
            one, two = run(ours, number), run(other, number)
        else:
            two, one = run(other, number), run(ours, number)
        found.append((one, two))
    return found


def ratio_quartiles(
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], figures: Sequence[str]
) -> dict[str, tuple[float, float, float]]:
    """Return the quartiles of the ratios within each pair. They do not depend on changes of the machine's speed."""
    # A run can have a goodput of 0. TINY then gives a very large ratio instead of an error.
    return {figure: quartiles([one[figure] / (two[figure] or TINY) for one, two in pairs]) for figure in figures}


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    if len(values) == 1:
        return (values[0],) * 3
    lower, middle, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, middle, upper


def at(server: BenchResult, connections: int = COMPARED_AT) -> BenchResult | None:
    """Return the medians at `connections`, or at the highest number below that was measured."""
    rows = [row for row in server.get("medians", ()) if row["connections"] <= connections]
    return max(rows, key=lambda row: row["connections"], default=None)


def best_setting(sweep: Sequence[BenchResult]) -> BenchResult | None:
    """Return the point without failures that has the lowest p99 among the fastest (see TIE), or None."""
    able = [point for point in sweep if "error" not in point and not point["failed"]]
    limit = TIE * max((float(point["per_s"]) for point in able), default=0.0)
    fastest = [point for point in able if point["per_s"] >= limit]
    return min(fastest, key=lambda point: float(point["p99_ms"]), default=None)


def best_peer(servers: Mapping[str, BenchResult], variant: str = "fp32") -> str | None:
    """Return the peer with the most requests/s in its rounds, or in its sweep if it has no rounds."""
    speeds = {
        name: (at(server) or best_setting(server["sweep"]) or {"per_s": 0.0})["per_s"]
        for name, server in servers.items()
        if not server["ours"] and server["variant"] == variant
    }
    best = max(speeds, key=lambda name: speeds[name], default=None)
    return best if best is not None and speeds[best] else None


def unanswered(turns: BenchResult, side: str) -> int:
    """Count the requests of all turns of "ours" or the "peer" without a 200."""
    closed = sum(pair[side]["failed"] for pair in turns.get("pairs", ()))
    opened = [pair[side] for pair in turns.get("at_rate", {}).get("pairs", ())]
    refused = sum(count for run in opened for status, count in run["statuses"].items() if status != "200")
    return int(closed + refused + sum(run["unanswered"] for run in opened))


def failures(result: BenchResult, *, at_least: float | None, p99_share: float) -> list[str]:
    """Return why the benchmark failed, one sentence each. A broken peer is not a failure."""
    reasons = []
    for name, server in result.get("servers", {}).items():
        if server["ours"] and "error" in server:
            reasons.append(f"{name}: {server['error'].splitlines()[0]}")
        if server["ours"] and (failed := sum(row["failed"] for row in server.get("medians", ()))):
            reasons.append(f"{name}: {failed} requests failed in the closed loops")
    for turns in result.get("turns", ()):
        if failed := unanswered(turns, "ours"):
            reasons.append(f"{turns['ours']}: {failed} requests failed in turns with {turns['peer']}")
    for name, server in result.get("generate", {}).get("servers", {}).items():
        if server["ours"] and "error" in server:
            reasons.append(f"generation: {name}: {server['error'].splitlines()[0]}")
    return reasons if at_least is None else reasons + _missed_gates(result, at_least, p99_share)


def _missed_gates(result: BenchResult, at_least: float, p99_share: float) -> list[str]:
    found = next((turns for turns in result.get("turns", ()) if turns["variant"] == "fp32"), None)
    if found is None:
        return ["--at-least needs a comparison of seqserve-fp32 with a working peer, and there is none"]
    reasons = []
    ratios, peer = found["ratios"], found["peer"]
    if ratios["per_s"] < at_least:
        reasons.append(f"{ratios['per_s']:.2f} times the requests/s of {peer}, not {at_least:g}")
    if ratios["p99_ms"] > p99_share:
        reasons.append(f"{ratios['p99_ms']:.2f} times the p99 of {peer}, the limit is {p99_share:g}")
    return reasons


def warnings(result: BenchResult) -> list[str]:
    """Return what makes the figures unreliable, one sentence each."""
    found = []
    for name, server in result.get("servers", {}).items():
        if "error" in server and not server["ours"]:
            found.append(f"{name} could not be measured: {server['error'].splitlines()[0]}")
        row = at(server)
        if row and (row["foreign_share"] or 0.0) > DISTURBED:
            share = f"{100 * row['foreign_share']:.0f} %"
            found.append(f"{name}: other processes used {share} of its core. Measure again on a quiet machine.")
    for turns in result.get("turns", ()):
        if failed := unanswered(turns, "peer"):
            found.append(f"{turns['peer']}: {failed} requests failed in turns, so its figures are not reliable")
        if turns["idle_share"] > DISTURBED:
            share = f"{100 * turns['idle_share']:.0f} %"
            found.append(f"{turns['ours']} and {turns['peer']} in turns: others used {share} of the core")
    return found


def closed_table(result: BenchResult) -> Table:
    """Return the closed loops at COMPARED_AT connections, the ratios in turns, and the client's ceiling."""
    table = new_table(
        f"{result['model']}, closed loop, {result['compared_at']} connections, server on core "
        f"{result['server_core']}, client on core {result['client_core']}",
        ("server", "batching"),
        ("requests/s", "p50 ms", "p99 ms", "CPU ms/request", "padding"),
    )
    for server in result["servers"].values():
        row = at(server) or (server["sweep"] and best_setting(server["sweep"]))
        table.add_row(server["title"], server.get("setting") or NONE, *_cells(row))
    table.add_section()
    for turns in result.get("turns", ()):
        ratios = (f"{turns['ratios'][figure]:.2f}" for figure in COMPARED_FIGURES)
        table.add_row(f"{turns['ours']} / {turns['peer']}", "in turns", *ratios)
    if "client_ceiling_per_s" in result:
        table.add_row("client, server without work", "", f"{result['client_ceiling_per_s']:,.0f}")
    return table


def _cells(row: BenchResult | None) -> tuple[str, ...]:
    if not row:
        return (NONE,) * 5
    padding = NONE if row["padding_waste"] is None else f"{100 * row['padding_waste']:.0f} %"
    latencies = (f"{row[figure]:.2f}" for figure in ("p50_ms", "p99_ms"))
    return (f"{row['per_s']:,.0f}", *latencies, f"{row['cpu_ms_per_request']:.3f}", padding)


def open_table(result: BenchResult) -> Table:
    table = new_table(
        "open loop: latency from the moment a request was due",
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
            table.add_row(server["title"], f"{row['rate_per_s']:,.0f}", *cells)
    return table


def generation_table(result: BenchResult) -> Table:
    streams, tokens = result["generate"]["streams"], result["generate"]["tokens"]
    table = new_table(
        f"generation: {streams} texts of {tokens} characters at once",
        ("server", "weights"),
        ("tokens/s", "slowest s", "CPU ms/1,000 tokens", "one alone, tokens/s"),
    )
    for server in result["generate"]["servers"].values():
        if "error" in server:
            table.add_row(server["title"], server["weights"], NONE, NONE, NONE, NONE)
            continue
        row = server["median"]
        cells = (f"{row['tokens_per_s']:,.0f}", f"{row['slowest_s']:.2f}", f"{row['cpu_ms_per_1000_tokens']:.1f}")
        table.add_row(server["title"], server["weights"], *cells, f"{row['alone_tokens_per_s']:,.0f}")
    return table


def draw_bench(result: BenchResult, path: Path) -> None:
    """Plot throughput and latency by connections for every server that has closed loops."""
    servers = [server for server in result.get("servers", {}).values() if server.get("medians")]
    if not servers:
        return
    figure = Figure(figsize=(13, 4.8), layout="constrained")
    panels = figure.subplots(1, len(PANELS))
    ticks = sorted({row["connections"] for server in servers for row in server["medians"]})
    for axes, (key, label) in zip(panels, PANELS, strict=True):
        axes.set_prop_cycle(color=COLORS)
        for number, server in enumerate(servers):
            points = [(row["connections"], row[key]) for row in server["medians"]]
            axes.plot(*zip(*points, strict=True), label=server["title"], markersize=4, **_style(server, number))
        axes.set(xscale="log", yscale="log", xlabel="connections", ylabel=label)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(which="both", axis="y", color="0.9")
        axes.grid(axis="x", color="0.9")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="small", frameon=False)
    figure.suptitle(f"{result['model']}: one core for the server, closed loop, medians")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _style(server: BenchResult, number: int) -> dict[str, Any]:
    """Return the line style: ours thick and red, int8 dashed."""
    color = {"color": "tab:red", "linewidth": 2.5} if server["ours"] else {"linewidth": 1.2}
    return {
        **color,
        "linestyle": "--" if server["variant"] == "int8" else "-",
        "marker": MARKERS[number % len(MARKERS)],
    }
