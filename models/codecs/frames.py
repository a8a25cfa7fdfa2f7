"""Frames of numbers, one a step: signals, sensors, coefficients of speech.

Knows their width and that they are finite; what they measure, and how it is scaled, is the graph's affair.
T frames, B batch, F numbers of a frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.codecs.errors import InputError, shown
from models.manifest import FramesSpec
from models.padding import pad_frames

LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedFrames:
    """One encoded input. Frames have no text: their words are empty, and places count frames."""

    frames: NDArray[np.float32]  # (T, F)

    @property
    def text(self) -> None:
        return None

    @property
    def length(self) -> int:
        return len(self.frames)

    @property
    def extra(self) -> int:
        """What a graph has to do beside its steps: nothing."""
        return 0

    @property
    def tokens(self) -> Sequence[str]:
        return [""] * self.length

    @property
    def starts(self) -> Sequence[int]:
        return range(self.length)

    @property
    def ends(self) -> Sequence[int]:
        return range(1, self.length + 1)

    def between(self, first: int, last: int) -> str:
        """The words of the steps [first, last)."""
        del first, last
        return ""


class FramesCodec:
    """See the module."""

    def __init__(self, spec: FramesSpec) -> None:
        self.spec = spec

    @property
    def vocabularies(self) -> dict[str, tuple[str, ...]]:
        """File name of the spec -> its entries: none."""
        return {}

    def encode(self, raw: Sequence[Sequence[float]], *, limit: int | None = None) -> EncodedFrames:
        """A list of frames, or an array (T, F).

        Of more than `limit` frames, `limit` + 1 are encoded. InputError for what is no list of frames, a frame of
        another width, or a number that is not finite in float32.
        """
        if isinstance(raw, str) or not isinstance(raw, Sequence | np.ndarray):
            raise InputError(
                f"frames are wanted, lists of {self.spec.features} numbers each, not {shown(raw)}", value=raw
            )
        if limit is not None:
            raw = raw[: limit + 1]
        if not len(raw):
            return EncodedFrames(frames=np.zeros((0, self.spec.features), np.float32))
        frames = _numbers(raw)
        if frames is None or frames.shape != (len(raw), self.spec.features) or not np.isfinite(frames).all():
            problem = self._problem(raw)
            if problem is not None:
                raise problem
            frames = np.array([list(map(float, frame)) for frame in raw], np.float32)  # integers of many digits
        return EncodedFrames(frames=frames)

    def _problem(self, raw: Sequence[Any]) -> InputError | None:
        """What is wrong at the first place where something is, if anything is."""
        wanted = self.spec.features
        for step, frame in enumerate(raw):
            if not isinstance(frame, Sequence | np.ndarray) or isinstance(frame, str):
                return InputError(f"frame {step} is {shown(frame)}, not a list of {wanted} numbers", value=frame)
            if len(frame) != wanted:
                return InputError(
                    f"frame {step} has {len(frame)} numbers, but a frame here has {wanted}: send all of them, "
                    "and no others",
                    value=len(frame),
                    limit=wanted,
                )
            for place, number in enumerate(frame):
                if not _is_good(number):
                    return InputError(
                        f"number {place} of frame {step} is {shown(number)}: send a finite number of at most "
                        f"{LARGEST:.1e} in size",
                        value=number,
                    )
        return None

    def collate(self, items: Sequence[EncodedFrames]) -> dict[str, NDArray[Any]]:
        """Feeds of the graph: frames (T, B, F) float32, lengths (B,)."""
        frames, lengths = pad_frames([item.frames for item in items], min_steps=1)
        return {"frames": frames, "lengths": lengths}

    @classmethod
    def fit(cls, spec: FramesSpec) -> "FramesCodec":
        """As the others' `fit`; nothing is counted. Frames are scaled in the graph, not here."""
        return cls(spec)


def _numbers(raw: Any) -> NDArray[np.float32] | None:
    """The array of lists of numbers, None if that is not what they are."""
    try:
        # Without a type, so that strings and truth values are told from numbers.
        found = np.array(raw)
    except (ValueError, OverflowError):  # ragged, or an integer that no float holds
        return None
    if found.dtype.kind not in "iuf":
        return None
    with np.errstate(over="ignore"):  # too large for float32: infinite, which is looked for
        return np.ascontiguousarray(found, np.float32)


def _is_good(number: Any) -> bool:
    """Whether it is a number that float32 can hold. True and False are none."""
    if isinstance(number, bool) or not isinstance(number, int | float | np.integer | np.floating):
        return False
    size: Any = abs(number)
    return bool(size <= LARGEST)
