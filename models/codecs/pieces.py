"""Pieces of words: byte-pair encoding (Sennrich et al. 2016) with bytes for characters that the table lacks.

Every text has pieces, and `decode` returns exactly the text. `▁` stands for a space, and a text is encoded as if a
space came before it, so that a word has the same pieces at its start.  T pieces.
"""

import codecs
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from models.codecs.base import EncodedSteps, InputError, Ints, pad, quoted
from models.manifest import PiecesSpec

END = 0  # the row of the symbol before the first and after the last piece
END_PIECE = "</s>"
SPACE = "▁"
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
FIRST_BYTE, FIRST_PIECE = 1, 1 + len(BYTES)  # rows
# The cache of one codec holds this many words of at most this length and this many pieces: 20 MB at worst.
_CACHED_WORDS, _LONGEST_CACHED, _MOST_CACHED_PIECES = 16_384, 48, 8
# A merge never crosses these: letters with the space before them, one digit, one other character. The time for a word
# grows with the square of its length, so a run of letters is cut.
_WORD = re.compile(r" ?(?:[^\W\d_]{1,64}|[^ ])| ")
_Utf8 = codecs.getincrementaldecoder("utf-8")


def split_words(text: str) -> Iterator[re.Match[str]]:
    """Yield the parts of a text, as if a space came before it, that are encoded one by one."""
    return _WORD.finditer(f" {text}")


def fixed_pieces() -> tuple[str, ...]:
    """Return the pieces that every table starts with: the end symbol and the bytes."""
    return (END_PIECE, *BYTES)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedPieces(EncodedSteps):
    """One encoded text with rows (T,). `spans` are the characters of each piece; the end symbol has none."""

    text: str
    tokens: Sequence[str]
    spans: Sequence[tuple[int, int]]

    @property
    def starts(self) -> Sequence[int]:
        return [start for start, _ in self.spans]

    @property
    def ends(self) -> Sequence[int]:
        return [end for _, end in self.spans]

    def span_text(self, first: int, last: int) -> str:
        """Return the text of the pieces [first, last)."""
        return self.text[self.spans[first][0] : self.spans[last - 1][1]] if first < last else ""


