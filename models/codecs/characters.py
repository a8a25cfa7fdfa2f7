"""Characters to rows of a table and back, one a step.

Row 0 is padding, row 1 stands for every character that training never saw. T characters, B batch.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.manifest import CharactersSpec
from models.padding import pad

Ints = NDArray[np.int32]

PADDING, UNKNOWN, FIRST = 0, 1, 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Characters:
    """One encoded input."""

    text: str
    rows: Ints  # (T,)

    @property
    def length(self) -> int:
        return len(self.rows)


class CharactersCodec:
    """See the module. `characters` is the vocabulary that the spec names."""

    def __init__(self, spec: CharactersSpec, characters: Sequence[str]) -> None:
        self.spec = spec
        self.characters = tuple(characters)
        self._row = {character: row for row, character in enumerate(self.characters, FIRST)}

    @property
    def vocabularies(self) -> dict[str, tuple[str, ...]]:
        """File name of the spec -> its entries."""
        return {self.spec.characters: self.characters}

    @property
    def table_rows(self) -> int:
        return FIRST + len(self.characters)

    def encode(self, raw: str, *, limit: int | None = None) -> Characters:
        """Of a text of more than `limit` characters, `limit` + 1 are encoded."""
        text = raw if limit is None else raw[: limit + 1]
        find = self._row.get
        return Characters(text=text, rows=np.array([find(character, UNKNOWN) for character in text], np.int32))

    def decode(self, row: int) -> str:
        """The character of a row; the two rows that stand for no character give ''."""
        return self.characters[row - FIRST] if row >= FIRST else ""

    def collate(self, items: Sequence[Characters]) -> dict[str, Ints]:
        """Feeds of the graph: characters (T, B), lengths (B,)."""
        characters, lengths = pad([item.rows for item in items], min_steps=1)
        return {"characters": characters, "lengths": lengths}

    @classmethod
    def fit(cls, spec: CharactersSpec, texts: Iterable[str], *, min_count: int = 1) -> "CharactersCodec":
        """The vocabulary of training texts, in code point order."""
        counts = Counter(character for text in texts for character in text)
        return cls(spec, sorted(character for character, count in counts.items() if count >= min_count))
