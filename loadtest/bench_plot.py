"""bench.png: throughput and latency of every server by the number of connections. Draws a result, knows no more."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter, NullLocator

PLAIN = FormatStrFormatter("%g")
PANELS = (("per_s", "requests/s"), ("p50_ms", "p50, ms"), ("p99_ms", "p99, ms"))
OURS = "tab:red"
PEERS = ("blue", "green", "orange", "purple", "brown", "cyan", "olive", "pink")
MARKERS = "sv^Dp*Xd"


def draw_bench(result: Mapping[str, Any], path: Path) -> None:
    """Write the picture to `path`; servers without a closed loop are left out, and without any there is no picture."""
    servers = [server for server in result.get("servers", {}).values() if server.get("medians")]
    if not servers:
        return
    figure = Figure(figsize=(13, 4.8), layout="constrained")
    panels = figure.subplots(1, len(PANELS))
    styles = _styles(servers)
    for axes, (key, label) in zip(panels, PANELS, strict=True):
        for server, style in zip(servers, styles, strict=True):
            rows = server["medians"]
            axes.plot([row["connections"] for row in rows], [row[key] for row in rows], label=server["title"], **style)
        _dress(axes, sorted({row["connections"] for server in servers for row in server["medians"]}), label)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="small", frameon=False)
    figure.suptitle(f"{result['model']}: one core for the server, closed loop, medians")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _styles(servers: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Ours thick and red; a peer has one colour for both of its files; int8 is dashed."""
    colours: dict[str, str] = {}
    styles = []
    for server in servers:
        of = server["of"]
        if not server["ours"]:
            colours.setdefault(of, f"tab:{PEERS[len(colours) % len(PEERS)]}")
        styles.append(
            {
                "color": OURS if server["ours"] else colours[of],
                "linewidth": 2.5 if server["ours"] else 1.2,
                "linestyle": "--" if server["variant"] == "int8" else "-",
                "marker": "o" if server["ours"] else MARKERS[list(colours).index(of) % len(MARKERS)],
                "markersize": 4,
                "zorder": 3 if server["ours"] else 2,
            }
        )
    return styles


def _dress(axes: Axes, connections: list[int], label: str) -> None:
    axes.set(xscale="log", yscale="log", xlabel="connections", ylabel=label)
    axes.set_xticks(connections, [str(each) for each in connections])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(PLAIN)
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(which="both", axis="y", color="0.9")
    axes.grid(axis="x", color="0.9")