class PiecesCodec:
    """Merges the characters of each word pair by pair, in the order of `merges`. `pieces` are the rows of the table.

    Each merge is "LEFT RIGHT". Raises ValueError for pieces that do not start with the end symbol and the bytes, and
    for merges of pieces that the table lacks.
    """

    def __init__(self, spec: PiecesSpec, pieces: Sequence[str], merges: Sequence[str]) -> None:
        self.spec, self.pieces, self.merges = spec, tuple(pieces), tuple(merges)
        if self.pieces[:FIRST_PIECE] != fixed_pieces():
            raise ValueError(f"the pieces start with {self.pieces[:2]}; start with {END_PIECE} and the 256 bytes")
        # With spaces for `▁`, so that a `▁` of a text is in no piece and becomes bytes.
        self._texts = [piece.replace(SPACE, " ") for piece in self.pieces]
        self._row = {text: row for row, text in enumerate(self._texts) if row >= FIRST_PIECE}
        self._pairs: list[tuple[str, str]] = []  # in the order of the merges
        for number, merge in enumerate(self.merges):
            left, _, right = (part.replace(SPACE, " ") for part in merge.partition(" "))
            if missing := [part for part in (left, right, left + right) if part not in self._row]:
                raise ValueError(f"merge {number} is {merge!r}, but {missing[0]!r} is not a piece; add it")
            self._pairs.append((left, right))
        self._rank = {pair: rank for rank, pair in enumerate(self._pairs)}
        self._words: dict[str, tuple[tuple[int, int], ...]] = {}  # word -> rows with their counts of characters

    @property
    def vocabularies(self) -> dict[str, tuple[str, ...]]:
        """File name in the spec -> entries."""
        return {self.spec.pieces: self.pieces, self.spec.merges: self.merges}

    @property
    def table_rows(self) -> int:
        return len(self.pieces)

    @property
    def tables(self) -> dict[str, int]:
        """Graph input -> rows of the table that it indexes."""
        return {"pieces": self.table_rows}

    def encode(self, raw: str, *, limit: int | None = None) -> EncodedPieces:
        """Encode a text as at most `limit` + 1 pieces. Raises InputError for anything but a text."""
        if not isinstance(raw, str):
            raise InputError(f"the input is {quoted(raw)}; send a string", value=raw)
        rows: list[int] = []
        spans: list[tuple[int, int]] = []
        place = -1  # of the space before the text
        for match in split_words(raw) if raw else ():
            for row, count in self._encode_word(match.group()):
                rows.append(row)
                spaces = count > 1 and self._texts[row].startswith(" ")  # not a part of the word
                spans.append((max(place, 0) if not spaces else place + 1, place + count))
                place += count
            if limit is not None and len(rows) > limit:
                del rows[limit + 1 :], spans[limit + 1 :]
                break
        tokens = [self.pieces[row] for row in rows]
        return EncodedPieces(text=raw, tokens=tokens, rows=np.array(rows, np.int32), spans=spans)

    def decode(self, rows: Iterable[int]) -> str:
        """Return the text of rows, without the end symbol. Bytes that are not UTF-8 become U+FFFD."""
        data = b"".join(self.bytes_of(row) for row in rows)
        return data.decode("utf-8", "replace").removeprefix(" ")

    def texts(self, rows: Sequence[int]) -> list[str]:
        """Return the text of each row. Together they are the text: a character of several bytes is that of its last."""
        decoder = PiecesDecoder(self)
        found = decoder.texts(rows)
        if found:
            found[-1] += decoder.end()
        return found

    def row_of(self, piece: str) -> int:
        """Return the row of a piece. Raises ValueError if the table lacks it."""
        return self.pieces.index(piece)

    def bytes_of(self, row: int) -> bytes:
        """Return the UTF-8 bytes of a row, with the space that it can start with."""
        if row >= FIRST_PIECE:
            return self._texts[row].encode()
        return bytes((row - FIRST_BYTE,)) if row >= FIRST_BYTE else b""

    def collate(self, items: Sequence[EncodedPieces]) -> dict[str, Ints]:
        """Return the feeds of the graph: pieces (T, B), lengths (B,)."""
        pieces, lengths = pad([item.rows for item in items])
        return {"pieces": pieces, "lengths": lengths}

    def _encode_word(self, word: str) -> tuple[tuple[int, int], ...]:
        found = self._words.get(word)
        if found is None:
            found = tuple(self._merge(word))
            if len(word) <= _LONGEST_CACHED and len(found) <= _MOST_CACHED_PIECES:
                if len(self._words) >= _CACHED_WORDS:  # of other texts, perhaps
                    self._words.clear()
                self._words[word] = found
        return found

    def _merge(self, word: str) -> Iterator[tuple[int, int]]:
        """Yield the row and the count of characters of each piece of a word."""
        symbols = list(map(self._lower, word) if self.spec.lowercase else word)
        while ranks := [rank for pair in pairwise(symbols) if (rank := self._rank.get(pair)) is not None]:
            left, right = self._pairs[min(ranks)]
            merged: list[str] = []
            previous = ""
            for symbol in symbols:
                if symbol == right and previous == left:
                    merged[-1] = previous = left + right
                else:
                    merged.append(symbol)
                    previous = symbol
            symbols = merged
        for symbol in symbols:
            if row := self._row.get(symbol):
                yield row, len(symbol)
                continue
            *others, last = symbol.encode("utf-8", "surrogatepass")  # all bytes stand for one character
            yield from ((FIRST_BYTE + byte, 0) for byte in others)
            yield FIRST_BYTE + last, 1

    @staticmethod
    def _lower(character: str) -> str:
        """Return the lower case of a character, unless it is several characters."""
        lower = character.lower()
        return lower if len(lower) == 1 else character


class PiecesDecoder:
    """Decodes rows that come one after another. Each row is decoded once, however often the text is read."""

    def __init__(self, codec: PiecesCodec) -> None:
        self._codec, self._utf8 = codec, _Utf8("replace")
        self._is_first = True

    def texts(self, rows: Iterable[int]) -> list[str]:
        """Return the text of each of the next rows. An incomplete character is that of a later row."""
        found = [self._utf8.decode(self._codec.bytes_of(row)) for row in rows]
        if found and self._is_first:
            self._is_first = False
            found[0] = found[0].removeprefix(" ")
        return found

    def end(self) -> str:
        """Return the rest: U+FFFD if the last character is incomplete."""
        rest = self._utf8.decode(b"", True)
        self._utf8.reset()
        return rest
