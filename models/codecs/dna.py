"""Bases of DNA or RNA to rows of a table, one a step.

The table has row 0 (padding), row 1 (never written here: training uses it for a base that it hides), then one row
for each of CODES; with `positions`, CODES for the first base, then for the second, and so on. T bases, B batch.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.codecs.errors import InputError, TooLong, shown
from models.codecs.symbols import EncodedSymbols, Ints, joined
from models.manifest import DnaSpec
from models.padding import pad

PADDING, UNKNOWN, FIRST = 0, 1, 2

# Letter -> the bases that it may stand for, in the order of the rows: the codes of Cornish-Bowden 1985, "Nomenclature
# for incompletely specified bases in nucleic acid sequences" (IUPAC-IUB), and a gap of an alignment.
CODES = {
    "A": "A",
    "C": "C",
    "G": "G",
    "T": "T",
    "R": "AG",
    "Y": "CT",
    "S": "CG",
    "W": "AT",
    "K": "GT",
    "M": "AC",
    "B": "CGT",
    "D": "AGT",
    "H": "ACT",
    "V": "ACG",
    "N": "ACGT",
    "-": "",
}
_LETTERS = "".join(CODES)
_NO_BASE = -1


def _code_of_byte() -> NDArray[np.int32]:
    """The code (256,) of every ASCII letter, upper and lower case; U, the T of RNA, is T."""
    codes = np.full(256, _NO_BASE, np.int32)
    for letter, code in [*zip(_LETTERS, range(len(CODES)), strict=True), ("U", _LETTERS.index("T"))]:
        codes[[ord(letter), ord(letter.lower())]] = code
    return codes


_CODE = _code_of_byte()


class DnaCodec:
    """See the module. It has no vocabulary of its own: every bundle has the same letters."""

    def __init__(self, spec: DnaSpec) -> None:
        self.spec = spec

    @property
    def vocabularies(self) -> dict[str, tuple[str, ...]]:
        """File name of the spec -> its entries: none."""
        return {}

    @property
    def table_rows(self) -> int:
        return FIRST + max(1, self.spec.positions) * len(CODES)

    def encode(self, raw: str | Sequence[str], *, limit: int | None = None) -> EncodedSymbols:
        """A string, or a list of letters.

        Of more than `limit` bases, `limit` + 1 are encoded. InputError for a letter that is no base, TooLong for more
        bases than the spec has positions.
        """
        if not isinstance(raw, str | Sequence):
            raise InputError(f"bases come as a string, not as {shown(raw)}", value=raw)
        if limit is not None:
            raw = raw[: limit + 1]
        text = raw if isinstance(raw, str) else joined(raw, "base")
        positions = self.spec.positions
        if positions and len(text) > positions:
            raise TooLong(f"more than {positions} bases, for which there are places: cut it", limit=positions)
        codes = _CODE[np.frombuffer(text.encode("ascii", "replace"), np.uint8)]  # (T,)
        if len(codes) and codes.min() == _NO_BASE:
            raise _no_base(text, int(codes.argmin()))
        places = len(CODES) * np.arange(len(codes), dtype=np.int32) if positions else 0
        return EncodedSymbols(text=text if text is raw else None, tokens=text, rows=FIRST + places + codes)

    def decode(self, row: int) -> str:
        """The letter of a row; the two rows that stand for no base give ''."""
        return _LETTERS[(row - FIRST) % len(CODES)] if row >= FIRST else ""

    def collate(self, items: Sequence[EncodedSymbols]) -> dict[str, Ints]:
        """Feeds of the graph: bases (T, B), lengths (B,)."""
        bases, lengths = pad([item.rows for item in items], min_steps=1)
        return {"bases": bases, "lengths": lengths}

    @classmethod
    def fit(cls, spec: DnaSpec) -> "DnaCodec":
        """As the others' `fit`; nothing is counted."""
        return cls(spec)


def _no_base(text: str, place: int) -> InputError:
    letter = text[place]
    return InputError(
        f"character {place} is {letter!r}, which is no base: send A, C, G, T (or U) and the codes "
        f"{' '.join(_LETTERS[4:-1])} of IUPAC, and - for a gap, without spaces or line breaks",
        value=letter,
    )
