"""latency.png: how latency is distributed over requests, and how it went over time. Draws samples, knows no more."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, NullFormatter

from loadtest.report import Sample, percentile

# Where the line is drawn; the axis is the share of requests that are slower, which spreads the tail out.
PERCENTS = (1, 5, 10, 25, 50, 75, 90, 95, 98, 99, 99.5, 99.9)
TICKS = (50, 90, 99, 99.9)
PLAIN = FormatStrFormatter("%g")  # 10 ms, not 10 to the power of 1


def draw_latency(samples: Sequence[Sample], path: Path, *, title: str) -> None:
    """Write the picture of at least one sample to `path`."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    spread, over_time = figure.subplots(1, 2)
    by_endpoint: dict[str, list[float]] = defaultdict(list)
    by_second: dict[int, list[float]] = defaultdict(list)
    for sample in samples:
        by_endpoint[sample.endpoint].append(sample.latency_ms)
        by_second[int(sample.at_s + sample.latency_ms / 1000)].append(sample.latency_ms)

    for endpoint in sorted(by_endpoint):
        ordered = sorted(by_endpoint[endpoint])
        spread.plot([1 / (1 - p / 100) for p in PERCENTS], [percentile(ordered, p) for p in PERCENTS], label=endpoint)
    spread.set(xscale="log", yscale="log", xlabel="percentile", ylabel="latency, ms", title="distribution")
    spread.set_xticks([1 / (1 - p / 100) for p in TICKS], [f"{p:g} %" for p in TICKS], minor=False)
    spread.minorticks_off()
    spread.legend(fontsize="small", loc="center right", framealpha=0.8)

    seconds = sorted(by_second)[:-1] or sorted(by_second)  # the last second is not a whole one
    for percent in (50, 95, 99):
        values = [percentile(sorted(by_second[second]), percent) for second in seconds]
        over_time.plot(seconds, values, label=f"p{percent}")
    over_time.set(yscale="log", xlabel="seconds since the start", title="over time, each second")
    over_time.legend(fontsize="small", loc="center left", framealpha=0.8)
    throughput = over_time.twinx()
    throughput.bar(seconds, [len(by_second[second]) for second in seconds], width=1.0, color="0.85", zorder=0)
    throughput.set_ylabel("requests/s (grey)")
    over_time.set_zorder(throughput.get_zorder() + 1)
    over_time.patch.set_visible(False)

    for axes in (spread, over_time):
        axes.yaxis.set_major_formatter(PLAIN)
        axes.yaxis.set_minor_formatter(NullFormatter())
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
