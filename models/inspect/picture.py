"""Rows as a heat map in a PNG. Knows rows; needs matplotlib, which it imports when it draws.

T steps.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.inspect.rows import HIGH, LOW, MIDDLE, Row
from models.inspect.terminal import shown
from models.inspect.trace import NotInstalled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INCHES_A_STEP, INCHES_A_ROW = 0.14, 0.24
NARROWEST, WIDEST = 6.0, 40.0  # inches of a picture
LONGEST = 280  # steps: more would be too narrow to read at the widest


def draw(steps: Sequence[str], groups: Sequence[tuple[str, Sequence[Row]]], path: Path, title: str) -> None:
    """One heat map a group of rows, above one another over the same steps; written to `path`.

    Raises ValueError for more than LONGEST steps, NotInstalled where matplotlib is missing.
    """
    if len(steps) > LONGEST:
        raise ValueError(f"a picture holds at most {LONGEST} steps, this input has {len(steps)}: give less of it")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise NotInstalled(
            "a picture needs the package matplotlib: pip install matplotlib, or the train extra"
        ) from None
    words = any(len(step) > 1 for step in steps)
    count = sum(len(rows) for _, rows in groups)
    wide = len(steps) * INCHES_A_STEP * (3 if words else 1) + 2.5
    high = count * INCHES_A_ROW + 0.9 * len(groups) + (0.9 if words else 0.5)
    figure = Figure(figsize=(float(np.clip(wide, NARROWEST, WIDEST)), high), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        len(groups), 1, squeeze=False, sharex=True, height_ratios=[len(rows) + 1 for _, rows in groups]
    )[:, 0]
    for axis, (name, rows) in zip(axes, groups, strict=True):
        _heat(axis, name, rows)
    axes[-1].set_xticks(range(len(steps)), [shown(step) for step in steps], rotation=90 if words else 0)
    for axis in axes:
        axis.tick_params(axis="x", labelsize=9, length=0)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path)


def _heat(axis: "Axes", name: str, rows: Sequence[Row]) -> None:
    """One group: as a picture of numbers in [-1, 1], all rows to one scale."""
    from matplotlib.colors import LinearSegmentedColormap

    signed = any(row.signed for row in rows)
    reach = max(row.reach for row in rows)
    ends: list[Any] = [tuple(part / 255 for part in colour) for colour in (LOW, MIDDLE, HIGH)]
    colours = LinearSegmentedColormap.from_list("house", ends if signed else ends[1:])
    values = np.stack([row.values for row in rows])  # (rows, T)
    image = axis.imshow(
        values, aspect="auto", cmap=colours, vmin=-reach if signed else 0, vmax=reach, interpolation="nearest"
    )
    axis.set_yticks(range(len(rows)), [row.label for row in rows], fontsize=9)
    axis.set_title(name, fontsize=9, loc="left")
    axis.tick_params(axis="y", length=0)
    axis.get_figure().colorbar(image, ax=axis, pad=0.01, fraction=0.03)  # type: ignore[union-attr]
