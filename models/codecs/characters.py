"""Codecs with one character per step: text, and DNA or RNA.

T characters, B batch.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from models.codecs.base import FIRST, UNKNOWN, EncodedSteps, InputError, Ints, TooLong, pad, quoted
from models.manifest import CharactersSpec, DnaSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedSymbols(EncodedSteps):
    """One encoded input, with rows (T,). `text` is None for an input that was a list of symbols."""

    text: str | None
    tokens: Sequence[str]  # a string is the sequence of its characters

    def span_text(self, first: int, last: int) -> str:
        """Return the text of the steps [first, last)."""
        return "".join(self.tokens[first:last]) if self.text is None else self.text[first:last]


class CharactersCodec:
    """Looks up each character in a table. `characters` is the vocabulary that the spec names."""

    def __init__(self, spec: CharactersSpec, characters: Sequence[str]) -> None:
        self.spec = spec
        self.characters = tuple(characters)
        self._row = {character: row for row, character in enumerate(self.characters, FIRST)}

    @property
    def vocabularies(self) -> dict[str, tuple[str, ...]]:
        """File name in the spec -> entries."""
        return {self.spec.characters: self.characters}

    @property
    def table_rows(self) -> int:
        return FIRST + len(self.characters)

    @property
    def tables(self) -> dict[str, int]:
        """Graph input -> rows of the table that it indexes."""
        return {"characters": self.table_rows}

    def encode(self, raw: str | Sequence[str], *, limit: int | None = None) -> EncodedSymbols:
        """Encode a string or a list of characters, at most `limit` + 1 of them. Raises InputError."""
        if limit is not None:
            raw = raw[: limit + 1]
        text = raw if isinstance(raw, str) else _joined(raw, "character")
        find = self._row.get
        # One by one: the lower case of a whole text can have another length, which would shift the offsets.
        keys = map(str.lower, text) if self.spec.lowercase else text
        rows = np.array([find(key, UNKNOWN) for key in keys], np.int32)
        return EncodedSymbols(text=text if text is raw else None, tokens=text, rows=rows)

    def decode(self, row: int) -> str:
        """Return the character of a row, or "" for padding and unknown."""
        return self.characters[row - FIRST] if row >= FIRST else ""

    def collate(self, items: Sequence[EncodedSymbols]) -> dict[str, Ints]:
        """Return the feeds of the graph: characters (T, B), lengths (B,)."""
        characters, lengths = pad([item.rows for item in items], min_steps=1)
        return {"characters": characters, "lengths": lengths}

    @classmethod
    def fit(cls, spec: CharactersSpec, texts: Iterable[str], *, min_count: int = 1) -> "CharactersCodec":
        """Collect the vocabulary of training texts, in code point order."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(map(str.lower, text) if spec.lowercase else text)
        return cls(spec, sorted(character for character, count in counts.items() if count >= min_count))


# Letter -> the bases that it can stand for, in the order of the table rows: the IUPAC codes of Cornish-Bowden 1985,
# "Nomenclature for incompletely specified bases in nucleic acid sequences", and the gap of an alignment.
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
_INVALID = -1


def _codes_by_byte() -> Ints:
    """Return the code (256,) of every ASCII letter in upper and lower case. U, the T of RNA, is T."""
    codes = np.full(256, _INVALID, np.int32)
    for letter, code in [*zip(_LETTERS, range(len(CODES)), strict=True), ("U", _LETTERS.index("T"))]:
        codes[[ord(letter), ord(letter.lower())]] = code
    return codes


_CODE_BY_BYTE = _codes_by_byte()


class DnaCodec:
    """Looks up each base. All bundles share the letters of CODES, so there is no vocabulary file.

    The table has the padding row, the unknown row (used only in training, to hide a base), then one row per code. With
    `positions`, the codes repeat for every position of the input.
    """

    def __init__(self, spec: DnaSpec) -> None:
        self.spec = spec

    @property
    def vocabularies(self) -> dict[str, tuple[str, ...]]:
        return {}

    @property
    def table_rows(self) -> int:
        return FIRST + max(1, self.spec.positions) * len(CODES)

    @property
    def tables(self) -> dict[str, int]:
        return {"bases": self.table_rows}

    def encode(self, raw: str | Sequence[str], *, limit: int | None = None) -> EncodedSymbols:
        """Encode a string or a list of letters, at most `limit` + 1 of them.

        Raises InputError for a letter that is not a base, and TooLong for more bases than the spec has positions.
        """
        if not isinstance(raw, str | Sequence):
            raise InputError(f"the input is {quoted(raw)}; send the bases as a string", value=raw)
        if limit is not None:
            raw = raw[: limit + 1]
        text = raw if isinstance(raw, str) else _joined(raw, "base")
        positions = self.spec.positions
        if positions and len(text) > positions:
            raise TooLong(f"more than {positions} bases, the number of positions; shorten the input", limit=positions)
        codes = _CODE_BY_BYTE[np.frombuffer(text.encode("ascii", "replace"), np.uint8)]  # (T,)
        if len(codes) and codes.min() == _INVALID:
            place = int(codes.argmin())
            raise InputError(
                f"character {place} is {text[place]!r}, which is not a base; send A, C, G, T or U, the IUPAC codes "
                f"{' '.join(_LETTERS[4:-1])}, and - for a gap, without spaces or line breaks",
                value=text[place],
            )
        offsets = len(CODES) * np.arange(len(codes), dtype=np.int32) if positions else 0
        return EncodedSymbols(text=text if text is raw else None, tokens=text, rows=FIRST + offsets + codes)

    def decode(self, row: int) -> str:
        """Return the letter of a row, or "" for padding and unknown."""
        return _LETTERS[(row - FIRST) % len(CODES)] if row >= FIRST else ""

    def collate(self, items: Sequence[EncodedSymbols]) -> dict[str, Ints]:
        """Return the feeds of the graph: bases (T, B), lengths (B,)."""
        bases, lengths = pad([item.rows for item in items], min_steps=1)
        return {"bases": bases, "lengths": lengths}


def _joined(tokens: Sequence[str], unit: str) -> str:
    """Join a list of symbols. Raises InputError for an entry that is not one symbol."""
    for place, token in enumerate(tokens):
        if not isinstance(token, str) or len(token) != 1:
            raise InputError(
                f"token {place} is {quoted(token)}, but a token must be one {unit}; send the text as a string",
                value=token,
            )
    return "".join(tokens)
