"""Numeric series, cut into segments: one channel of a signal, with gaps, on any scale.

T segments, B batch, S values of a segment.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.codecs.base import EncodedSteps, InputError, NumericCodec, pad, quoted
from models.manifest import SeriesSpec

LARGEST = float(np.finfo(np.float32).max)
_NUMBERS = {int, float, type(None), np.float64, np.float32}


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedSeries(EncodedSteps):
    """One encoded series: rows (T, 2·S), and what undoes the normalization, value · scale + last."""

    last: float  # the last value that is not missing
    scale: float  # the standard deviation of the values; 0 for a constant series


class SeriesCodec(NumericCodec):
    """The codec of series. It normalizes by last value and deviation, so that one network reads every scale."""

    def __init__(self, spec: SeriesSpec) -> None:
        self.spec = spec

    def encode(self, raw: Any, *, limit: int | None = None) -> EncodedSeries:
        """Encode the last `spec.longest` values of a list or an array (N,). None and NaN are missing values.

        A missing value takes the one before it. Each row has S values, then S flags that are 1 where a value was
        missing. The first segment is filled up to S with missing values. Raises InputError for anything else, for fewer
        than S values, for values that are all missing, and for a number that float32 cannot hold.
        """
        del limit  # a longer series is cut, so there is none
        if isinstance(raw, Sequence | np.ndarray) and not isinstance(raw, str):
            raw = raw[-self.spec.longest :]
        values = self._to_array(raw)
        if len(values) < self.spec.segment:
            raise InputError(
                f"the series has {len(values)} values; send at least {self.spec.segment}",
                value=len(values),
                limit=self.spec.segment,
            )
        missing = np.isnan(values)
        if missing.all():
            raise InputError(f"the last {len(values)} values are all missing; send at least one number")
        known = values[~missing]
        scale, last = float(known.std()), float(known[-1])
        places = np.maximum.accumulate(np.where(missing, -1, np.arange(len(values))))  # of the value to use
        filled = np.where(places < 0, known[0], values[places])
        rows = np.zeros((-(-len(values) // self.spec.segment), 2, self.spec.segment), np.float32)
        front = rows.shape[0] * self.spec.segment - len(values)
        if scale > 0:
            normalized = (np.concatenate([np.full(front, filled[0]), filled]) - last) / scale
            rows[:, 0] = normalized.reshape(-1, self.spec.segment)
        rows[:, 1] = np.concatenate([np.ones(front, bool), missing]).reshape(-1, self.spec.segment)
        return EncodedSeries(rows=rows.reshape(len(rows), -1), last=last, scale=scale)

    def collate(self, items: Sequence[EncodedSeries]) -> dict[str, NDArray[Any]]:
        """Return the feeds of the graph: segments (T, B, 2·S) float32, lengths (B,)."""
        segments, lengths = pad([item.rows for item in items])
        return {"segments": segments, "lengths": lengths}

    @staticmethod
    def _to_array(raw: Any) -> NDArray[np.float64]:
        """Return a series as float64 (N,) with NaN for missing values."""
        if isinstance(raw, np.ndarray) and raw.ndim == 1 and raw.dtype.kind in "iuf":
            values = raw.astype(np.float64)
        elif isinstance(raw, Sequence) and not isinstance(raw, str):
            for place, number in enumerate(raw) if not set(map(type, raw)) <= _NUMBERS else ():
                if type(number) not in _NUMBERS and not isinstance(number, np.integer | np.floating):
                    raise InputError(
                        f"value {place} is {quoted(number)}; send a number, or null where it is missing", value=number
                    )
            values = np.array([math.nan if number is None else _bounded(number) for number in raw], np.float64)
        else:
            raise InputError(f"the series is {quoted(raw)}; send a list of numbers", value=raw)
        if (wrong := np.flatnonzero(np.abs(values) > LARGEST)).size:
            place = int(wrong[0])
            raise InputError(
                f"value {place} is {quoted(raw[place])}; send a number of magnitude at most {LARGEST:.1e}",
                value=raw[place],
            )
        return values


def _bounded(number: float) -> float:
    """Return an integer of any size as a float, infinite if it is too large."""
    try:
        return float(number)
    except OverflowError:
        return math.inf
