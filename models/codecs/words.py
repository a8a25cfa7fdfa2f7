"""Words to rows of a table; a word that has no row of its own is spelled by its characters, its n-grams or both.

The table of a graph has rows 0 (padding), 1 (unknown), then one for each of `words` (exact forms, whose
spelling is folded into the row), then one for each of `stems` (lower-case forms, for a word such as "PARIS" that
is unseen as it stands: the row of its stem is taken and its spelling is given beside it).
T words, B batch, N spelled words, C characters, G n-grams.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.codecs.tokenizer import runs, tokenize
from models.manifest import WordsSpec
from models.padding import pad

Ints = NDArray[np.int32]

PADDING, UNKNOWN, FIRST = 0, 1, 2  # rows of the table of words; also of the table of characters


class EncodedWords(NamedTuple):
    """One encoded input. `starts`/`ends` are characters of `text`; without a text they count words."""

    text: str | None
    tokens: Sequence[str]
    starts: Sequence[int]
    ends: Sequence[int]
    rows: Ints  # (T,)
    spelled: Sequence[tuple[int, Ints]]  # (place, characters) of the words without a row
    subwords: Sequence[Ints] = ()  # of each spelled word, (G,), where the spec has them

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def extra(self) -> int:
        """Words that a graph has to spell, beside its steps."""
        return len(self.spelled)

    def between(self, first: int, last: int) -> str:
        """The words [first, last), as they stand in the text."""
        if self.text is not None:
            return self.text[self.starts[first] : self.ends[last - 1]]
        return " ".join(self.tokens[first:last])


class WordsCodec:
    """See the module. `words`, `stems` and `characters` are the vocabularies that the spec names."""

    def __init__(
        self, spec: WordsSpec, words: Sequence[str], stems: Sequence[str] = (), characters: Sequence[str] = ()
    ) -> None:
        self.spec = spec
        self.words, self.stems, self.characters = tuple(words), tuple(stems), tuple(characters)
        self._row = {word: row for row, word in enumerate(self.words, FIRST)}
        self._stem_row = {stem: row for row, stem in enumerate(self.stems, FIRST + len(self.words))}
        self._character = {character: index for index, character in enumerate(self.characters, FIRST)}
        self._reads_form = bool(self.characters or spec.subwords)
        # The words that a vocabulary lacks come again, too; an entry is some hundred bytes.
        self._cached_split = lru_cache(maxsize=_SPLIT_WORDS)(self._split)
        self._run_row: dict[str, int] = {}  # of the runs that are one word, see _learn
        self._cut_runs: dict[str, EncodedWords] = {}
        self._forms: dict[str, tuple[Ints, Sequence[Ints]]] = {}  # of words to be spelled: characters, n-grams

    @property
    def vocabularies(self) -> dict[str, tuple[str, ...]]:
        """File name of the spec -> its entries."""
        files = {self.spec.words: self.words}
        if self.spec.stems:
            files[self.spec.stems] = self.stems
        if self.spec.characters:
            files[self.spec.characters] = self.characters
        return files

    @property
    def table_rows(self) -> int:
        return FIRST + len(self.words) + len(self.stems)

    def encode(self, raw: str | Sequence[str], *, limit: int | None = None) -> EncodedWords:
        """A string is tokenised; a sequence is taken as words already split.

        Of an input of more than `limit` words, `limit` + 1 are encoded.
        """
        if limit is not None and not isinstance(raw, str):
            raw = raw[: limit + 1]
        if isinstance(raw, str):
            if len(raw) <= (_LONGEST_BY_RUNS if limit is None else min(limit, _LONGEST_BY_RUNS)):
                return self._encode_runs(raw)
            tokens, starts, ends = tokenize(raw, self.spec.tokenizer, limit)
            return self._encode(raw, tokens, starts, ends)
        return self._encode(None, raw, range(len(raw)), range(1, len(raw) + 1))

    def _encode_runs(self, text: str) -> EncodedWords:
        """As `_encode` of the words of a text, from what its runs of letters were before: most come again and again."""
        if len(self._run_row) + len(self._cut_runs) + len(self._forms) > _REMEMBERED:
            for remembered in (self._run_row, self._cut_runs, self._forms):
                remembered.clear()
        tokens, starts, ends = runs(text)
        rows: list[Any] = list(map(self._run_row.get, tokens))
        if None in rows:  # runs of several words, or met for the first time
            if max(map(len, tokens)) > _LONGEST_RUN:
                return self._encode(text, *tokenize(text, self.spec.tokenizer))
            for place in [place for place, row in enumerate(rows) if row is None][::-1]:
                run, start, after = tokens[place], starts[place], place + 1
                if (row := self._run_row.get(run)) is not None:  # learned a moment ago
                    rows[place] = row
                    continue
                words = self._cut_runs.get(run) or self._learn(run)
                tokens[place:after], rows[place:after] = words.tokens, words.rows.tolist()
                starts[place:after] = [start + each for each in words.starts]
                ends[place:after] = [start + each for each in words.ends]
        spelled: list[tuple[int, Ints]] = []
        subwords: list[Ints] = []
        if rows and min(rows) < 0:
            for place, row in enumerate(rows):
                if row < 0:
                    rows[place] = ~row
                    characters, grams = self._forms[tokens[place]]
                    spelled.append((place, characters))
                    subwords += grams
        return EncodedWords(text, tokens, starts, ends, np.array(rows, np.int32), spelled, subwords)

    def _learn(self, run: str) -> EncodedWords:
        """What a run without a space is, which is remembered: ~row for a word whose form is to be looked up, too.

        The forms of its words are kept by word, not in it.
        """
        words = self._encode(run, *tokenize(run, self.spec.tokenizer))
        for nth, (place, characters) in enumerate(words.spelled):
            self._forms[words.tokens[place]] = characters, words.subwords[nth : nth + 1]
            words.rows[place] = ~words.rows[place]
        words = words._replace(spelled=(), subwords=())
        if words.length == 1 and words.tokens[0] == run:
            self._run_row[run] = int(words.rows[0])
        elif words.length <= _MOST_WORDS:
            self._cut_runs[run] = words
        return words

    def _encode(
        self, text: str | None, tokens: Sequence[str], starts: Sequence[int], ends: Sequence[int]
    ) -> EncodedWords:
        keys = [token.lower() for token in tokens] if self.spec.lowercase else tokens
        rows = list(map(self._row.get, keys, repeat(-1)))
        spelled: list[tuple[int, Ints]] = []
        subwords: Sequence[Ints] = ()
        if -1 in rows:
            for place, row in enumerate(rows):
                if row == -1:
                    rows[place], characters = self._look_closer(keys[place])
                    if characters is not None:
                        spelled.append((place, characters))
            if self.spec.subwords:
                subwords = [self.split(keys[place]) for place, _ in spelled]
        found = np.array(rows, np.int32)
        return EncodedWords(
            text=text, tokens=tokens, starts=starts, ends=ends, rows=found, spelled=spelled, subwords=subwords
        )

    def _look_closer(self, key: str) -> tuple[int, Ints | None]:
        """The row and the spelling of a word that is not in the table as it stands."""
        if len(key) <= _LONGEST_NORMALISED:
            key = unicodedata.normalize("NFC", key)
        row = self._row.get(key)
        if row is not None:
            return row, None
        row = self._stem_row.get(key.lower(), UNKNOWN)
        return row, self.spell(key) if self._reads_form else None

    def spell(self, word: str) -> Ints:
        """The characters of `word` (C,), at most `max_spelling`: of a longer word its first and its last half."""
        limit = self.spec.max_spelling
        if len(word) > limit:
            word = word[: limit // 2] + word[-(limit - limit // 2) :]
        return np.array([self._character.get(character, UNKNOWN) for character in word] or [UNKNOWN], np.int32)

    def split(self, word: str) -> Ints:
        """The n-grams of `word` as rows (G,) of the table of n-grams, 1 + their bucket; not to be written to.

        N-grams are runs of `shortest` to `longest` characters of "<word>", in the order of their first characters,
        then of their lengths; of a longer word than `max_spelling` those of its first and its last half. A short word
        may have none. Bojanowski et al. 2017, "Enriching word vectors with subword information".
        """
        limit = self.spec.max_spelling
        if len(word) <= _LONGEST_NORMALISED:
            word = unicodedata.normalize("NFC", word)
        return self._cached_split(word if len(word) <= limit else word[: limit // 2] + word[-(limit - limit // 2) :])

    def _split(self, word: str) -> Ints:
        spec = self.spec.subwords
        assert spec is not None
        letters = [character.encode("utf-8", "surrogatepass") for character in f"<{word}>"]
        rows = []
        for first in range(len(letters)):
            value = _FNV_OFFSET
            for size, letter in enumerate(letters[first : first + spec.longest], 1):
                for byte in letter:
                    value = (value ^ byte) * _FNV_PRIME & 0xFFFFFFFF
                if size >= spec.shortest:
                    rows.append(1 + value % spec.buckets)
        return np.array(rows, np.int32)

    def collate(self, items: Sequence[EncodedWords]) -> dict[str, Ints]:
        """Feeds of the graph.

        words (T, B), lengths (B,); with a character vocabulary also unseen (T, B): 0, or k for the k-th spelled
        word counted from 1, spellings (C, N) and spelling_lengths (N,); with subwords also unseen, subwords (G, N)
        and subword_counts (N,). N is at least 1.
        """
        words, lengths = pad([item.rows for item in items], min_steps=1)
        feeds = {"words": words, "lengths": lengths}
        if self._reads_form:
            unseen = np.zeros(words.shape, np.int32)
            spellings: list[Ints] = []
            for column, item in enumerate(items):
                for place, characters in item.spelled:
                    spellings.append(characters)
                    unseen[place, column] = len(spellings)
            feeds["unseen"] = unseen
            if self.characters:
                feeds["spellings"], feeds["spelling_lengths"] = pad(spellings or [_NOTHING])
            if self.spec.subwords:
                subwords = [rows for item in items for rows in item.subwords]
                feeds["subwords"], feeds["subword_counts"] = pad(subwords or [_NOTHING[:0]])
        return feeds

    @classmethod
    def fit(
        cls, spec: WordsSpec, sentences: Iterable[Sequence[str]], *, min_count: int = 1, stem_count: int = 2
    ) -> "WordsCodec":
        """Vocabularies from training sentences, most frequent first, ties in code point order."""
        counts = Counter(
            unicodedata.normalize("NFC", token.lower() if spec.lowercase else token)
            for sentence in sentences
            for token in sentence
        )
        words = _frequent(counts, min_count)
        stems: Counter[str] = Counter()
        characters: Counter[str] = Counter()
        for word, count in counts.items():
            stems[word.lower()] += count
            for character in word:
                characters[character] += count
        return cls(
            spec,
            words,
            _frequent(stems, stem_count) if spec.stems else (),
            _frequent(characters, 2) if spec.characters else (),
        )


_NOTHING = np.array([PADDING], np.int32)
_LONGEST_NORMALISED = 256  # no vocabulary has longer words; normalising a megabyte would take milliseconds
# Characters of a text; one of more than the limit on words is cut there before it has been walked through.
_LONGEST_BY_RUNS = 8192
# Entries, characters of a run, words in one of several: ten or twenty megabytes at worst; then all anew.
_REMEMBERED, _LONGEST_RUN, _MOST_WORDS = 16_384, 48, 8
_SPLIT_WORDS = 4096  # whose n-grams are remembered: to hash them takes about 15 µs a word
# FNV-1a, 32 bit, of Fowler, Noll and Vo: http://www.isthe.com/chongo/tech/comp/fnv/
_FNV_OFFSET, _FNV_PRIME = 0x811C9DC5, 0x01000193


def _frequent(counts: Counter[str], least: int) -> list[str]:
    return sorted((entry for entry, count in counts.items() if count >= least), key=lambda e: (-counts[e], e))
