"""Find a learning rate: train a moment while it rises from 1e-5 to 1, and see where the loss falls (Smith 2017).

Writes a picture and changes nothing else. A suggestion is a place to start from, for the batches and the optimiser of
the recipe; schedules and averages stand more.
"""

import argparse
from pathlib import Path

from training.data import DataError
from training.terminal import RUNS, add_recipe, progress, recipe_of, say

HELP = "suggest a learning rate"
FEWEST = 50  # steps: each is a fifth of the rate further, or more


def add(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument(
        "--steps", type=int, default=200, help="steps from the lowest to the highest rate (default: 200)"
    )
    parser.add_argument("--to", type=Path, help="the picture (default: runs/NAME-rate.png)")


def run(options: argparse.Namespace) -> None:
    from training import lr_finder
    from training.prepare import prepare

    if options.steps < FEWEST:
        raise DataError(f"--steps {options.steps}: at least {FEWEST}, or the loss says nothing")
    recipe = recipe_of(options)
    path = options.to or RUNS / f"{recipe.name}-rate.png"
    with progress() as report:
        curve = lr_finder.run_range_test(
            prepare(recipe).objective(recipe), recipe.training, options.steps, report=lambda *now: report(1, *now)
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    lr_finder.plot_range_test(curve, path, recipe.name)
    say(f"the loss falls fastest at {curve.steepest:.1g} and is smallest at {curve.lowest:.1g}: {path}")
    has = recipe.training.learning_rate
    say(f"suggestion: --set training.learning_rate={curve.suggestion:g} (the recipe has {has:g})")
