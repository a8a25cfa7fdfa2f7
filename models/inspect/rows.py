"""What is shown of a layer: rows of one number a step, and the colour of a number.

Knows records. Does not know terminals or pictures.
T steps, H hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.inspect.operators import GATES, Floats
from models.inspect.trace import Layer

Colour = tuple[int, int, int]
# Vermillion, white and blue of Okabe and Ito 2008: told apart with every kind of colour vision.
LOW, MIDDLE, HIGH = (213, 94, 0), (255, 255, 255), (0, 114, 178)


@dataclass(frozen=True, kw_only=True)
class Row:
    """values (T,) with what they are; they lie in [0, reach], or in [-reach, reach] if `signed`."""

    label: str
    values: Floats
    reach: float = 1.0
    signed: bool = False

    def share(self, value: float) -> float:
        """Where a value lies between the ends, in [0, 1]."""
        share = value / self.reach
        return float(np.clip((share + 1) / 2 if self.signed else share, 0, 1))

    def colour(self, value: float) -> Colour:
        """White is zero; the deeper, the further from it."""
        share = float(np.clip(value / self.reach, -1, 1))
        end = HIGH if share > 0 else LOW
        red, green, blue = (round(a + abs(share) * (b - a)) for a, b in zip(MIDDLE, end, strict=True))
        return red, green, blue


def means(layer: Layer) -> list[Row]:
    """The mean over the units of every gate, and of the magnitudes of the memory and the state."""
    rows = [Row(label=part, values=layer.parts[part].mean(axis=1)) for part in layer.parts if part in GATES]
    for part in ("memory", "state"):
        if part in layer.parts:
            values = np.abs(layer.parts[part]).mean(axis=1)
            rows.append(Row(label=f"|{part}|", values=values, reach=max(1.0, float(values.max()))))
    return rows


def of_units(layer: Layer, part: str, chosen: Sequence[int]) -> list[Row]:
    """One row a unit: its values of `part`, all to the same scale."""
    values = layer.parts[part]
    reach = float(np.abs(values[:, list(chosen)]).max()) if len(chosen) else 1.0
    signed = part not in GATES
    return [
        Row(label=f"unit {unit}", values=values[:, unit], reach=(reach or 1.0) if signed else 1.0, signed=signed)
        for unit in chosen
    ]
