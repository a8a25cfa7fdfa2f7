"""Commands that train or generate without keeping a run: a learning rate, the trainer's speed, and training.studies."""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from models.messages import suggest
from seqserve import picture_file
from training.data.examples import DataError
from training.recipe import Recipe
from training.terminal import (
    RUNS,
    add_command,
    add_option,
    add_recipe_options,
    command_line,
    console,
    echo,
    progress,
    recipe_from,
)

if TYPE_CHECKING:
    from training.objectives import Objective

FEWEST_STEPS = 50  # each step raises the rate by up to a fifth
RESULTS, PICTURE = Path("docs/results/dependencies.json"), Path("docs/images/dependencies.png")
SHORTEST = 10  # steps: a tenth of the temporal-order task is one step


def register(commands: Any) -> None:
    parser = add_command(commands, "find-lr", find_learning_rate)
    add_recipe_options(parser)
    add_option(parser, "--steps", "Take this many steps", default=200, type=int, metavar="N")
    parser.add_argument(
        "--out", type=picture_file, metavar="PNG", help="Write the plot here (default: runs/NAME-lr.png)."
    )

    parser = add_command(commands, "benchmark", benchmark_trainer)
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

    parser = add_command(commands, "dependencies", run_dependencies)
    add_option(parser, "--tasks", "Train on these tasks", default="temporal-order,adding,copy", metavar="A,B")
    add_option(parser, "--lengths", "Use sequences of these lengths", default="20,50,100,200", metavar="N,N")
    parser.add_argument("--cells", metavar="A,B", help="Train these methods or cells (default: all methods).")
    add_option(parser, "--seeds", "Train each with N seeds", default=3, type=int, metavar="N")
    add_option(parser, "--first-seed", "Count seeds from here", default=1, type=int, metavar="N")
    add_option(parser, "--updates", "Stop after N updates", default=2000, type=int, metavar="N")
    parser.add_argument("--learning-rates", metavar="A,B", help="Try these instead of each method's own.")
    parser.add_argument("--clip", type=float, help="Clip gradients of the methods that clip (default: 1).")
    parser.add_argument("--omega", type=float, help="Weigh the regularizer of the methods that use it (default: 4).")
    parser.add_argument("--all-lengths", action="store_true", help="Continue beyond a length that no seed solved.")
    add_option(parser, "--out", "Write results here", default=RESULTS, type=Path, metavar="JSON")
    picture = f"{PICTURE}, or --out with suffix .png"
    parser.add_argument(
        "--picture", type=picture_file, metavar="PNG", help=f"Write the plot here (default: {picture})."
    )

    parser = add_command(commands, "gradients", plot_gradients)
    parser.add_argument("what", nargs="?", metavar="RECIPE|RUN", help="Plot this network (default: compare --cells).")
    add_option(parser, "--cells", "Compare these cells", default="rnn,lstm,gru", metavar="A,B")
    add_option(parser, "--steps", "Go back at most N steps", default=100, type=int, metavar="N")
    parser.add_argument("--train", type=int, default=0, metavar="N", help="Also plot after N updates.")
    add_option(parser, "--clip", "With --train: clip gradients", default=1.0, type=float)
    add_option(parser, "--omega", "With --train: weigh the regularizer", default=4.0, type=float)
    add_option(parser, "--out", "Write the plot here", default=RUNS / "gradients.png", type=picture_file, metavar="PNG")

    parser = add_command(commands, "tunes", judge_tunes)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="Sample from this bundle, which must generate ABC.")
    add_option(parser, "--count", "Generate N tunes", default=200, type=int, metavar="N")
    parser.add_argument("--out", type=Path, metavar="JSON", help="Write the figures and the tunes that do not parse.")


def find_learning_rate(options: argparse.Namespace) -> None:
    """Train briefly while the learning rate rises from 1e-5 to 1, and plot the loss (Smith 2017)."""
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
    """Compare the trainer with bare forward, backward and optimizer steps on the same batches.

    Use an idle machine; the two are timed alternately.
    """
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


