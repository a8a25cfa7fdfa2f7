"""Words as rows of a table, and the tokenizer that splits text into words.

The table has the rows for padding and unknown, then `words` (exact forms), then `stems` (lower-case forms). An
out-of-vocabulary (OOV) word takes the row of its lower-case form, or the unknown row. In addition the graph reads its
characters, its n-grams, or both.
T words, B batch, N OOV words, C characters, G n-grams.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from itertools import accumulate, count, repeat
from operator import add, sub
from typing import Any, NamedTuple

import numpy as np

from models.codecs.base import FIRST, PADDING, UNKNOWN, Ints, pad
from models.manifest import SubwordsSpec, WordsSpec

TOKENIZERS = ("words", "whitespace")

# A word is a run of characters that are neither space nor punctuation. So letters of every script keep their combining
# marks, which \w does not match, and an emoji with joiners (U+200C, U+200D) stays one word. Latin-1 signs such as ª ² ½
# are letters here, because `_tokens_of_spans` relies on every str.isalnum character being one.
_PUNCTUATION = (
    r"!-/:-@\[-`{-~\xa1-\xa9\xab-\xb1\xb4\xb6-\xb8\xbb\xbf\u2000-\u200b\u200e-\u206f\u3000-\u303f\uff01-\uff0f"
)
_LETTER = rf"[^\s{_PUNCTUATION}]"
_APOSTROPHE = "['\u2019]"

_WORDS = re.compile(
    rf"""
      (?:https?://|www\.)[^\s<>"]+                   # a link
    | {_LETTER}[\w.+-]{{0,63}}@[\w-]{{1,63}}\.[\w.-]{{0,188}}\w  # an address; bounds keep the search linear
    | \d++(?:[.,:/]\d++)+                            # 10,000  3.14  5:30
    | (?:[A-Za-z]\.){{2,}}                           # U.S.
    | (?:Mr|Mrs|Ms|Dr|St|Jr|Sr|vs|etc|Inc|Co|Corp)\.
    | {_LETTER}+?(?=n{_APOSTROPHE}t\b)                        # do|n't
    | n{_APOSTROPHE}t\b
    | {_APOSTROPHE}(?:s|S|re|ve|ll|d|m)\b                     # it|'s
    | {_LETTER}+
    | \.{{2,}} | -{{2,}} | [!?]{{2,}} | [:;]-?[()DPp]  # ... -- !? :-)
    | \S
    """,
    re.VERBOSE,
)
_WHITESPACE = re.compile(r"\S+")
_SPLIT_LIMIT = 8192  # characters; a longer text is scanned lazily, so that the limit on words can stop the scan

Spans = tuple[list[str], list[int], list[int]]  # strings with their starts and ends in characters


def whitespace_spans(text: str) -> Spans:
    """Return the runs of non-space characters with their starts and ends."""
    parts = text.split() if len(text) <= _SPLIT_LIMIT else []
    if not parts or " ".join(parts) != text:
        found = list(_WHITESPACE.finditer(text))
        return [match.group() for match in found], [match.start() for match in found], [match.end() for match in found]
    # The common case: single spaces between words, so the offsets follow from the lengths.
    lengths = list(map(len, parts))
    ends = list(map(add, accumulate(lengths), count()))
    return parts, list(map(sub, ends, lengths)), ends


def tokenize(text: str, kind: str, limit: int | None = None) -> Spans:
    """Split text into words, with their starts and ends in characters. `kind` is one of TOKENIZERS.

    `text[start:end]` is the word. Words never cross whitespace, and how a run of non-space characters is split does not
    depend on its neighbors. Stops soon after `limit` words, so that a megabyte of text is not scanned to the end.
    """
    if len(text) > _SPLIT_LIMIT:
        spans = ((match.group(), *match.span()) for match in _WHITESPACE.finditer(text))
        return _tokens_of_spans(text, spans, kind == "whitespace", limit)
    return _tokens_of_spans(text, zip(*whitespace_spans(text), strict=True), kind == "whitespace", limit)


def _tokens_of_spans(text: str, spans: Iterable[tuple[str, int, int]], keep_whole: bool, limit: int | None) -> Spans:
    tokens: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for span, start, end in spans:
        # A single character, and letters and digits only, are never split. This is the common case.
        if keep_whole or len(span) == 1 or span.isalnum():
            tokens.append(span)
            starts.append(start)
            ends.append(end)
        else:
            for part in _WORDS.finditer(text, start, end):
                tokens.append(part.group())
                starts.append(part.start())
                ends.append(part.end())
                if limit is not None and len(tokens) > limit:
                    break
        if limit is not None and len(tokens) > limit:
            break
    return tokens, starts, ends


_LONGEST_NORMALIZED = 256  # characters; no vocabulary has longer words, and normalizing a megabyte takes milliseconds
_LONGEST_CACHED_TEXT = 8192  # characters
# The caches of one codec hold this many entries of at most this length and this many words: 10 to 20 MB at worst.
CACHE_ENTRIES, _LONGEST_CACHED_SPAN, _MOST_CACHED_WORDS = 16_384, 48, 8
_CACHED_NGRAMS = 4096  # words; hashing the n-grams of one takes about 15 µs
_PADDING_COLUMN = np.array([PADDING], np.int32)
# FNV-1a with 32 bits (Fowler, Noll, Vo): http://www.isthe.com/chongo/tech/comp/fnv/
_FNV_OFFSET, _FNV_PRIME = 0x811C9DC5, 0x01000193


class EncodedWords(NamedTuple):
    """One encoded input. `starts` and `ends` are character offsets, or word numbers if there is no text."""

    text: str | None
    tokens: Sequence[str]
    starts: Sequence[int]
    ends: Sequence[int]
    rows: Ints  # (T,)
    oov: Sequence[tuple[int, Ints]]  # (step, characters (C,)) of each OOV word that the graph reads
    ngrams: Sequence[Ints] = ()  # (G,) of each of these words, if the spec has n-grams

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def extra(self) -> int:
        """Work in addition to the steps: OOV words to read."""
        return len(self.oov)

    def span_text(self, first: int, last: int) -> str:
        """Return the text of the words [first, last)."""
        if self.text is not None:
            return self.text[self.starts[first] : self.ends[last - 1]]
        return " ".join(self.tokens[first:last])


class WordsCodec:
    """Looks up words. `words`, `stems` and `characters` are the vocabularies that the spec names."""

    def __init__(
        self, spec: WordsSpec, words: Sequence[str], stems: Sequence[str] = (), characters: Sequence[str] = ()
    ) -> None:
        self.spec = spec
        self.words, self.stems, self.characters = tuple(words), tuple(stems), tuple(characters)
        self._row = {word: row for row, word in enumerate(self.words, FIRST)}
        self._stem_row = {stem: row for row, stem in enumerate(self.stems, FIRST + len(self.words))}
        self._character = {character: index for index, character in enumerate(self.characters, FIRST)}
        self._reads_oov = bool(self.characters or spec.subwords)
        # Without a method of this codec, which would then be freed by the garbage collector only.
        self._cached_ngrams = lru_cache(maxsize=_CACHED_NGRAMS)(partial(_hash_ngrams, spec.subwords))
        # Caches by run of non-space characters, filled by `_learn`: runs that are one word, runs of several words, and
        # the (characters, n-grams) of OOV words.
        self._span_row: dict[str, int] = {}
        self._span_words: dict[str, EncodedWords] = {}
        self._oov_forms: dict[str, tuple[Ints, Sequence[Ints]]] = {}

    @property
    def vocabularies(self) -> dict[str, tuple[str, ...]]:
        """File name in the spec -> entries."""
        files = {self.spec.words: self.words}
        if self.spec.stems:
            files[self.spec.stems] = self.stems
        if self.spec.characters:
            files[self.spec.characters] = self.characters
        return files

    @property
    def table_rows(self) -> int:
        return FIRST + len(self.words) + len(self.stems)

    @property
    def tables(self) -> dict[str, int]:
        """Graph input -> rows of the table that it indexes."""
        rows = {"words": self.table_rows}
        if self.characters:
            rows["spellings"] = FIRST + len(self.characters)
        if self.spec.subwords:
            rows["subwords"] = 1 + self.spec.subwords.buckets
        return rows

    def encode(self, raw: str | Sequence[str], *, limit: int | None = None) -> EncodedWords:
        """Encode a string, which is tokenized, or a list of words. At most `limit` + 1 words are encoded."""
        if limit is not None and not isinstance(raw, str):
            raw = raw[: limit + 1]
        if isinstance(raw, str):
            if len(raw) <= (_LONGEST_CACHED_TEXT if limit is None else min(limit, _LONGEST_CACHED_TEXT)):
                return self._encode_cached(raw)
            tokens, starts, ends = tokenize(raw, self.spec.tokenizer, limit)
            return self._encode(raw, tokens, starts, ends)
        return self._encode(None, raw, range(len(raw)), range(1, len(raw) + 1))

    def _encode_cached(self, text: str) -> EncodedWords:
        """Return what `_encode` returns for a text, faster: most runs of non-space characters have been seen before."""
        if len(self._span_row) + len(self._span_words) + len(self._oov_forms) > CACHE_ENTRIES:
            for cache in (self._span_row, self._span_words, self._oov_forms):
                cache.clear()
        tokens, starts, ends = whitespace_spans(text)
        rows: list[Any] = list(map(self._span_row.get, tokens))
        if None in rows:  # runs of several words, or runs not seen before
            if max(map(len, tokens)) > _LONGEST_CACHED_SPAN:
                return self._encode(text, *tokenize(text, self.spec.tokenizer))
            for place in [place for place, row in enumerate(rows) if row is None][::-1]:
                span, start, after = tokens[place], starts[place], place + 1
                if (row := self._span_row.get(span)) is not None:  # learned earlier in this loop
                    rows[place] = row
                    continue
                words = self._span_words.get(span) or self._learn(span)
                tokens[place:after], rows[place:after] = words.tokens, words.rows.tolist()
                starts[place:after] = [start + each for each in words.starts]
                ends[place:after] = [start + each for each in words.ends]
        oov: list[tuple[int, Ints]] = []
        ngrams: list[Ints] = []
        if rows and min(rows) < 0:
            for place, row in enumerate(rows):
                if row < 0:
                    rows[place] = ~row
                    characters, hashed = self._oov_forms[tokens[place]]
                    oov.append((place, characters))
                    ngrams += hashed
        return EncodedWords(text, tokens, starts, ends, np.array(rows, np.int32), oov, ngrams)

    def _learn(self, span: str) -> EncodedWords:
        """Encode a run of non-space characters and cache it. A row is ~row for an OOV word, whose form is cached."""
        words = self._encode(span, *tokenize(span, self.spec.tokenizer))
        for nth, (place, characters) in enumerate(words.oov):
            self._oov_forms[words.tokens[place]] = characters, words.ngrams[nth : nth + 1]
            words.rows[place] = ~words.rows[place]
        words = words._replace(oov=(), ngrams=())
        if words.length == 1 and words.tokens[0] == span:
            self._span_row[span] = int(words.rows[0])
        elif words.length <= _MOST_CACHED_WORDS:
            self._span_words[span] = words
        return words

    def _encode(
        self, text: str | None, tokens: Sequence[str], starts: Sequence[int], ends: Sequence[int]
    ) -> EncodedWords:
        keys = [token.lower() for token in tokens] if self.spec.lowercase else tokens
        rows = list(map(self._row.get, keys, repeat(-1)))
        oov: list[tuple[int, Ints]] = []
        ngrams: Sequence[Ints] = ()
        if -1 in rows:
            for place, row in enumerate(rows):
                if row == -1:
                    rows[place], characters = self._look_up_oov(keys[place])
                    if characters is not None:
                        oov.append((place, characters))
            if self.spec.subwords:
                ngrams = [self.ngrams(keys[place]) for place, _ in oov]
        return EncodedWords(text, tokens, starts, ends, np.array(rows, np.int32), oov, ngrams)

    def _look_up_oov(self, key: str) -> tuple[int, Ints | None]:
        """Return the row and the characters of a word that is not in the table as written."""
        if len(key) <= _LONGEST_NORMALIZED:
            key = unicodedata.normalize("NFC", key)
        row = self._row.get(key)
        if row is not None:
            return row, None
        row = self._stem_row.get(key.lower(), UNKNOWN)
        return row, self.spelling(key) if self._reads_oov else None

    def _shortened(self, word: str) -> str:
        """Return a word, or the first and last half of one that is longer than `max_spelling`."""
        limit = self.spec.max_spelling
        return word if len(word) <= limit else word[: limit // 2] + word[-(limit - limit // 2) :]

    def spelling(self, word: str) -> Ints:
        """Return the rows of the characters of a word (C,), with C at most `max_spelling`."""
        word = self._shortened(word)
        return np.array([self._character.get(character, UNKNOWN) for character in word] or [UNKNOWN], np.int32)

    def ngrams(self, word: str) -> Ints:
        """Return the rows of the n-grams of a word (G,): 1 + their bucket. The array is cached; do not write to it.

        N-grams are the runs of `shortest` to `longest` characters of "<word>", ordered by first character, then by
        length. A short word can have none. Bojanowski et al. 2017, "Enriching word vectors with subword information".
        """
        if len(word) <= _LONGEST_NORMALIZED:
            word = unicodedata.normalize("NFC", word)
        return self._cached_ngrams(self._shortened(word))

    def collate(self, items: Sequence[EncodedWords]) -> dict[str, Ints]:
        """Return the feeds of the graph: words (T, B), lengths (B,), and more if the graph reads OOV words.

        unseen (T, B) is 0, or k for the k-th OOV word counted from 1. With characters there are spellings (C, N) and
        spelling_lengths (N,), with n-grams subwords (G, N) and subword_counts (N,). N is at least 1.
        """
        words, lengths = pad([item.rows for item in items], min_steps=1)
        feeds = {"words": words, "lengths": lengths}
        if self._reads_oov:
            unseen = np.zeros(words.shape, np.int32)  # (T, B)
            spellings: list[Ints] = []
            for column, item in enumerate(items):
                for place, characters in item.oov:
                    spellings.append(characters)
                    unseen[place, column] = len(spellings)
            feeds["unseen"] = unseen
            if self.characters:
                feeds["spellings"], feeds["spelling_lengths"] = pad(spellings or [_PADDING_COLUMN])
            if self.spec.subwords:
                ngrams = [rows for item in items for rows in item.ngrams]
                feeds["subwords"], feeds["subword_counts"] = pad(ngrams or [_PADDING_COLUMN[:0]])
        return feeds

    @classmethod
    def fit(
        cls, spec: WordsSpec, sentences: Iterable[Sequence[str]], *, min_count: int = 1, stem_count: int = 2
    ) -> "WordsCodec":
        """Collect the vocabularies of training sentences, most frequent first, ties in code point order."""
        counts = Counter(
            unicodedata.normalize("NFC", token.lower() if spec.lowercase else token)
            for sentence in sentences
            for token in sentence
        )
        words = _frequent(counts, min_count)
        stems: Counter[str] = Counter()
        characters: Counter[str] = Counter()
        for word, occurrences in counts.items():
            stems[word.lower()] += occurrences
            for character in word:
                characters[character] += occurrences
        return cls(
            spec,
            words,
            _frequent(stems, stem_count) if spec.stems else (),
            _frequent(characters, 2) if spec.characters else (),
        )


def _frequent(counts: Counter[str], least: int) -> list[str]:
    return sorted((entry for entry, count in counts.items() if count >= least), key=lambda e: (-counts[e], e))


def _hash_ngrams(spec: SubwordsSpec | None, word: str) -> Ints:
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
