"""Commands of training.studies: long dependencies, gradients over time, and generated tunes."""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from training.data.examples import DataError
from training.terminal import RUNS, console, echo

RESULTS, PICTURE = Path("docs/results/dependencies.json"), Path("docs/images/dependencies.png")
SHORTEST = 10  # steps: a tenth of the temporal-order task is one step


def register(commands: Any) -> None:
    parser = commands.add_parser(
        "dependencies",
        help="Test which cell learns long dependencies.",
        description="Train cells on synthetic tasks of growing length. Results are written as they come, and the same "
        "command resumes. Without options it makes the table of the documentation.",
    )
    parser.add_argument(
        "--tasks",
        default="temporal-order,adding,copy",
        metavar="A,B",
        help="Train on these tasks (default: all three).",
    )
    parser.add_argument(
        "--lengths",
        default="20,50,100,200",
        metavar="N,N",
        help="Use sequences of these lengths (default: 20,50,100,200).",
    )
    parser.add_argument(
        "--cells", metavar="A,B", help="Train these methods of the study, or cells (default: all methods)."
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="Train each with N seeds (default: 3).")
    parser.add_argument("--first-seed", type=int, default=1, metavar="N", help="Count seeds from here (default: 1).")
    parser.add_argument("--updates", type=int, default=2_000, metavar="N", help="Stop after N updates (default: 2000).")
    parser.add_argument("--learning-rates", metavar="A,B", help="Try these instead of each method's own.")
    parser.add_argument("--clip", type=float, help="Clip gradients of the methods that clip (default: 1).")
    parser.add_argument("--omega", type=float, help="Weigh the regularizer of the methods that use it (default: 4).")
    parser.add_argument("--all-lengths", action="store_true", help="Continue beyond a length that no seed solved.")
    parser.add_argument(
        "--out", type=Path, metavar="JSON", default=RESULTS, help=f"Write results here (default: {RESULTS})."
    )
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="PNG",
        help=f"Write the plot here (default: {PICTURE}, or --out with suffix .png).",
    )
    parser.set_defaults(run_command=run_dependencies)

    parser = commands.add_parser(
        "gradients",
        help="Plot how far back gradients reach.",
        description="Plot the norm of the gradient at every earlier state: of a recipe, of a run, or of several cells.",
    )
    parser.add_argument("what", nargs="?", metavar="RECIPE|RUN", help="Plot this network (default: compare --cells).")
    parser.add_argument(
        "--cells", default="rnn,lstm,gru", metavar="A,B", help="Compare these cells (default: rnn,lstm,gru)."
    )
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="Go back at most N steps (default: 100).")
    parser.add_argument("--train", type=int, default=0, metavar="N", help="Also plot after N updates.")
    parser.add_argument("--clip", type=float, default=1.0, help="With --train: clip gradients (default: 1).")
    parser.add_argument("--omega", type=float, default=4.0, help="With --train: weigh the regularizer (default: 4).")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PNG",
        default=RUNS / "gradients.png",
        help="Write the plot here (default: runs/gradients.png).",
    )
    parser.set_defaults(run_command=plot_gradients)

    parser = commands.add_parser(
        "tunes",
        help="Measure the share of generated tunes that parse.",
        description="Generate ABC tunes and parse them with music21 (pip install music21). The first and last bar of a "
        "part may be upbeats and are not counted.",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="Sample from this bundle, which must generate ABC.")
    parser.add_argument("--count", type=int, default=200, metavar="N", help="Generate N tunes (default: 200).")
    parser.add_argument("--out", type=Path, metavar="JSON", help="Write the figures and the tunes that do not parse.")
    parser.set_defaults(run_command=judge_tunes)


def run_dependencies(options: argparse.Namespace) -> None:
    import torch

    from training.studies.long_dependencies import METHODS, TASKS, StudyBudget, StudyTable, method_of, run_sweep

    torch.set_num_threads(1)  # faster for such small layers
    tasks, lengths = options.tasks.split(","), [int(length) for length in options.lengths.split(",")]
    if unknown := [name for name in tasks if name not in TASKS]:
        raise DataError(f"no task {unknown[0]!r}: choose from {', '.join(TASKS)}")
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
        command = f"python -m training tunes {options.bundle} --count {options.count}"
        refused = [check.text for check in checks if not check.parses]
        content = {"command": command, **asdict(summary), "refused": refused}
        options.out.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
