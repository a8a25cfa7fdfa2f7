"""The tokenizer and the words codec: offsets, table rows and out-of-vocabulary words."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import codecs
from models.codecs.base import FIRST, PADDING, UNKNOWN
from models.codecs.characters import CharactersCodec
from models.codecs.words import TOKENIZERS, EncodedWords, WordsCodec, tokenize
from models.manifest import CharactersSpec, SubwordsSpec, WordsSpec

# Strings that break tokenizers.
# fmt: off
PIECES = st.sampled_from([
    "don't", "n't", "'", "\u2019s", "U.S.", "Mr.", "10,000", "a@b.co", "http://x.y/", "...", "!?", ":-)", "-", "A",
    "e\u0301", "\u0301", "\u0915\u094d\u0937", "\U0001f469\u200d\U0001f4bb", "\U0001f1eb\U0001f1f7", "x²", "½", "ª",
    "שלום", "\u202e", "مرحبا", "日本語。", "\x00", "\ud800", "\ufeff", "\u2028", "\t", "\u00a0", "\u3000", " ",
])
# fmt: on
TEXTS = st.lists(PIECES | st.text(max_size=5), max_size=20).map("".join)


@pytest.mark.parametrize("kind", sorted(TOKENIZERS))
@given(text=TEXTS)
def test_offsets_of_words(kind: str, text: str) -> None:
    tokens, starts, ends = tokenize(text, kind)
    assert [text[start:end] for start, end in zip(starts, ends, strict=True)] == tokens
    assert all(start < end for start, end in zip(starts, ends, strict=True))
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))


@pytest.mark.parametrize("kind", sorted(TOKENIZERS))
@given(text=TEXTS)
def test_tokenizer_drops_only_whitespace(kind: str, text: str) -> None:
    tokens, _, _ = tokenize(text, kind)
    assert "".join(tokens) == "".join(text.split())


@given(text=TEXTS, limit=st.integers(0, 5))
def test_tokenizer_stops_after_the_limit(text: str, limit: int) -> None:
    whole, _, _ = tokenize(text, "words")
    tokens, _, _ = tokenize(text, "words", limit)
    assert tokens == whole[: limit + 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("He didn't go .", "He did n't go ."),
        ("It's 10,000 — in the U.S.", "It 's 10,000 — in the U.S."),
        ("Mail a.b@c.org!!", "Mail a.b@c.org !!"),
        ("see http://a.b/c?d=1 now", "see http://a.b/c?d=1 now"),
        ("Mr. O\u2019Brien\u2019s dog...", "Mr. O \u2019 Brien \u2019s dog ..."),
        ("cafe\u0301 क्षेत्र \U0001f469\u200d\U0001f4bb!", "cafe\u0301 क्षेत्र \U0001f469\u200d\U0001f4bb !"),
        ("שלום, עולם", "שלום , עולם"),
        ("a\x00b", "a\x00b"),
    ],
)
def test_tokenize_real_text(text: str, words: str) -> None:
    assert tokenize(text, "words")[0] == words.split(" ")


@pytest.mark.parametrize(
    ("piece", "tokens"),
    [
        ("a", 1),
        ("n", 1),
        ("1", 1),
        ("1,", 2),
        ("A.", 1),
        ("'", 1_000_000),
        ("n't", 999_999 // 3 * 2),
        ("a@", 1_000_000),
        ("a@a.", 250_002),
        ("\u0301", 1),
        ("\ud83d", 1),
        ("!?", 1),
        (" ", 0),
    ],
)
def test_tokenizer_takes_linear_time(piece: str, tokens: int) -> None:
    # A quadratic expression would take hours. The count shows that the whole text was read.
    text = (piece * (1_000_000 // len(piece) + 1))[:1_000_000]
    found, _, _ = tokenize(text, "words")
    assert abs(len(found) - tokens) <= 2
    assert sum(map(len, found)) == len("".join(text.split()))


def words_codec(**changes: object) -> WordsCodec:
    spec = WordsSpec(stems="stems.json", characters="characters.json", max_spelling=6).model_copy(update=changes)
    return WordsCodec(spec, ["the", "Paris", "café"], ["paris", "dog"], ["a", "b", "c", "d", "e"])


def test_known_word_has_a_row_and_no_spelling() -> None:
    item = words_codec().encode("Paris the")
    assert item.rows.tolist() == [FIRST + 1, FIRST]
    assert item.oov == []


def test_oov_form_has_the_row_of_its_stem_and_a_spelling() -> None:
    item = words_codec().encode("the DOG")
    assert item.rows.tolist() == [FIRST, FIRST + 3 + 1]
    ((place, characters),) = item.oov
    assert (place, characters.tolist()) == (1, [UNKNOWN] * 3)


def test_oov_word_has_the_unknown_row_and_a_spelling() -> None:
    item = words_codec().encode("abcz")
    assert item.rows.tolist() == [UNKNOWN]
    assert item.oov[0][1].tolist() == [2, 3, 4, UNKNOWN]


def test_words_are_normalized_to_nfc() -> None:
    codec = words_codec()
    for form in ("NFC", "NFD"):
        item = codec.encode(unicodedata.normalize(form, "café"))  # type: ignore[arg-type]
        assert (item.rows.tolist(), item.oov) == ([FIRST + 2], [])


def test_long_word_is_spelled_by_its_two_ends() -> None:
    codec = words_codec()
    assert codec.spelling("abc" + "x" * 100_000 + "cba").tolist() == codec.spelling("abccba").tolist()
    item = codec.encode("a" * 100_000)
    assert (item.length, len(item.oov[0][1])) == (1, 6)


def test_lowercase_codec_ignores_case() -> None:
    assert words_codec(lowercase=True).encode("THE").rows.tolist() == [FIRST]


def test_list_of_words_has_word_offsets() -> None:
    item = words_codec().encode(["the", "two words", ""])
    assert (item.text, list(item.tokens)) == (None, ["the", "two words", ""])
    assert (list(item.starts), list(item.ends)) == ([0, 1, 2], [1, 2, 3])
    assert item.rows.tolist() == [FIRST, UNKNOWN, UNKNOWN]
    assert item.oov[1][1].tolist() == [UNKNOWN]  # a spelling has at least one character


@pytest.mark.parametrize("raw", ["the the the the", ["the", "the", "the", "the"]])
def test_encode_stops_after_the_limit(raw: str | list[str]) -> None:
    assert words_codec().encode(raw, limit=2).length == 3


def test_collate_spells_oov_words() -> None:
    codec = words_codec()
    items = [codec.encode("the abc"), codec.encode("de the a")]
    feeds = codec.collate(items)
    assert feeds["words"].tolist() == [[FIRST, UNKNOWN], [UNKNOWN, FIRST], [PADDING, UNKNOWN]]
    assert feeds["lengths"].tolist() == [2, 3]
    assert feeds["unseen"].tolist() == [[0, 2], [1, 0], [0, 3]]
    assert feeds["spellings"].T.tolist() == [[2, 3, 4], [5, 6, 0], [2, 0, 0]]
    assert feeds["spelling_lengths"].tolist() == [3, 2, 1]
    assert {array.dtype for array in feeds.values()} == {np.dtype(np.int32)}


def test_collate_without_oov_words_has_one_padding_column() -> None:
    codec = words_codec()
    feeds = codec.collate([codec.encode("the")])
    assert (feeds["spellings"].tolist(), feeds["spelling_lengths"].tolist()) == ([[PADDING]], [1])


def test_fit_counts_and_orders() -> None:
    spec = WordsSpec(stems="stems.json", characters="characters.json")
    sentences = [["b", "a", "B"], ["b", "cafe\u0301", "caf\u00e9"]]
    codec = WordsCodec.fit(spec, sentences, min_count=2, stem_count=3)
    assert (codec.words, codec.stems) == (("b", "caf\u00e9"), ("b",))
    assert codec.characters == ("a", "b", "c", "f", "\u00e9")
    assert codec.table_rows == FIRST + 2 + 1


def test_build_from_vocabularies() -> None:
    codec = words_codec()
    again = codecs.build(codec.spec, lambda file: codec.vocabularies[file])
    assert isinstance(again, WordsCodec)
    assert again.vocabularies == codec.vocabularies
    letters = CharactersCodec.fit(CharactersSpec(), ["ba", "ab\n"])
    assert letters.characters == ("\n", "a", "b")
    assert codecs.build(letters.spec, lambda file: letters.vocabularies[file]).table_rows == letters.table_rows


SPEC = WordsSpec(stems="stems.json", characters="characters.json", subwords=SubwordsSpec(buckets=100))
REPEATED = st.lists(
    st.sampled_from(["the", "The", "cat.", "don't", "U.S.", "zebra", "", "\t", "a@b.c", "3,000!", "foo,bar", "foo"])
    | PIECES
)


def parts_of(words: EncodedWords) -> object:
    spelled = [(place, characters.tolist()) for place, characters in words.oov]
    subwords = [rows.tolist() for rows in words.ngrams]
    return list(words.tokens), list(words.starts), list(words.ends), words.rows.tolist(), spelled, subwords


@given(REPEATED.map(" ".join))
def test_cached_encoding_equals_uncached(text: str) -> None:
    codec = WordsCodec(SPEC, ("the", "cat", "."), ("the", "cat", "zebra"), "abcdefghijklmnopqrstuvwxyz")
    expected = parts_of(codec.encode(text + " " * 10_000))  # too long for the cache
    assert [parts_of(codec.encode(text)) for _ in range(2)] == [expected] * 2


def test_full_cache_is_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.codecs.words.CACHE_ENTRIES", 3)
    codec = WordsCodec(WordsSpec(characters="characters.json"), ("a",), (), "ab")
    for text in ("a b c, d", ",".join("abcdefghij"), "e " + "x" * 100, "e"):
        assert parts_of(codec.encode(text)) == parts_of(codec.encode(text + " " * 10_000))
