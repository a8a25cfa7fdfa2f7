"""The inputs of a request: texts, split texts, frames or pictures, which differ in the depth of their lists."""

from typing import Any

PICTURE_DEPTH = 3  # lists of one picture: rows of pixels of three numbers
Frames = list[list[float]]
Chunk = str | list[str] | list[float] | Frames  # of a stream: a text, several steps, one frame, or frames
Inputs = str | list[str] | list[list[str]] | Frames | list[Frames]


def first_value(inputs: Any) -> tuple[Any, int]:
    """Return the first string or number and the depth of the lists around it; (None, 0) if there is neither."""
    if not isinstance(inputs, list):
        return inputs, 0
    for part in inputs:
        if part != []:  # a request can have a hundred thousand empty lists
            value, depth = first_value(part)
            if value is not None:
                return value, depth + 1
    return None, 0


def hold_numbers(inputs: list[Any]) -> bool:
    """Return whether these are frames, one list of them or several, rather than text."""
    value, _ = first_value(inputs)
    return _depth(inputs) > 2 if value is None else not isinstance(value, str)


def is_vector(inputs: Any) -> bool:
    """Return whether this is one list or array of numbers."""
    if getattr(inputs, "ndim", 0):
        return bool(inputs.ndim == 1)
    value, depth = first_value(inputs)
    return depth == 1 and not isinstance(value, str)


def _depth(inputs: Any) -> int:
    """Return the depth of the lists. Text has two at most, so deeper empty lists are frames without numbers."""
    if not isinstance(inputs, list):
        return 0
    return 1 + max((1 if part == [] else _depth(part) for part in inputs), default=0)


def are_one(inputs: list[Any]) -> bool:
    """Return whether these are the frames of one input. Empty lists are several inputs."""
    value, depth = first_value(inputs)
    return depth == 2 and not isinstance(value, str)