def run_dependencies(options: argparse.Namespace) -> None:
    """Train cells on synthetic tasks of growing length.

    Results are written immediately, and the same command resumes. Without options, it produces the table in the
    documentation.
    """
    import torch

    from training.studies.long_dependencies import METHODS, TASKS, StudyBudget, StudyTable, method_of, run_sweep

    torch.set_num_threads(1)  # faster for such small layers
    tasks, lengths = options.tasks.split(","), [int(length) for length in options.lengths.split(",")]
    if unknown := [name for name in tasks if name not in TASKS]:
        raise DataError(f"no task {unknown[0]!r}; {suggest(unknown[0], TASKS)}")
    if min(lengths) < SHORTEST:
        raise DataError(f"--lengths {min(lengths)}: give at least {SHORTEST} steps")
    methods = [method_of(name) for name in (options.cells.split(",") if options.cells else METHODS)]
    if options.clip is not None:
        methods = [replace(one, clip=options.clip) if one.clip is not None else one for one in methods]
    if options.omega is not None:
        methods = [replace(one, omega=options.omega) if one.omega else one for one in methods]
    if options.learning_rates:
        rates = [float(rate) for rate in options.learning_rates.split(",")]
        methods = [replace(one, name=f"{one.name}@{rate:g}", learning_rate=rate) for one in methods for rate in rates]
    attempts = run_sweep(
        options.out,
        echo,
        tasks=[TASKS[name] for name in tasks],
        methods=methods,
        lengths=lengths,
        seeds=range(options.first_seed, options.first_seed + options.seeds),
        budget=StudyBudget(updates=options.updates),
        all_lengths=options.all_lengths,
    )
    results = StudyTable(attempts)
    table = Table("task", "method", *(f"T = {steps}" for steps in results.lengths), box=None)
    for task, method, texts in results.rows():
        table.add_row(task, method, *texts)
    console.print(table)
    picture = options.picture or (PICTURE if options.out == RESULTS else options.out.with_suffix(".png"))
    results.plot(picture)
    echo(f"seeds that solved the task, with the median of their updates; results: {options.out}, picture: {picture}")


def plot_gradients(options: argparse.Namespace) -> None:
    """Plot the norm of the gradient at every earlier state: of a recipe, of a run, or of several cells."""
    import torch

    from training.studies.gradient_flow import compare_cells, inspect_network, plot_panels
    from training.studies.long_dependencies import METHODS, method_of

    if options.steps < SHORTEST:
        raise DataError(f"--steps {options.steps}: give at least {SHORTEST}")
    torch.set_num_threads(1)  # faster for one step at a time
    if options.what:
        panels = [inspect_network(options.what, options.steps)]
    else:
        helped = replace(METHODS["rnn-clip-omega"], clip=options.clip, omega=options.omega)
        cells = [method_of(name).cell for name in options.cells.split(",")]
        panels = compare_cells(cells, options.steps, options.train, helped)
    columns = ("gradient of a loss at the last step", "last state", "halfway", "first state", "factor per step")
    table = Table(*columns, box=None)
    for panel in panels:
        table.add_section()
        for curve in panel.curves:
            norms = [curve.norms[-1], curve.norms[len(curve.norms) // 2], curve.norms[0]]
            table.add_row(f"{panel.title}: {curve.label}", *(f"{norm:.1e}" for norm in norms), f"{curve.factor:.3f}")
    console.print(table)
    plot_panels(panels, options.out)
    echo(f"norms over {len(panels[0].curves[0].norms)} steps, median of a batch: {options.out}")


def judge_tunes(options: argparse.Namespace) -> None:
    """Generate ABC tunes and parse them with music21 (pip install music21).

    The first and last bar of a part may be upbeats and are not counted.
    """
    from rich.progress import track

    from models import bundle
    from models.onnx_session import Placement
    from training.studies import tunes

    opened = bundle.load(options.bundle, placement=Placement(device="cpu"))
    tunes.check_tune("X:1\nK:C\nCDEF|\n")  # fails early without music21
    ticks = iter(track(range(options.count), "generating", console=console, disable=not console.is_terminal))
    texts = tunes.generate_tunes(opened, options.count, lambda: next(ticks, None))
    checks = [tunes.check_tune(text) for text in texts]
    summary = tunes.summarize(checks)
    echo(f"of {summary.samples} tunes {summary.parse:.1f} % parse; {summary.full_bars:.1f} % of inner bars are full")
    if options.out:
        command = f"seqserve tunes {options.bundle} --count {options.count}"
        refused = [check.text for check in checks if not check.parses]
        content = {"command": command, **asdict(summary), "refused": refused}
        options.out.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
