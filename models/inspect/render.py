"""Show rows on a terminal, as a table or as strips of text, or as a heat map in a PNG file.

T steps.
"""

import math
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

import numpy as np

from models.codecs.images import Pixels
from models.inspect import NotInstalled
from models.inspect.units import HIGH, LOW, MIDDLE, Color, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Line = list[tuple[str, Color | None]]  # texts with their background colors
Form = Literal["auto", "table", "strip"]

BLOCKS = "▁▂▃▄▅▆▇█"  # lowest to highest value, for terminals without colors
LONGEST_TABLE = 40  # steps, one line each
LONGEST_PICTURE = 280  # steps; more would be too narrow to read
STEP_INCHES, ROW_INCHES = 0.14, 0.24
NARROWEST, WIDEST = 6.0, 40.0  # inches
PANELS, PANEL_INCHES = 8, 1.5  # pictures in a row, and their width
DARKEST, TINY = 0.75, 1e-6  # opacity of the shade without attention; smallest weight


def printable(step: str) -> str:
    """Return a step with its line breaks and tabs made visible."""
    return step.replace("\n", "⏎").replace("\r", "␍").replace("\t", "⇥")


def show(steps: Sequence[str], rows: Sequence[Row], *, form: Form = "auto", out: TextIO | None = None) -> None:
    """Print rows to `out`, by default standard output. Form "auto" depends on the number of steps."""
    out = out or sys.stdout
    paint = _color_printer(out)
    if form == "table" or (form == "auto" and len(steps) <= LONGEST_TABLE):
        lines = table(steps, rows)
    else:
        width = shutil.get_terminal_size((100, 24)).columns
        lines = strips(steps, rows, width=width, colored=paint is not None)
    for line in lines:
        if paint is not None:
            paint(line)
        else:
            out.write("".join(text for text, _ in line).rstrip() + "\n")


def table(steps: Sequence[str], rows: Sequence[Row]) -> list[Line]:
    """Return one line per step and one column per row, with two decimals."""
    widths = [max(6, len(row.label)) for row in rows]
    left = max(len(printable(step)) for step in steps)
    header: Line = [
        (" " * left, None),
        *((f"  {row.label:>{width}}", None) for row, width in zip(rows, widths, strict=True)),
    ]
    lines = [header]
    for number, step in enumerate(steps):
        line: Line = [(f"{printable(step):<{left}}", None)]
        for row, width in zip(rows, widths, strict=True):
            value = float(row.values[number])
            line += [("  ", None), (f"{value:>{width}.2f}", row.color(value))]
        lines.append(line)
    return lines


def strips(steps: Sequence[str], rows: Sequence[Row], *, width: int, colored: bool) -> list[Line]:
    """Return the text line by line, once per row: colored by its values, or with a block under each step."""
    left = max(len(row.label) for row in rows) + 2
    gap = "" if all(len(step) == 1 for step in steps) else " "
    lines: list[Line] = []
    for numbers in _wrap(steps, width - left, gap):
        texts = [printable(steps[number]) + gap for number in numbers]
        if not colored:
            lines.append([(" " * left + "".join(texts), None)])
        for row in rows:
            line: Line = [(f"{row.label:<{left}}", None)]
            for number, text in zip(numbers, texts, strict=True):
                value = float(row.values[number])
                block = BLOCKS[min(len(BLOCKS) - 1, int(row.fraction(value) * len(BLOCKS)))]
                line.append((text, row.color(value)) if colored else (block * len(text), None))
            lines.append(line)
        lines.append([])
    return lines


def _wrap(steps: Sequence[str], width: int, gap: str) -> Iterable[list[int]]:
    """Yield the step numbers of each line. A line ends at `width` or at a line break in the text."""
    line: list[int] = []
    used = 0
    for number, step in enumerate(steps):
        size = len(printable(step)) + len(gap)
        if line and used + size > width:
            yield line
            line, used = [], 0
        line.append(number)
        used += size
        if "\n" in step:
            yield line
            line, used = [], 0
    if line:
        yield line


def _color_printer(out: TextIO) -> Callable[[Line], None] | None:
    """Return a function that prints a line in color, or None if rich is missing or `out` has no colors."""
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        return None
    console = Console(file=out)
    if console.color_system is None or console.no_color:
        return None

    def paint(line: Line) -> None:
        text = Text()
        for part, color in line:
            text.append(part, "" if color is None else f"black on rgb({color[0]},{color[1]},{color[2]})")
        console.print(text, soft_wrap=True)

    return paint


