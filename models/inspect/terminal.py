"""Rows on the terminal: a table of numbers for a short input, strips of text for a long one; coloured where rich is.

Knows rows and the width of a line. Does not know layers or how rows were made.
T steps.
"""

import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, TextIO

from models.inspect.rows import Colour, Row

StreamChunk = tuple[str, Colour | None]  # text, and the colour behind it
Line = list[StreamChunk]
Form = Literal["auto", "table", "strip"]

BLOCKS = "▁▂▃▄▅▆▇█"  # a strip without colours: the lowest value to the highest
LONGEST_TABLE = 40  # steps, a line each


def shown(step: str) -> str:
    """A step so that it is seen and stays on its line."""
    return step.replace("\n", "⏎").replace("\r", "␍").replace("\t", "⇥")


def table(steps: Sequence[str], rows: Sequence[Row]) -> list[Line]:
    """A line a step, a column a row, two decimals."""
    widths = [max(6, len(row.label)) for row in rows]
    left = max(len(shown(step)) for step in steps)
    head: Line = [
        (" " * left, None),
        *((f"  {row.label:>{width}}", None) for row, width in zip(rows, widths, strict=True)),
    ]
    lines = [head]
    for number, step in enumerate(steps):
        line: Line = [(f"{shown(step):<{left}}", None)]
        for row, width in zip(rows, widths, strict=True):
            value = float(row.values[number])
            line += [("  ", None), (f"{value:>{width}.2f}", row.colour(value))]
        lines.append(line)
    return lines


def strips(steps: Sequence[str], rows: Sequence[Row], *, width: int, coloured: bool) -> list[Line]:
    """The text, a line of it at a time, once a row: coloured by the row's values, or with a block under each step."""
    left = max(len(row.label) for row in rows) + 2
    gap = "" if all(len(step) == 1 for step in steps) else " "
    lines: list[Line] = []
    for chunk in _chunks(steps, width - left, gap):
        texts = [shown(steps[number]) + gap for number in chunk]
        if not coloured:
            lines.append([(" " * left + "".join(texts), None)])
        for row in rows:
            line: Line = [(f"{row.label:<{left}}", None)]
            for number, text in zip(chunk, texts, strict=True):
                value = float(row.values[number])
                block = BLOCKS[min(len(BLOCKS) - 1, int(row.share(value) * len(BLOCKS)))]
                line.append((text, row.colour(value)) if coloured else (block * len(text), None))
            lines.append(line)
        lines.append([])
    return lines


def _chunks(steps: Sequence[str], width: int, gap: str) -> Iterable[list[int]]:
    """The numbers of the steps of each line: no wider than `width`, and no further than a line end in the text."""
    chunk: list[int] = []
    used = 0
    for number, step in enumerate(steps):
        size = len(shown(step)) + len(gap)
        if chunk and used + size > width:
            yield chunk
            chunk, used = [], 0
        chunk.append(number)
        used += size
        if "\n" in step:
            yield chunk
            chunk, used = [], 0
    if chunk:
        yield chunk


def show(steps: Sequence[str], rows: Sequence[Row], *, form: Form = "auto", out: TextIO | None = None) -> None:
    """Print rows to `out` (standard output): as the form says; "auto" goes by the number of steps."""
    out = out or sys.stdout
    paint = _painter(out)
    if form == "table" or (form == "auto" and len(steps) <= LONGEST_TABLE):
        lines = table(steps, rows)
    else:
        width = shutil.get_terminal_size((100, 24)).columns
        lines = strips(steps, rows, width=width, coloured=paint is not None)
    for line in lines:
        if paint is not None:
            paint(line)
        else:
            out.write("".join(text for text, _ in line).rstrip() + "\n")


def _painter(out: TextIO) -> Callable[[Line], None] | None:
    """What prints a line with its colours; None where rich is not installed or `out` shows no colours."""
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
        for piece, colour in line:
            style = "" if colour is None else f"black on rgb({colour[0]},{colour[1]},{colour[2]})"
            text.append(piece, style)
        console.print(text, soft_wrap=True)

    return paint
