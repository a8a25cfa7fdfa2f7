"""Which units of a layer are worth showing, and which of them follow something that can be seen in the text.

Karpathy, Johnson and Fei-Fei 2015 found cells that follow quotes, line ends and indentation by looking; here a unit is
chosen on the first half of the steps and its correlation is told of the second half, where it was not chosen.
Knows arrays and labels of steps. Does not know graphs or terminals.
T steps, H hidden.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.inspect.operators import Floats

Ranking = Literal["varying", "switching", "active"]

SHORTEST = 40  # steps: with fewer, some of hundreds of units follow anything by chance
STRONG = 0.5  # correlation on the second half below which nothing is said
RARE = 3  # steps at which a mark must be on, and off, in each half


@dataclass(frozen=True, kw_only=True)
class Follower:
    """Unit `unit` follows `mark`; `correlation` is of the half of the steps that it was not chosen on."""

    mark: str
    unit: int
    correlation: float


def rank(values: Floats, by: Ranking) -> list[int]:
    """The units of values (T, H), the one that is most worth showing first, ties in their order.

    "varying": by the standard deviation along the steps; "switching": by that of the changes from step to step, which
    a slow drift does not raise; "active": by the mean magnitude.
    """
    measure = {
        "varying": values.std(axis=0),
        "switching": np.diff(values, axis=0, prepend=values[:1]).std(axis=0),
        "active": np.abs(values).mean(axis=0),
    }[by]
    return [int(unit) for unit in np.argsort(-measure, kind="stable")]


def marks(steps: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """What can be seen of each step, (T,) each: 1 where it holds, or how far it is along."""
    quotes = np.cumsum([step in _QUOTES for step in steps])
    tests: dict[str, Callable[[str], bool]] = {
        "a line's end": lambda step: "\n" in step,
        "a space": lambda step: step == " ",
        "a capital": lambda step: step[:1].isupper(),
        "a digit": lambda step: step[:1].isdigit(),
        "punctuation": lambda step: bool(step.strip()) and not any(map(str.isalnum, step)),
    }
    found = {name: np.array([float(test(step)) for step in steps]) for name, test in tests.items()}
    found["inside quotes"] = (quotes % 2).astype(np.float64)
    found["the place in the line"] = _since([step == "\n" for step in steps])
    found["the place in the clause"] = _since([step in _ENDS for step in steps])
    found["the place in the word"] = _since([not any(map(str.isalnum, step)) for step in steps])
    return found


_ENDS = {",", ";", ":", ".", "!", "?", "--", "\n"}
_QUOTES = {'"', "“", "”", "``", "''"}


def _since(starts: Sequence[bool]) -> NDArray[np.float64]:
    """Steps since the last start (T,)."""
    found, count = [], 0
    for start in starts:
        count = 0 if start else count + 1
        found.append(float(count))
    return np.array(found)


def followers(values: Floats, steps: Sequence[str]) -> list[Follower]:
    """For each mark of the steps the unit of values (T, H) that follows it best, the strongest first.

    None where the text is too short, the mark too rare, or the unit does not hold what the first half promised.
    """
    half = len(steps) // 2
    found = []
    for name, mark in marks(steps).items() if len(steps) >= SHORTEST else ():
        if min(_changes(mark[:half]), _changes(mark[half:])) < RARE:
            continue
        unit = int(np.abs(_correlation(values[:half], mark[:half])).argmax())
        correlation = float(_correlation(values[half:, unit : unit + 1], mark[half:])[0])
        if abs(correlation) >= STRONG:
            found.append(Follower(mark=name, unit=unit, correlation=correlation))
    return sorted(found, key=lambda each: -abs(each.correlation))


def _changes(mark: NDArray[np.float64]) -> int:
    """The steps that differ from the commonest value."""
    _, counts = np.unique(mark, return_counts=True)
    return int(len(mark) - counts.max())


def _correlation(values: Floats, mark: NDArray[np.float64]) -> Floats:
    """Pearson's correlation of each column of values (T, H) with mark (T,); 0 where either is constant."""
    centred, wanted = values - values.mean(axis=0), mark - mark.mean()
    scale = np.sqrt((centred**2).sum(axis=0) * (wanted**2).sum())
    products: Floats = wanted @ centred
    correlations: Floats = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
    return correlations
