"""Frames of numbers, one per step: signals, sensors, speech coefficients.

The graph scales the numbers; the codec only checks them. T frames, B batch, F features of a frame.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.codecs.base import EncodedSteps, InputError, NumericCodec, pad, quoted
from models.manifest import FramesSpec

LARGEST = float(np.finfo(np.float32).max)


class EncodedFrames(EncodedSteps):
    """One encoded input, with rows (T, F). Frames have no text."""

    @property
    def text(self) -> None:
        return None

    @property
    def tokens(self) -> Sequence[str]:
        return [""] * self.length

    def span_text(self, first: int, last: int) -> str:
        del first, last
        return ""

    def extended(self, count: int) -> "EncodedFrames":
        """Return these frames with `count` more, which repeat the last one. There must be one."""
        return EncodedFrames(rows=np.pad(self.rows, ((0, count), (0, 0)), "edge")) if count else self


class FramesCodec(NumericCodec):
    """Checks that every frame has the width of the spec and that every number is finite in float32."""

    def __init__(self, spec: FramesSpec) -> None:
        self.spec = spec

    def encode(self, raw: Sequence[Sequence[float]], *, limit: int | None = None) -> EncodedFrames:
        """Encode a list of frames or an array (T, F), at most `limit` + 1 of them.

        Raises InputError for anything else, for a frame of another width, and for a number that float32 cannot hold.
        """
        features = self.spec.features
        if isinstance(raw, str | bytes) or not isinstance(raw, Sequence | np.ndarray):
            raise InputError(f"the input is {quoted(raw)}; send a list of frames of {features} numbers each", value=raw)
        if limit is not None:
            raw = raw[: limit + 1]
        if not len(raw):
            return EncodedFrames(rows=np.zeros((0, features), np.float32))
        frames = _to_float32(raw)
        if frames is None or frames.shape != (len(raw), features) or not np.isfinite(frames).all():
            error = self._find_error(raw)
            if error is not None:
                raise error
            frames = np.array([list(map(float, frame)) for frame in raw], np.float32)  # integers of many digits
        return EncodedFrames(rows=frames)

    def _find_error(self, raw: Sequence[Any]) -> InputError | None:
        """Return an error for the first invalid place, if there is one."""
        features = self.spec.features
        for step, frame in enumerate(raw):
            if not isinstance(frame, Sequence | np.ndarray) or isinstance(frame, str):
                return InputError(f"frame {step} is {quoted(frame)}; send a list of {features} numbers", value=frame)
            if len(frame) != features:
                return InputError(
                    f"frame {step} has {len(frame)} numbers, but this model reads {features}; send exactly these",
                    value=len(frame),
                    limit=features,
                )
            for place, number in enumerate(frame):
                is_number = isinstance(number, int | float | np.integer | np.floating) and not isinstance(number, bool)
                if not (is_number and abs(number) <= LARGEST):
                    return InputError(
                        f"number {place} of frame {step} is {quoted(number)}; "
                        f"send a finite number of magnitude at most {LARGEST:.1e}",
                        value=number,
                    )
        return None

    def collate(self, items: Sequence[EncodedFrames]) -> dict[str, NDArray[Any]]:
        """Return the feeds of the graph: frames (T, B, F) float32, lengths (B,)."""
        frames, lengths = pad([item.rows for item in items])
        return {"frames": frames, "lengths": lengths}


def _to_float32(raw: Any) -> NDArray[np.float32] | None:
    """Return nested lists of numbers as an array, or None for anything else."""
    try:
        array = np.array(raw)  # without a dtype, which would convert strings and booleans
    except (ValueError, OverflowError):  # ragged lists, or an integer that no float holds
        return None
    if array.dtype.kind not in "iuf":
        return None
    with np.errstate(over="ignore"):  # overflow gives infinity, which `encode` looks for
        return np.ascontiguousarray(array, np.float32)
