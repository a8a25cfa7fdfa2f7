"""Commands that list recipes and data sets, and one that compares runs."""

import argparse
from pathlib import Path
from typing import Any

from rich.table import Table

from seqserve import picture_file
from training import recipe as recipes
from training.data.examples import DataError
from training.terminal import RUNS, add_command, add_option, console, duration, echo


def register(commands: Any) -> None:
    add_command(commands, "list", list_recipes)

    parser = add_command(commands, "data", list_data)
    parser.add_argument("names", nargs="*", metavar="NAME", help="Fetch these data sets and print their folders.")

    parser = add_command(commands, "compare", compare_runs)
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="Compare these run folders (after --seeds: RUN/seed-1)."
    )
    add_option(parser, "--out", "Write the curves here", default=RUNS / "compare.png", type=picture_file, metavar="PNG")


def list_recipes(options: argparse.Namespace) -> None:
    table = Table("recipe", "task", "data", "expected", "description", box=None)
    for name in recipes.names():
        recipe = recipes.load(name)
        expected = "" if recipe.expect.score is None else f"{recipe.expect.score} in {recipe.expect.minutes:g} min"
        table.add_row(name, recipe.task, recipe.data.name or "--data FILE", expected, recipe.description)
    console.print(table)


def list_data(options: argparse.Namespace) -> None:
    """List or fetch published data sets."""
    from training.data.fetch import PUBLISHED, local_folder, locate

    for name in options.names:
        echo(f"{name}: {locate(name)}")
    if not options.names:
        table = Table("data set", "task", "folder", "license", "description", box=None)
        for name, each in PUBLISHED.items():
            table.add_row(name, each.task, str(local_folder(name) or "not fetched"), each.license, each.description)
        console.print(table)


def compare_runs(options: argparse.Namespace) -> None:
    """Compare the scores, times, recipes and curves of runs."""
    from training import plots
    from training.run import open_run

    runs = {str(folder): open_run(folder) for folder in options.runs}
    metrics = {run.metric for run in runs.values()}
    if len(metrics) > 1:
        raise DataError(f"the runs have different metrics ({', '.join(sorted(metrics))}); compare runs with the same")
    (metric,) = metrics
    table = Table("run", metric, "best epoch", "epochs", "time", "dev loss", "train loss", "weights", box=None)
    for name, run in runs.items():
        table.add_row(
            name,
            f"{run.best[metric]:.3f}",
            f"{run.best_epoch}",
            f"{len(run.history)}",
            duration(run.seconds),
            f"{run.best['dev_loss']:.4f}",
            f"{run.best['train_loss']:.4f}",
            f"{sum(weight.numel() for weight in run.network().parameters()):,}",
        )
    console.print(table)
    fields = [_flatten(run.recipe.model_dump(mode="json")) for run in runs.values()]
    table = Table("field", *runs, box=None)
    for name in {name: None for each in fields for name in each}:
        if len({str(each.get(name)) for each in fields}) > 1 and name != "description":
            table.add_row(name, *(str(each.get(name, "")) for each in fields))
    if table.row_count:
        console.print(table)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    plots.draw_comparison({name: run.history for name, run in runs.items()}, metric, options.out)
    echo(f"curves: {options.out}")


def _flatten(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested fields by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
