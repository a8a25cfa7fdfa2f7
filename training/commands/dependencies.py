"""Which cell learns what hangs on something seen long ago: tasks made on the fly, longer and longer.

Writes a file of results as it goes and a picture at the end; the same command goes on where it was stopped. The table
of docs/inside.md is this command without options.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from training.terminal import console, say

if TYPE_CHECKING:
    from training.studies.long_dependencies import StudyTable

HELP = "long-dependency tasks: which cell solves them, up to which length"
RESULTS, PICTURE = Path("docs/results/dependencies.json"), Path("docs/images/dependencies.png")
SHORTEST = 10  # steps: a tenth of temporal order is a step


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tasks", default="temporal-order,adding,copy", help="default: all three")
    parser.add_argument("--lengths", default="20,50,100,200", help="steps (default: 20,50,100,200)")
    parser.add_argument(
        "--cells", help="methods of training/studies/long_dependencies.py, or cells (default: all the methods)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each (default: 3)")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--updates", type=int, default=2_000, help="of each training at most (default: 2000)")
    parser.add_argument("--learning-rates", help="try these instead of each method's own")
    parser.add_argument("--clip", type=float, help="largest norm of the gradient, for all that clip (default: 1)")
    parser.add_argument("--omega", type=float, help="strength of Ω where it is used (default: 4)")
    parser.add_argument("--all-lengths", action="store_true", help="also beyond a length that no seed solved")
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"results (default: {RESULTS})")
    parser.add_argument("--picture", type=Path, help=f"PNG (default: {PICTURE}; beside --out if that is given)")


def run(options: argparse.Namespace) -> None:
    import torch

    from training.data import DataError
    from training.studies.long_dependencies import (
        METHODS,
        StudyBudget,
        StudySweep,
        StudyTable,
        method_of,
        run_sweep,
        tasks_of,
    )

    torch.set_num_threads(1)  # of so small a layer each core would be another's overhead
    lengths = [int(length) for length in options.lengths.split(",")]
    if min(lengths) < SHORTEST:
        raise DataError(f"--lengths {min(lengths)}: the tasks need at least {SHORTEST} steps")
    methods = [method_of(name) for name in (options.cells.split(",") if options.cells else METHODS)]
    if options.clip is not None:
        methods = [replace(one, clip=options.clip) if one.clip is not None else one for one in methods]
    if options.omega is not None:
        methods = [replace(one, omega=options.omega) if one.omega else one for one in methods]
    if options.learning_rates:
        rates = [float(rate) for rate in options.learning_rates.split(",")]
        methods = [replace(one, name=f"{one.name}@{rate:g}", learning_rate=rate) for one in methods for rate in rates]
    sweep = StudySweep(
        tasks=tasks_of(options.tasks.split(",")),
        methods=tuple(methods),
        lengths=tuple(lengths),
        seeds=tuple(range(options.first_seed, options.first_seed + options.seeds)),
        budget=StudyBudget(updates=options.updates),
        all_lengths=options.all_lengths,
    )
    table = StudyTable(run_sweep(sweep, options.out, say))
    console.print(_table(table))
    picture = options.picture or (PICTURE if options.out == RESULTS else options.out.with_suffix(".png"))
    table.plot(picture)
    say(f"solved seeds out of those tried (median of their updates); results: {options.out}, picture: {picture}")


def _table(table: "StudyTable") -> Table:
    shown = Table("task", "method", *(f"T = {steps}" for steps in table.lengths), box=None)
    for task, method, texts in table.rows():
        shown.add_row(task, method, *texts)
    return shown
