"""Characters to rows of a table and back, one a step.

Row 0 is padding, row 1 stands for every character that training never saw. T characters, B batch.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from models.codecs.symbols import EncodedSymbols, Ints, joined
from models.manifest import CharactersSpec
from models.padding import pad

PADDING, UNKNOWN, FIRST = 0, 1, 2


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

    def encode(self, raw: str | Sequence[str], *, limit: int | None = None) -> EncodedSymbols:
        """A string, or a list of characters; InputError for a list of anything else.

        Of a text of more than `limit` characters, `limit` + 1 are encoded.
        """
        if limit is not None:
            raw = raw[: limit + 1]
        text = raw if isinstance(raw, str) else joined(raw, "character")
        find = self._row.get
        # Each by itself: in lower case a text may have more characters, and be in other places, than as it was sent.
        looked_up = map(str.lower, text) if self.spec.lowercase else text
        rows = np.array([find(character, UNKNOWN) for character in looked_up], np.int32)
        return EncodedSymbols(text=text if text is raw else None, tokens=text, rows=rows)

    def decode(self, row: int) -> str:
        """The character of a row; the two rows that stand for no character give ''."""
        return self.characters[row - FIRST] if row >= FIRST else ""

    def collate(self, items: Sequence[EncodedSymbols]) -> dict[str, Ints]:
        """Feeds of the graph: characters (T, B), lengths (B,)."""
        characters, lengths = pad([item.rows for item in items], min_steps=1)
        return {"characters": characters, "lengths": lengths}

    @classmethod
    def fit(cls, spec: CharactersSpec, texts: Iterable[str], *, min_count: int = 1) -> "CharactersCodec":
        """The vocabulary of training texts, in code point order."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(map(str.lower, text) if spec.lowercase else text)
        return cls(spec, sorted(character for character, count in counts.items() if count >= min_count))
