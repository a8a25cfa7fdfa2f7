"""Runs side by side: scores, times, what differs in their recipes, and a picture of their curves."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from training.data import DataError
from training.terminal import RUNS, console, duration, say

if TYPE_CHECKING:
    from training.run import Run

HELP = "runs side by side, as a table and a picture"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders; with --seeds, RUN/seed-1 …")
    parser.add_argument("--to", type=Path, default=RUNS / "compare.png", help="the picture (default: runs/compare.png)")


def run(options: argparse.Namespace) -> None:
    from training import plots
    from training.run import open_run

    opened = {str(folder): open_run(folder) for folder in options.runs}
    metrics = {finished.metric for finished in opened.values()}
    if len(metrics) > 1:
        raise DataError(f"these runs have different scores ({', '.join(sorted(metrics))}): compare runs of one kind")
    (metric,) = metrics
    _scores(opened, metric)
    _differences(opened)
    options.to.parent.mkdir(parents=True, exist_ok=True)
    plots.side_by_side({name: finished.history for name, finished in opened.items()}, metric, options.to)
    say(f"curves over epochs and over time: {options.to}")


def _scores(runs: "dict[str, Run]", metric: str) -> None:
    from training.commands.fit import best_of

    table = Table("run", metric, "best epoch", "epochs", "time", "dev loss", "train loss", "weights", box=None)
    for name, finished in runs.items():
        best = best_of(finished)
        entry = finished.history[best - 1]
        table.add_row(
            name,
            f"{entry[metric]:.3f}",
            f"{best}",
            f"{len(finished.history)}",
            duration(sum(each["seconds"] for each in finished.history)),
            f"{entry['dev_loss']:.4f}",
            f"{entry['train_loss']:.4f}",
            f"{sum(weight.numel() for weight in finished.network().parameters()):,}",
        )
    console.print(table)


def _differences(runs: "dict[str, Run]") -> None:
    """The fields of the recipes that are not the same in all runs."""
    fields = [_flat(finished.recipe.model_dump(mode="json")) for finished in runs.values()]
    names = {name: None for each in fields for name in each}
    differing = [name for name in names if len({str(each.get(name)) for each in fields}) > 1 and name != "description"]
    if not differing:
        return
    table = Table("differs", *runs, box=None)
    for name in differing:
        table.add_row(name, *(str(each.get(name, "")) for each in fields))
    console.print(table)


def _flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
