"""Commands of training.studies: long dependencies, gradients over time, and generated tunes."""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from models.messages import suggest
from seqserve import picture_file
from training.data.examples import DataError
from training.terminal import RUNS, add_option, console, echo

RESULTS, PICTURE = Path("docs/results/dependencies.json"), Path("docs/images/dependencies.png")
SHORTEST = 10  # steps: a tenth of the temporal-order task is one step


def register(commands: Any) -> None:
    parser = commands.add_parser(
        "dependencies",
        help="Test which cell learns long dependencies.",
        description="Train cells on synthetic tasks of growing length. Results are written immediately, and the same "
        "command resumes. Without options, it produces the table in the documentation.",
    )
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
    parser.set_defaults(run_command=run_dependencies)

    parser = commands.add_parser(
        "gradients",
        help="Plot how far back gradients reach.",
        description="Plot the norm of the gradient at every earlier state: of a recipe, of a run, or of several cells.",
    )
    parser.add_argument("what", nargs="?", metavar="RECIPE|RUN", help="Plot this network (default: compare --cells).")
    add_option(parser, "--cells", "Compare these cells", default="rnn,lstm,gru", metavar="A,B")
    add_option(parser, "--steps", "Go back at most N steps", default=100, type=int, metavar="N")
    parser.add_argument("--train", type=int, default=0, metavar="N", help="Also plot after N updates.")
    add_option(parser, "--clip", "With --train: clip gradients", default=1.0, type=float)
    add_option(parser, "--omega", "With --train: weigh the regularizer", default=4.0, type=float)
    add_option(parser, "--out", "Write the plot here", default=RUNS / "gradients.png", type=picture_file, metavar="PNG")
    parser.set_defaults(run_command=plot_gradients)

    parser = commands.add_parser(
        "tunes",
        help="Measure the share of generated tunes that parse.",
        description="Generate ABC tunes and parse them with music21 (pip install music21). The first and last bar of a "
        "part may be upbeats and are not counted.",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="Sample from this bundle, which must generate ABC.")
    add_option(parser, "--count", "Generate N tunes", default=200, type=int, metavar="N")
    parser.add_argument("--out", type=Path, metavar="JSON", help="Write the figures and the tunes that do not parse.")
    parser.set_defaults(run_command=judge_tunes)


def run_dependencies(options: argparse.Namespace) -> None:
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
