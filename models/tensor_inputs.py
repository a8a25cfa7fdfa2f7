"""Validates tensors from clients, so that no operator of the graph reads outside its tables.

T steps, B batch, N OOV words, C characters, G n-grams, F features of a frame, P gaps, X targets of a gap.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.codecs import Codec, InputError, TooLong
from models.codecs.words import WordsCodec
from models.manifest import Manifest, Tensor
from models.tasks.fill import MOST_GAPS, MOST_TARGETS

Arrays = Mapping[str, NDArray[Any]]


class Size(NamedTuple):
    """The work in a set of tensors, in the units of the schedulers."""

    rows: int
    steps: int
    extra: int


class TensorValidator:
    """Validates tensors for the graph of one bundle."""

    def __init__(self, manifest: Manifest, codec: Codec) -> None:
        state = (Tensor(name=part.input, dtype=part.dtype, shape=("B", part.width)) for part in manifest.state)
        self.tensors = (*manifest.inputs, *state)
        self._codec, self._max_length = codec, manifest.max_length
        self._fills = manifest.task == "fill"

    def check(self, feeds: Arrays, *, cells: int) -> Size:
        """Check the tensors and return their size.

        `cells` limits the padded steps, T * B; a single row may always have the maximum length. Raises TooLong for too
        much and InputError for anything else. The message starts with the name of the invalid tensor.
        """
        names = {tensor.name for tensor in self.tensors}
        for name in sorted(names ^ feeds.keys()):
            problem = "is not an input of the graph; remove it" if name in feeds else "is missing; send it"
            raise InputError(f"{name} {problem}. The inputs are {', '.join(sorted(names))}")
        sizes = self._dimensions(feeds)
        size = Size(sizes["B"], sizes["T"], sizes.get("N", sizes.get("P", 0)))
        self._check_size(size, sizes, cells)
        for name, (least, most) in self._ranges(sizes).items():
            for found in (int(feeds[name].min()), int(feeds[name].max())):
                if not least <= found <= most:
                    message = f"{name} contains {found}, but must be {least} to {most}"
                    raise InputError(message, value=found, limit=most)
        for tensor in self.tensors:
            if tensor.dtype == "float32" and not np.isfinite(feeds[tensor.name]).all():
                raise InputError(f"{tensor.name} contains NaN or infinity; send finite numbers")
        return size

    def _dimensions(self, feeds: Arrays) -> dict[str, int]:
        """Return the size of each dimension letter, which must be the same in all tensors."""
        sizes: dict[str, int] = {}
        for tensor in self.tensors:
            array = feeds[tensor.name]
            if array.dtype != tensor.dtype:
                raise InputError(f"{tensor.name} is {array.dtype}, but the graph takes {tensor.dtype}")
            wanted_shape = f"[{', '.join(map(str, tensor.shape))}]"  # as in the manifest: [T, B]
            shape = f"{tensor.name} has shape {list(array.shape)}, but the graph takes {wanted_shape}"
            if array.ndim != len(tensor.shape):
                raise InputError(shape)
            for letter, found in zip(tensor.shape, array.shape, strict=True):
                wanted = letter if isinstance(letter, int) else sizes.setdefault(letter, found)
                if found != wanted or not found:
                    known = "".join(f"; {name} is {size} here" for name, size in sizes.items() if size)
                    raise InputError(f"{shape}, without zeros{known}")
        return sizes

    def _check_size(self, size: Size, sizes: Mapping[str, int], cells: int) -> None:
        lead, longest = self.tensors[0].name, self._max_length
        if size.steps > longest:
            raise TooLong(f"{lead} has {size.steps} steps, but the limit is {longest}; split it", limit=longest)
        most = max(cells, longest)
        if size.rows * size.steps > most:
            raise TooLong(
                f"{lead} has {size.rows * size.steps} padded steps ({size.steps} in each of {size.rows} rows), but the "
                f"limit of a request is {most}; send fewer rows",
                limit=most,
            )
        for letter, bound, reason in self._bounds(size):
            if sizes[letter] > bound:
                raise TooLong(f"{letter} is {sizes[letter]}, but the limit is {bound}, {reason}", limit=bound)

    def _bounds(self, size: Size) -> list[tuple[str, int, str]]:
        """Return (letter, largest size that encoded text can have, reason) of the dimensions of OOV words and gaps."""
        codec = self._codec
        if not isinstance(codec, WordsCodec):
            return []
        spec, bounds = codec.spec, []
        if codec.characters or spec.subwords:
            bounds.append(("N", size.rows * size.steps, "the number of words"))
        if codec.characters:
            bounds.append(("C", spec.max_spelling, "the longest spelling"))
        if spec.subwords:
            lengths = spec.subwords.longest - spec.subwords.shortest + 1
            bounds.append(("G", lengths * (spec.max_spelling + 2), "the most n-grams of a word"))
        if self._fills:
            bounds.append(("P", size.rows * min(size.steps, MOST_GAPS), "the most gaps of each row"))
            bounds.append(("X", MOST_TARGETS, "the most targets of a gap"))
        return bounds

    def _ranges(self, sizes: Mapping[str, int]) -> dict[str, tuple[int, int]]:
        """Return the least and the greatest value of each integer input."""
        ranges = {"lengths": (1, sizes["T"])}
        ranges |= {name: (0, rows - 1) for name, rows in self._codec.tables.items()}
        if "N" in sizes:
            ranges["unseen"] = (0, sizes["N"])
        if "spellings" in ranges:
            ranges["spelling_lengths"] = (1, sizes["C"])
        if "subwords" in ranges:
            ranges["subword_counts"] = (0, sizes["G"])
        if self._fills:
            ranges |= {"gap_steps": (0, sizes["T"] - 1), "gap_inputs": (0, sizes["B"] - 1)}
            ranges["targets"] = (0, self._codec.tables["words"] - 1)
        return ranges
