"""Choose the most informative units of a layer, and turn them into rows of one number per step.

The attention of a translator has such rows too.  T steps, H hidden.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from models.codecs.pieces import END_PIECE
from models.inspect import Layer
from models.inspect.operators import GATES, Floats
from models.tasks import Translation
from models.tasks.beam_search import TranslateOptions
from models.tasks.translation_rows import search

Ranking = Literal["varying", "switching", "active"]
Color = tuple[int, int, int]

# Vermillion, white and blue of Okabe and Ito 2008, which readers with any type of color vision can distinguish.
LOW, MIDDLE, HIGH = (213, 94, 0), (255, 255, 255), (0, 114, 178)

MIN_STEPS = 40  # with fewer steps, some of hundreds of units correlate with anything by chance
MIN_CORRELATION = 0.5  # on the second half
MIN_CHANGES = 3  # steps of each half at which a feature must differ from its most common value


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number per step (T,), in [0, reach], or in [-reach, reach] if `signed`."""

    label: str
    values: Floats
    reach: float = 1.0
    signed: bool = False

    def fraction(self, value: float) -> float:
        """Return the relative position of a value between the ends, in [0, 1]."""
        fraction = value / self.reach
        return float(np.clip((fraction + 1) / 2 if self.signed else fraction, 0, 1))

    def color(self, value: float) -> Color:
        """Return white for zero, and a deeper color for a larger magnitude."""
        fraction = float(np.clip(value / self.reach, -1, 1))
        end = HIGH if fraction > 0 else LOW
        red, green, blue = (round(a + abs(fraction) * (b - a)) for a, b in zip(MIDDLE, end, strict=True))
        return red, green, blue


def mean_rows(layer: Layer) -> list[Row]:
    """Return the mean over all units of every gate, and of the magnitudes of memory and state."""
    rows = [Row(label=part, values=layer.parts[part].mean(axis=1)) for part in layer.parts if part in GATES]
    for part in ("memory", "state"):
        if part in layer.parts:
            values = np.abs(layer.parts[part]).mean(axis=1)
            rows.append(Row(label=f"|{part}|", values=values, reach=max(1.0, float(values.max()))))
    return rows


def unit_rows(layer: Layer, part: str, units: Sequence[int]) -> list[Row]:
    """Return one row per unit with its values of `part`, all on one scale."""
    values = layer.parts[part]
    reach = float(np.abs(values[:, list(units)]).max()) if len(units) else 1.0
    signed = part not in GATES
    return [
        Row(label=f"unit {unit}", values=values[:, unit], reach=(reach or 1.0) if signed else 1.0, signed=signed)
        for unit in units
    ]


def attention_rows(bundle: Bundle, raw: Any) -> tuple[tuple[str, ...], list[Row]]:
    """Return the steps of a source, and a row for each piece of its greedy translation: how much it attends to each.

    Raises ValueError for an empty source or translation.
    """
    task = bundle.task
    assert isinstance(task, Translation)
    text = task.start(task.encode(raw), TranslateOptions(details=True))
    search(bundle.translator, [text])
    if not text.finished or not text.finished[0].pieces:
        raise ValueError("the input or its answer is empty; give another input")
    found, item = text.finished[0], text.source.item
    tokens = item.tokens if item.text is not None else [str(number) for number in range(1, item.length + 1)]
    marks, ends = [""] * text.source.marks, [END_PIECE] * (len(text.source.rows) - text.source.marks - item.length)
    pieces = [task.codec.pieces[row] for row in found.pieces]
    rows = [
        Row(label=piece, values=weights[: len(text.source.rows)].astype(np.float64))
        for piece, weights in zip(pieces, found.attention, strict=True)
    ]
    return (*marks, *tokens, *ends), rows


def rank(values: Floats, by: Ranking) -> list[int]:
    """Rank the units of values (T, H), the most interesting first and ties in their order.

    "varying" ranks by the standard deviation over the steps. "switching" ranks by that of the changes between steps,
    which ignores a slow drift. "active" ranks by the mean magnitude.
    """
    measure = {
        "varying": values.std(axis=0),
        "switching": np.diff(values, axis=0, prepend=values[:1]).std(axis=0),
        "active": np.abs(values).mean(axis=0),
    }[by]
    return [int(unit) for unit in np.argsort(-measure, kind="stable")]


@dataclass(frozen=True, kw_only=True)
class Follower:
    """A unit that follows a feature of the text, with the correlation on the second half of the steps."""

    feature: str
    unit: int
    correlation: float


def followers(values: Floats, steps: Sequence[str]) -> list[Follower]:
    """Find the unit of values (T, H) that follows each feature of the text best, strongest first.

    Each unit is chosen on the first half of the steps and judged on the second half. Features that are too rare, and
    units that do not hold up, are left out. Karpathy, Johnson and Fei-Fei 2015 found such units by looking.
    """
    half = len(steps) // 2
    found = []
    for name, feature in text_features(steps).items() if len(steps) >= MIN_STEPS else ():
        if min(_changes(feature[:half]), _changes(feature[half:])) < MIN_CHANGES:
            continue
        unit = int(np.abs(_correlation(values[:half], feature[:half])).argmax())
        correlation = float(_correlation(values[half:, unit : unit + 1], feature[half:])[0])
        if abs(correlation) >= MIN_CORRELATION:
            found.append(Follower(feature=name, unit=unit, correlation=correlation))
    return sorted(found, key=lambda each: -abs(each.correlation))


_CLAUSE_ENDS = {",", ";", ":", ".", "!", "?", "--", "\n"}
_QUOTES = {'"', "“", "”", "``", "''"}


def text_features(steps: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Return visible features of each step, (T,) each: 1 where one holds, or a position."""
    tests: dict[str, Callable[[str], bool]] = {
        "line end": lambda step: "\n" in step,
        "space": lambda step: step == " ",
        "capital letter": lambda step: step[:1].isupper(),
        "digit": lambda step: step[:1].isdigit(),
        "punctuation": lambda step: bool(step.strip()) and not any(map(str.isalnum, step)),
    }
    found = {name: np.array([float(test(step)) for step in steps]) for name, test in tests.items()}
    found["inside quotes"] = (np.cumsum([step in _QUOTES for step in steps]) % 2).astype(np.float64)
    found["position in line"] = _steps_since([step == "\n" for step in steps])
    found["position in clause"] = _steps_since([step in _CLAUSE_ENDS for step in steps])
    found["position in word"] = _steps_since([not any(map(str.isalnum, step)) for step in steps])
    return found


def _steps_since(starts: Sequence[bool]) -> NDArray[np.float64]:
    """Return the steps since the last start (T,)."""
    found, count = [], 0
    for start in starts:
        count = 0 if start else count + 1
        found.append(float(count))
    return np.array(found)


def _changes(feature: NDArray[np.float64]) -> int:
    """Return how many steps differ from the most common value."""
    _, counts = np.unique(feature, return_counts=True)
    return int(len(feature) - counts.max())


def _correlation(values: Floats, feature: NDArray[np.float64]) -> Floats:
    """Return Pearson's correlation of each column of values (T, H) with feature (T,), 0 where one is constant."""
    centered, wanted = values - values.mean(axis=0), feature - feature.mean()
    scale = np.sqrt((centered**2).sum(axis=0) * (wanted**2).sum())
    products: Floats = wanted @ centered
    correlations: Floats = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
    return correlations
