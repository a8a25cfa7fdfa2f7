"""One encoded input whose steps are single characters of a text: letters, bases.  T steps.

Knows no table: which row a symbol has is its codec's affair.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.codecs.errors import InputError, shown

Ints = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedSymbols:
    """One encoded input. `text` is None if it came as a list of symbols, which `tokens` are either way."""

    text: str | None
    tokens: Sequence[str]  # the text itself, where there is one: a string is the sequence of its characters
    rows: Ints  # (T,)

    @property
    def length(self) -> int:
        return len(self.rows)

    @property
    def extra(self) -> int:
        """What a graph has to do beside its steps: nothing."""
        return 0

    @property
    def starts(self) -> Sequence[int]:
        """Where each symbol begins; made when it is asked for, as few answers need it."""
        return range(self.length)

    @property
    def ends(self) -> Sequence[int]:
        return range(1, self.length + 1)

    def between(self, first: int, last: int) -> str:
        """The symbols of the steps [first, last)."""
        return "".join(self.tokens[first:last]) if self.text is None else self.text[first:last]


def joined(tokens: Sequence[str], unit: str) -> str:
    """Symbols that come as a list as one text; InputError for an entry that is not one `unit`."""
    for place, token in enumerate(tokens):
        if not isinstance(token, str) or len(token) != 1:
            raise InputError(
                f"token {place} is {shown(token)}, but a token here is one {unit}: send the text as a string",
                value=token,
            )
    return "".join(tokens)
