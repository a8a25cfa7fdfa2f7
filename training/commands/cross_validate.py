"""The score of a recipe by cross-validation: every example is held out once, by a model that never saw it.

A fold's score is that of its last epoch: choosing the best one would be choosing on the examples that are to judge.
Nothing stops early for the same reason. The best epoch's score is shown beside it: what the choice would be worth.
"""

import argparse
from pathlib import Path
from typing import Any

from rich.table import Table

from training.recipe import RecipeError
from training.terminal import RUNS, add_recipe, command_of, console, recipe_of, say

HELP = "the score of a recipe over folds of its data"


def add(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument("--folds", type=int, default=10, help="how many parts, each held out once (default: 10)")
    parser.add_argument("--seeds", default=None, metavar="N|A,B,…", help="repeat each fold with these seeds")
    parser.add_argument("--run", type=Path, help="folder of the folds (default: runs/NAME-folds)")
    parser.add_argument("--fresh", action="store_true", help="throw earlier runs of the folds away")


def run(options: argparse.Namespace) -> None:
    from training import parallel
    from training import seeds_and_folds as repeats
    from training.data import loading as choice

    recipe = recipe_of(options)
    if recipe.task == "generate":
        raise RecipeError("a text has no examples to hold out in turn: cross-validation is for tag, classify and joint")
    folder = options.run or RUNS / f"{recipe.name}-folds"
    seeds = [recipe.training.seed] if options.seeds is None else repeats.parse_seeds(options.seeds)
    with parallel.process_group():
        parts = repeats.fold(choice.splits(recipe), options.folds, recipe.training.seed)
        last, best = _fit_folds(options, recipe, folder, parts, seeds)
        if parallel.rank() == 0:
            _finish(folder, [len(part.dev) for part in parts], last, best)


def _fit_folds(
    options: argparse.Namespace, recipe: Any, folder: Path, parts: list[Any], seeds: list[int]
) -> tuple[dict[str, float], dict[str, float]]:
    """The scores of each fold, a mean over seeds: of the last epochs, and of the best ones."""
    from training.commands.fit import best_of, fit_one
    from training.seeds_and_folds import with_seed

    last: dict[str, float] = {}
    best: dict[str, float] = {}
    for number, part in enumerate(parts, 1):
        for seed in seeds:
            place = folder / f"fold-{number}" if len(seeds) == 1 else folder / f"seed-{seed}" / f"fold-{number}"
            finished = fit_one(
                with_seed(recipe, seed, patience=recipe.training.epochs),
                place,
                options,
                command=command_of(options),
                of=f"fold {number}" if len(seeds) == 1 else f"fold {number}, seed {seed}",
                examples=part,
            )
            name = f"fold-{number}"
            last[name] = last.get(name, 0.0) + finished.history[-1][finished.metric] / len(seeds)
            best[name] = best.get(name, 0.0) + finished.history[best_of(finished) - 1][finished.metric] / len(seeds)
    return last, best


def _finish(folder: Path, sizes: list[int], last: dict[str, float], best: dict[str, float]) -> None:
    from training import seeds_and_folds as repeats

    table = Table("fold", "held out", "last epoch", "best epoch", box=None)
    for name, size in zip(last, sizes, strict=True):
        table.add_row(name, f"{size}", f"{last[name]:.2f}", f"{best[name]:.2f}")
    console.print(table)
    summary = repeats.summarise(last, sizes)
    repeats.write(folder / "folds.json", summary, held_out=sizes, best_epochs=best)
    say(f"over all {sum(sizes):,} examples, each held out once: {summary}")
    chosen = repeats.summarise(best, sizes)
    say(
        f"with the epoch chosen on the held out part itself, so too good: {chosen.mean:.2f}; all in {folder}/folds.json"
    )