def save_picture(steps: Sequence[str], groups: Sequence[tuple[str, Sequence[Row]]], path: Path, title: str) -> None:
    """Write one heat map per group of rows to a PNG file.

    Raises ValueError for more than LONGEST_PICTURE steps, and NotInstalled without matplotlib.
    """
    if len(steps) > LONGEST_PICTURE:
        raise ValueError(f"the input has {len(steps)} steps, but a picture holds {LONGEST_PICTURE}; shorten the input")
    figure_of = _figures()
    words = any(len(step) > 1 for step in steps)
    count = sum(len(rows) for _, rows in groups)
    width = len(steps) * STEP_INCHES * (3 if words else 1) + 2.5
    height = count * ROW_INCHES + 0.9 * len(groups) + (0.9 if words else 0.5)
    figure = figure_of(float(np.clip(width, NARROWEST, WIDEST)), height)
    axes = figure.subplots(
        len(groups), 1, squeeze=False, sharex=True, height_ratios=[len(rows) + 1 for _, rows in groups]
    )[:, 0]
    for axis, (name, rows) in zip(axes, groups, strict=True):
        _heat_map(axis, name, rows)
    axes[-1].set_xticks(range(len(steps)), [printable(step) for step in steps], rotation=90 if words else 0)
    for axis in axes:
        axis.tick_params(axis="x", labelsize=9, length=0)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path)


def save_attention(picture: Pixels, rows: Sequence[Row], path: Path, title: str = "") -> None:
    """Write a picture (H, W, 3), and again for each piece: light where the network looked when it wrote the piece.

    The values of a row are the weights of square patches, row by row. Raises NotInstalled without matplotlib.
    """
    figure_of = _figures()
    columns = min(PANELS, 1 + len(rows))
    count = -(-(1 + len(rows)) // columns)
    figure = figure_of(PANEL_INCHES * columns, (PANEL_INCHES + 0.25) * count + 0.3)
    panels = figure.subplots(count, columns, squeeze=False).ravel()
    for axis in panels:
        axis.axis("off")
    panels[0].imshow(picture)
    panels[0].set_title("read", fontsize=9)
    extent = (0, picture.shape[1], picture.shape[0], 0)
    for axis, row in zip(panels[1:], rows, strict=False):
        highest, side = max(float(row.values.max()), TINY), math.isqrt(len(row.values))
        shade = 1 - row.values.reshape(side, side) / highest
        axis.imshow(picture, extent=extent)
        axis.imshow(np.zeros((side, side, 3)), alpha=DARKEST * shade, extent=extent)
        axis.set_title(f"{row.label} {highest:.2f}".replace("$", r"\$"), fontsize=9)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path)


def _figures() -> Callable[[float, float], "Figure"]:
    """Return a function from a width and a height in inches to a figure. Raises NotInstalled without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise NotInstalled(
            "the package matplotlib is missing; run pip install matplotlib, or install the train extra"
        ) from None

    def make(width: float, height: float) -> Figure:
        figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        return figure

    return make


def _heat_map(axis: "Axes", name: str, rows: Sequence[Row]) -> None:
    """Draw one group of rows, all on one scale."""
    from matplotlib.colors import LinearSegmentedColormap

    signed = any(row.signed for row in rows)
    reach = max(row.reach for row in rows)
    ends: list[Any] = [tuple(part / 255 for part in color) for color in (LOW, MIDDLE, HIGH)]
    colors = LinearSegmentedColormap.from_list("rows", ends if signed else ends[1:])
    values = np.stack([row.values for row in rows])  # (rows, T)
    image = axis.imshow(
        values, aspect="auto", cmap=colors, vmin=-reach if signed else 0, vmax=reach, interpolation="nearest"
    )
    axis.set_yticks(range(len(rows)), [row.label for row in rows], fontsize=9)
    axis.set_title(name, fontsize=9, loc="left")
    axis.tick_params(axis="y", length=0)
    axis.get_figure().colorbar(image, ax=axis, pad=0.01, fraction=0.03)  # type: ignore[union-attr]
