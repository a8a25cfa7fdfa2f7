"""How fast the loop trains a recipe, against forward, backward and step alone on the same batches.

Nothing is kept but a file with the result. Give the machine nothing else to do meanwhile; arms are timed in turn, so
that the ratio stands a little noise, the tokens a second do not.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from training.terminal import RUNS, add_recipe, command_of, console, recipe_of, say

HELP = "tokens a second of the loop, padding, and the cost of each cell"


def add(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument("--batches", type=int, default=100, help="batches timed each time (default: 100)")
    parser.add_argument("--repeats", type=int, default=7, help="how often everything is timed (default: 7)")
    parser.add_argument("--threads", type=int, help="threads of PyTorch (default: all cores)")
    parser.add_argument("--cells", action="store_true", help="also a layer of each cell, of the recipe's size")
    parser.add_argument("--to", type=Path, help="the result as JSON (default: runs/NAME-benchmark.json)")


def run(options: argparse.Namespace) -> None:
    import torch

    from training import benchmark
    from training import environment as machine
    from training.prepare import prepare

    if options.threads:
        torch.set_num_threads(options.threads)
    recipe = recipe_of(options)
    objective = prepare(recipe).objective(recipe)
    result = {"recipe": recipe.name, "command": command_of(options), "machine": machine.description()}
    padding = benchmark.padding_percent(objective)
    say(f"padding of the training batches: {padding:.1f} %")
    speed = benchmark.measure_training(objective, recipe.training, options.batches, options.repeats)
    say(f"loop: {speed.loop:,.0f} tokens a second; bare forward, backward and step: {speed.bare:,.0f}")
    say(f"the loop reaches {speed.share:.1f} % of the bare speed; making batches is {speed.collate:.1f} % of its time")
    result |= {"padding_percent": padding, **asdict(speed)}
    if options.cells:
        rows = recipe.training.streams if recipe.task == "generate" else 32
        steps = recipe.training.steps if recipe.task == "generate" else recipe.training.batch_tokens // rows
        result["cells_ms"] = _cells(recipe.architecture.hidden, steps, rows, options.repeats)
    path = options.to or RUNS / f"{recipe.name}-benchmark.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    say(f"result: {path}")


def _cells(hidden: int, steps: int, rows: int, repeats: int) -> dict[str, float]:
    from training import benchmark

    found = benchmark.measure_cells(hidden, steps, rows, repeats)
    table = Table(f"{hidden} units, {steps} steps, {rows} rows", "ms", "times nn.LSTM", box=None)
    for kind, milliseconds in found.items():
        table.add_row(kind, f"{milliseconds:.1f}", f"{milliseconds / found['nn.LSTM']:.2f}")
    console.print(table)
    return found
