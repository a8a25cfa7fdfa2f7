"""The table of the long-dependency tasks as a picture. Knows attempts, nothing of how they came about."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from training.plots import picture
from training.studies.dependencies import Attempt
from training.studies.dependency_table import Square, names, square

SHADES = "Blues"  # light to dark, in order for every kind of colour vision
DARK = 0.7  # share solved above which a square needs white letters
UNTRIED = "0.93"  # grey, which no share has


def draw(attempts: Sequence[Attempt], path: Path) -> None:
    """A field of squares a task: methods downwards, lengths to the right, the share of seeds as a shade."""
    tasks, methods = names(attempts, "task"), names(attempts, "method")
    path.parent.mkdir(parents=True, exist_ok=True)
    with picture(path, len(tasks), size=(2.2 + 3.3 * len(tasks), 1.2 + 0.5 * len(methods))) as (_, fields):
        for number, (field, task) in enumerate(zip(fields, tasks, strict=True)):
            _field(field, [each for each in attempts if each.task == task], methods)
            field.set_title(task, fontsize=11)
            if number:
                field.set_yticks([])


def _field(field: Axes, attempts: Sequence[Attempt], methods: Sequence[str]) -> None:
    lengths = sorted(names(attempts, "steps"))
    task = attempts[0].task
    squares = [[square(attempts, task, method, steps) for steps in lengths] for method in methods]
    shares = np.array([[one.solved / one.attempts if one.attempts else np.nan for one in row] for row in squares])
    field.set_facecolor(UNTRIED)
    field.imshow(shares, cmap=SHADES, vmin=0, vmax=1.15, aspect="auto")  # the darkest blue hides black and white alike
    for row, line in enumerate(squares):
        for column, one in enumerate(line):
            dark = one.attempts and one.solved / one.attempts > DARK
            colour = "white" if dark else "black"
            field.text(column, row, _words(one), ha="center", va="center", fontsize=8, color=colour)
    field.set_xticks(range(len(lengths)), [str(steps) for steps in lengths])
    field.set_yticks(range(len(methods)), methods)
    field.set_xlabel("T, steps")
    field.tick_params(length=0)


def _words(one: Square) -> str:
    if not one.attempts:
        return "not\ntried"
    updates = f"\n{one.updates:,} updates" if one.updates is not None else ""
    return f"{one.solved} of {one.attempts}{updates}"
