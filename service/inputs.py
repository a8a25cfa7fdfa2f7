"""What the inputs of a request are: texts, texts already split, or frames of numbers. How deep the lists go decides.

Knows no model and no HTTP.
"""

from typing import Any

Frames = list[list[float]]
Piecewise = str | list[str] | list[float] | Frames  # what a stream goes on with: a text, steps, a frame, frames
Inputs = str | list[str] | list[list[str]] | Frames | list[Frames]


def first_value(inputs: Any) -> tuple[Any, int]:
    """Return the first string or number, and how many lists it lies in; (None, 0) if there is neither."""
    if not isinstance(inputs, list):
        return inputs, 0
    for part in inputs:
        value, depth = first_value(part)
        if value is not None:
            return value, depth + 1
    return None, 0


def hold_numbers(inputs: list[Any]) -> bool:
    """Whether these are frames, one list of them or several, rather than text."""
    value, _ = first_value(inputs)
    return _depth(inputs) > 2 if value is None else not isinstance(value, str)


def _depth(inputs: Any) -> int:
    """How deep the lists go. Text has two at most, so deeper ones with nothing in them are frames without a number."""
    return 1 + max(map(_depth, inputs), default=0) if isinstance(inputs, list) else 0


def are_one(inputs: list[Any]) -> bool:
    """Whether these are the frames of one input. Lists with nothing in them are several inputs."""
    value, depth = first_value(inputs)
    return depth == 2 and not isinstance(value, str)
