"""Train by a recipe into a run folder; the same command goes on where an interrupted one stopped.

With --seeds several times, into RUN/seed-1 and so on; RUN itself then is the best of them. Several processes share
the work under torchrun: torchrun --nproc-per-node 2 -m -- training fit pos-en
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from training.recipe import Recipe
from training.terminal import RUNS, add_recipe, command_of, console, duration, progress, recipe_of, say

if TYPE_CHECKING:  # torch takes seconds to import, and --help needs none of it
    from training.run import Run

HELP = "train by a recipe"
NO_SCORES = ("epoch", "train_loss", "gradient_norm", "learning_rate", "seconds", "dev_loss")  # of a history's entry
MOST_LABELS = 20  # rows on the terminal


def add(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument("--run", type=Path, help="run folder (default: runs/NAME)")
    parser.add_argument("--fresh", action="store_true", help="throw an earlier run in that folder away")
    parser.add_argument("--seeds", metavar="N|A,B,…", help="train once a seed, 1 to N or those given; the best is kept")


def run(options: argparse.Namespace) -> None:
    from training import parallel

    recipe = recipe_of(options)
    folder = options.run or RUNS / recipe.name
    with parallel.process_group():
        if options.seeds is None:
            _finish(fit_one(recipe, folder, options, command=command_of(options)))
        else:
            _fit_seeds(recipe, folder, options)
        say(f"next: python -m training export {folder}")


def fit_one(
    recipe: Recipe, folder: Path, options: argparse.Namespace, *, command: str, of: str = "", examples: Any = None
) -> "Run":
    """A run with its progress on the terminal; after Ctrl-C what is left of it is said and drawn."""
    from training import parallel
    from training import run as runs

    try:
        with progress(of) as report:
            finished = runs.fit(recipe, folder, report, fresh=options.fresh, command=command, examples=examples)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_left(recipe, folder)) from None
    if parallel.rank() == 0:
        _draw(finished)
    return finished


def _left(recipe: Recipe, folder: Path) -> str:
    """What an interrupted run leaves, after the word "interrupted"."""
    from training.run import open_run
    from training.trainer import saved_history

    epochs = len(saved_history(folder))
    if not epochs:
        return f": the first epoch was not over, so nothing is kept in {folder}; the same command starts anew"
    left = open_run(folder)
    _draw(left)
    return (
        f": {epochs} of {recipe.training.epochs} epochs are kept in {folder}, the best is epoch {best_of(left)}; the "
        f"same command goes on from there, and python -m training export {folder} takes the best so far"
    )


def _draw(finished: "Run") -> None:
    from training import plots

    plots.draw(finished.history, finished.metric, finished.folder / "curves.png", finished.recipe.name)


def best_of(finished: "Run") -> int:
    """The best epoch of a run, from 1."""
    from training import metrics
    from training import trainer as loop

    better = metrics.higher_is_better(finished.metric)
    return loop.best_epoch(finished.history, finished.metric, higher_is_better=better)


def _finish(finished: "Run") -> None:
    """The epochs as a table, and what the user should know."""
    for note in finished.notes:
        say(f"note: {note}")
    scores = [name for name in finished.history[0] if name not in NO_SCORES]
    table = Table("epoch", "train loss", "dev loss", *scores, "seconds", box=None)
    for entry in finished.history:
        losses = [f"{entry[name]:.4f}" for name in ("train_loss", "dev_loss")]
        table.add_row(
            f"{entry['epoch']}", *losses, *(f"{entry[name]:.3f}" for name in scores), f"{entry['seconds']:.1f}"
        )
    console.print(table)
    _report(finished)
    parts = "characters" if finished.recipe.task == "generate" else "examples"
    train, dev = finished.sizes
    say(f"{train:,} {parts} trained on, {dev:,} held out for the scores; epoch {best_of(finished)} is the best")
    say(f"its weights, curves and report are in {finished.folder}")


def _report(finished: "Run") -> None:
    """The best epoch beside what no training gives, and the labels that occur most."""
    from training import run_report as afterwards

    found = afterwards.read(finished.folder)
    best = finished.history[best_of(finished) - 1]
    scores = [name for name in best if name not in NO_SCORES]
    table = Table("compared", *scores, box=None)
    table.add_row(f"this run, epoch {best_of(finished)}", *(f"{best[name]:.3f}" for name in scores))
    for name, baseline in found.get("baselines", {}).items():
        table.add_row(name, *(f"{baseline[score]:.3f}" if score in baseline else "" for score in scores))
    console.print(table)
    kind = "spans" if found.get("spans") else "labels"
    rows = sorted(found.get(kind, []), key=lambda row: -row["support"])
    if not rows:
        return
    table = Table(kind, "precision", "recall", "F1", "expected", box=None)
    for row in rows[:MOST_LABELS]:
        shares = (f"{row[name]:.1f}" for name in ("precision", "recall", "f1"))
        table.add_row(escape(row["label"]), *shares, f"{row['support']}")
    console.print(table)
    if len(rows) > MOST_LABELS:
        say(f"… and {len(rows) - MOST_LABELS} more {kind}: {finished.folder / afterwards.REPORT}")


def _fit_seeds(recipe: Recipe, folder: Path, options: argparse.Namespace) -> None:
    """A run a seed; RUN becomes the best of them."""
    from training import metrics, parallel, plots
    from training import seeds_and_folds as repeats
    from training.data import loading as choice

    seeds = repeats.parse_seeds(options.seeds)
    repeats.refuse_single(folder)
    examples = choice.splits(recipe)
    runs: dict[str, Run] = {}
    for seed in seeds:
        command = command_of(options, "--set", f"training.seed={seed}")
        name = f"seed-{seed}"
        runs[name] = fit_one(
            repeats.with_seed(recipe, seed),
            folder / name,
            options,
            command=command,
            of=f"seed {seed}",
            examples=examples,
        )
    if parallel.rank():
        return
    metric = next(iter(runs.values())).metric
    table = Table("seed", metric, "best epoch", "epochs", "time", box=None)
    scores = {}
    for name, finished in runs.items():
        best = best_of(finished)
        scores[name] = finished.history[best - 1][metric]
        took = duration(sum(entry["seconds"] for entry in finished.history))
        table.add_row(name, f"{scores[name]:.3f}", f"{best}", f"{len(finished.history)}", took)
    console.print(table)
    summary = repeats.summarise(scores)
    choose = max if metrics.higher_is_better(metric) else min
    best_run = choose(scores, key=lambda name: scores[name])
    repeats.keep_best(folder, summary, best_run)
    plots.side_by_side({name: finished.history for name, finished in runs.items()}, metric, folder / "seeds.png")
    _report(runs[best_run])
    say(f"{metric}: mean {summary}")
    say(f"the best, {best_run}, is now the run {folder}; all scores are in {folder / repeats.SEEDS}")
