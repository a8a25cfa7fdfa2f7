"""How far back a gradient reaches: its norm at every earlier state, by cell, where it vanishes and where it explodes.

Without a recipe or a run: untrained cells by what decides it, the spectral radius or the bias of the gate that keeps
the state; with --train also before and after some updates on temporal order, with clipping and the regulariser Ω.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from training.terminal import RUNS, console, say

HELP = "how far back the gradient of a loss reaches, as a picture"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", help="a recipe (untrained) or a run folder (trained); default: --cells")
    parser.add_argument("--cells", default="rnn,lstm,gru", help="cells to compare (default: rnn,lstm,gru)")
    parser.add_argument("--steps", type=int, default=100, help="steps back at most (default: 100)")
    parser.add_argument("--train", type=int, default=0, metavar="N", help="also after N updates on temporal order")
    parser.add_argument("--clip", type=float, default=1.0, help="with --train: largest norm (default: 1)")
    parser.add_argument("--omega", type=float, default=4.0, help="with --train: strength of Ω (default: 4)")
    parser.add_argument("--out", type=Path, default=RUNS / "gradients.png", help="PNG (default: runs/gradients.png)")


def run(options: argparse.Namespace) -> None:
    import torch

    from training.data import DataError
    from training.studies.gradient_flow import compare_cells, inspect_network, plot_panels
    from training.studies.long_dependencies import METHODS, method_of

    if options.steps < SHORTEST:
        raise DataError(f"--steps {options.steps}: at least {SHORTEST}, or there is no way back to see")
    torch.set_num_threads(1)  # one step at a time: each core would be another's overhead
    if options.what:
        panels = [inspect_network(options.what, options.steps)]
    else:
        helped = replace(METHODS["rnn-clip-omega"], clip=options.clip, omega=options.omega)
        cells = [method_of(name).cell for name in options.cells.split(",")]
        panels = compare_cells(cells, options.steps, options.train, helped)
    table = Table(
        "gradient of a loss at the last step", "there", "half way back", "at the first", "factor a step", box=None
    )
    for panel in panels:
        table.add_section()
        for curve in panel.curves:
            norms = [curve.norms[-1], curve.norms[len(curve.norms) // 2], curve.norms[0]]
            table.add_row(f"{panel.title}: {curve.label}", *(f"{norm:.1e}" for norm in norms), f"{curve.factor:.3f}")
    console.print(table)
    plot_panels(panels, options.out)
    say(f"norms over {len(panels[0].curves[0].norms)} steps, median of a batch: {options.out}")


SHORTEST = 10  # steps: a tenth of temporal order is a step
