"""Commands that train without keeping a run: find a learning rate, and benchmark the trainer."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from seqserve import picture_file
from training.data.examples import DataError
from training.recipe import Recipe
from training.terminal import RUNS, add_option, add_recipe_options, command_line, console, echo, progress, recipe_from

if TYPE_CHECKING:
    from training.objectives import Objective

FEWEST_STEPS = 50  # each step raises the rate by up to a fifth


def register(commands: Any) -> None:
    parser = commands.add_parser(
        "find-lr",
        help="Suggest a learning rate.",
        description="Train briefly while the learning rate rises from 1e-5 to 1, and plot the loss (Smith 2017).",
    )
    add_recipe_options(parser)
    add_option(parser, "--steps", "Take this many steps", default=200, type=int, metavar="N")
    parser.add_argument(
        "--out", type=picture_file, metavar="PNG", help="Write the plot here (default: runs/NAME-lr.png)."
    )
    parser.set_defaults(run_command=find_learning_rate)

    parser = commands.add_parser(
        "benchmark",
        help="Measure tokens per second of the trainer.",
        description="Compare the trainer with bare forward, backward and optimizer steps on the same batches. Use an "
        "idle machine; the two are timed alternately.",
    )
    add_recipe_options(parser)
    add_option(parser, "--batches", "Time this many batches", default=100, type=int, metavar="N")
    add_option(parser, "--repeats", "Repeat each timing", default=7, type=int, metavar="N")
    parser.add_argument("--threads", type=int, metavar="N", help="Use this many threads (default: as fit does).")
    parser.add_argument(
        "--neighbor", action="store_true", help="Only compare the trainer alone and next to a process that uses a core."
    )
    parser.add_argument("--cells", action="store_true", help="Also time one layer of each cell.")
    parser.add_argument(
        "--out", type=Path, metavar="JSON", help="Write the result here (default: runs/NAME-benchmark.json)."
    )
    parser.set_defaults(run_command=benchmark_trainer)


def find_learning_rate(options: argparse.Namespace) -> None:
    from training import lr_finder
    from training.prepare import prepare

    if options.steps < FEWEST_STEPS:
        raise DataError(f"--steps {options.steps}: give at least {FEWEST_STEPS}")
    recipe = recipe_from(options)
    path = options.out or RUNS / f"{recipe.name}-lr.png"
    with progress() as shown:
        curve = lr_finder.run_range_test(
            prepare(recipe).objective(recipe), recipe.training, options.steps, report=lambda *now: shown.batch(1, *now)
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    lr_finder.plot_range_test(curve, path, recipe.name)
    echo(f"the loss falls fastest at {curve.steepest:.1g} and is lowest at {curve.lowest:.1g}: {path}")
    current = recipe.training.learning_rate
    echo(f"suggestion: --set training.learning_rate={curve.suggestion:g} (the recipe has {current:g})")


def benchmark_trainer(options: argparse.Namespace) -> None:
    from training import benchmark
    from training.device_precision import threads_for
    from training.prepare import prepare
    from training.run import describe_machine

    recipe = recipe_from(options)
    objective = prepare(recipe).objective(recipe)
    with threads_for(options.threads or recipe.training.threads, objective.network):
        result = {"recipe": recipe.name, "command": command_line(options), "machine": describe_machine()}
        if options.neighbor:
            seconds = benchmark.measure_neighbor(objective, recipe.training, options.batches, options.repeats)
            ratio = seconds["busy"] / seconds["idle"]
            echo(f"alone {seconds['idle']:.2f} s, next to a busy process {seconds['busy']:.2f} s: {ratio:.2f} times")
            result |= {"neighbor_s": seconds, "ratio": ratio}
        else:
            result |= _measure_loop(options, recipe, objective)
    path = options.out or RUNS / f"{recipe.name}-benchmark.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    echo(f"result: {path}")


def _measure_loop(options: argparse.Namespace, recipe: Recipe, objective: "Objective") -> dict[str, Any]:
    """Compare the loop with bare steps and, if chosen, the cells; print and return the result."""
    from training import benchmark

    padding = benchmark.padding_percent(objective)
    echo(f"padding waste of the training batches: {padding:.1f} %")
    speed = benchmark.measure_training(objective, recipe.training, options.batches, options.repeats)
    echo(f"trainer: {speed.loop:,.0f} tokens/s; bare forward, backward and step: {speed.bare:,.0f}")
    echo(f"the trainer reaches {speed.share:.1f} % of the bare speed; batching takes {speed.collate:.1f} % of its time")
    result = {"padding_percent": padding, **asdict(speed)}
    if options.cells:
        rows = recipe.training.streams if recipe.task == "generate" else 32
        steps = recipe.training.steps if recipe.task == "generate" else recipe.training.batch_tokens // rows
        cells = benchmark.measure_cells(recipe.architecture.hidden, steps, rows, options.repeats)
        table = Table(f"{recipe.architecture.hidden} units, {steps} steps, {rows} rows", "ms", "vs nn.LSTM", box=None)
        for kind, milliseconds in cells.items():
            table.add_row(kind, f"{milliseconds:.1f}", f"{milliseconds / cells['nn.LSTM']:.2f}")
        console.print(table)
        result["cells_ms"] = cells
    return result
