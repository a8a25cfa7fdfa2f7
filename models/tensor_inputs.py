"""What a graph may be fed by somebody who made the arrays elsewhere: checked, so that no operator reads past its rows.

Knows the tensors of FORMAT.md and what each holds. Knows no request, and runs nothing.
T steps, B batch, N spelled words, C characters, G n-grams, F numbers of a frame.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.codecs import Codec, InputError, TooLong
from models.codecs.frames import FramesCodec
from models.codecs.words import FIRST, WordsCodec
from models.manifest import Manifest, Tensor

Arrays = Mapping[str, NDArray[Any]]


class Size(NamedTuple):
    """How much work a feed is: as the batches of the schedulers are counted."""

    rows: int
    steps: int
    extra: int


class TensorValidator:
    """Checks arrays for the graph of one bundle."""

    def __init__(self, manifest: Manifest, codec: Codec) -> None:
        state = (Tensor(name=part.input, dtype=part.dtype, shape=("B", part.width)) for part in manifest.state)
        self.tensors = (*manifest.inputs, *state)
        self._codec, self._longest = codec, manifest.max_length

    def check(self, feeds: Arrays, *, cells: int) -> Size:
        """Return how much work it is. `cells`: padded steps (T · B) at most, though one row may be as long as any.

        Raises InputError, TooLong for too much, with a message that begins with the name of the tensor at fault.
        """
        names = {tensor.name for tensor in self.tensors}
        for name in sorted(names ^ feeds.keys()):
            what = "is none of the graph's inputs: leave it out" if name in feeds else "is missing: send it"
            raise InputError(f"{name} {what}; the inputs are {', '.join(sorted(names))}")
        sizes = self._sizes(feeds)
        size = Size(sizes["B"], sizes["T"], sizes.get("N", 0))
        self._check_size(size, sizes, cells)
        for name, (least, most) in self._ranges(sizes).items():
            _check_range(name, feeds[name], least, most)
        for tensor in self.tensors:
            if tensor.dtype == "float32" and not np.isfinite(feeds[tensor.name]).all():
                raise InputError(f"{tensor.name} holds a number that is not finite: send finite numbers")
        return size

    def _sizes(self, feeds: Arrays) -> dict[str, int]:
        """The free dimensions by their letters, each the same wherever it stands."""
        sizes: dict[str, int] = {}
        for tensor in self.tensors:
            array = feeds[tensor.name]
            if array.dtype != tensor.dtype:
                raise InputError(f"{tensor.name} is {array.dtype}, but the graph takes {tensor.dtype}")
            if array.ndim != len(tensor.shape):
                raise InputError(f"{tensor.name} has shape {list(array.shape)}, but the graph takes {_spelt(tensor)}")
            for letter, found in zip(tensor.shape, array.shape, strict=True):
                wanted = letter if isinstance(letter, int) else sizes.setdefault(letter, found)
                if found != wanted or not found:
                    sized = "".join(f"; {name} is {size} here" for name, size in sizes.items() if size)
                    raise InputError(
                        f"{tensor.name} has shape {list(array.shape)}, but the graph takes {_spelt(tensor)}, "
                        f"none of them 0{sized}"
                    )
        return sizes

    def _check_size(self, size: Size, sizes: Mapping[str, int], cells: int) -> None:
        lead = self.tensors[0].name
        if size.steps > self._longest:
            raise TooLong(
                f"{lead} has {size.steps} steps, but one input may have {self._longest}: split it", limit=self._longest
            )
        most = max(cells, self._longest)
        if size.rows * size.steps > most:
            raise TooLong(
                f"{lead} has {size.steps} steps of {size.rows} rows, {size.rows * size.steps} in all, but one request "
                f"may have {most}: send fewer rows at once",
                limit=most,
            )
        for letter, bound, what in self._bounds(size):
            if sizes[letter] > bound:
                raise TooLong(f"{letter} is {sizes[letter]}, but {what}: {bound} at most", limit=bound)

    def _bounds(self, size: Size) -> list[tuple[str, int, str]]:
        """Of the dimensions that only some inputs have, the largest that an encoded text could come to."""
        codec = self._codec
        if not isinstance(codec, WordsCodec):
            return []
        spec, bounds = codec.spec, []
        if codec.characters or spec.subwords:
            bounds.append(("N", size.rows * size.steps, "no more words are spelled than there are"))
        if codec.characters:
            bounds.append(("C", spec.max_spelling, "a spelling is cut to that"))
        if spec.subwords:
            kinds = spec.subwords.longest - spec.subwords.shortest + 1
            bounds.append(("G", kinds * (spec.max_spelling + 2), "a word has no more n-grams"))
        return bounds

    def _ranges(self, sizes: Mapping[str, int]) -> dict[str, tuple[int, int]]:
        """The least and the greatest value of each integer input."""
        codec = self._codec
        ranges = {"lengths": (1, sizes["T"])}
        if isinstance(codec, WordsCodec):
            ranges["words"] = (0, codec.table_rows - 1)
            if "N" in sizes:
                ranges["unseen"] = (0, sizes["N"])
            if codec.characters:
                ranges["spellings"] = (0, FIRST + len(codec.characters) - 1)
                ranges["spelling_lengths"] = (1, sizes["C"])
            if codec.spec.subwords:
                ranges["subwords"] = (0, codec.spec.subwords.buckets)
                ranges["subword_counts"] = (0, sizes["G"])
        elif not isinstance(codec, FramesCodec):
            ranges[self.tensors[0].name] = (0, codec.table_rows - 1)
        return ranges


def _check_range(name: str, array: NDArray[Any], least: int, most: int) -> None:
    for found in (int(array.min()), int(array.max())):
        if not least <= found <= most:
            raise InputError(f"{name} holds {found}, but its values are {least} to {most}", value=found, limit=most)


def _spelt(tensor: Tensor) -> str:
    """A shape as the manifest has it: [T, B]."""
    return f"[{', '.join(map(str, tensor.shape))}]"
