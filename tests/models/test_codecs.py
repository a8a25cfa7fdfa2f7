"""Codecs: places in the text, rows of the tables, words that training never saw."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import codecs
from models.codecs.characters import CharactersCodec
from models.codecs.tokenizer import TOKENIZERS, tokenize
from models.codecs.words import FIRST, PADDING, UNKNOWN, EncodedWords, WordsCodec
from models.manifest import CharactersSpec, SubwordsSpec, WordsSpec

# Pieces that text breaks on, more often than chance would bring them together.
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
def test_every_word_is_where_it_is_said_to_be(kind: str, text: str) -> None:
    tokens, starts, ends = tokenize(text, kind)
    assert [text[start:end] for start, end in zip(starts, ends, strict=True)] == tokens
    assert all(start < end for start, end in zip(starts, ends, strict=True))
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))


@pytest.mark.parametrize("kind", sorted(TOKENIZERS))
@given(text=TEXTS)
def test_only_white_space_is_left_out(kind: str, text: str) -> None:
    tokens, _, _ = tokenize(text, kind)
    assert "".join(tokens) == "".join(text.split())


@given(text=TEXTS, limit=st.integers(0, 5))
def test_a_limit_stops_one_word_behind_it(text: str, limit: int) -> None:
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
def test_words_of_real_text(text: str, words: str) -> None:
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
def test_a_megabyte_of_evil_is_read_in_linear_time(piece: str, tokens: int) -> None:
    # A quadratic expression would need hours; the count shows that the whole text was read.
    text = (piece * (1_000_000 // len(piece) + 1))[:1_000_000]
    found, _, _ = tokenize(text, "words")
    assert abs(len(found) - tokens) <= 2
    assert sum(map(len, found)) == len("".join(text.split()))


def words_codec(**changes: object) -> WordsCodec:
    spec = WordsSpec(stems="stems.json", characters="characters.json", max_spelling=6).model_copy(update=changes)
    return WordsCodec(spec, ["the", "Paris", "café"], ["paris", "dog"], ["a", "b", "c", "d", "e"])


def test_a_known_word_has_a_row_and_no_spelling() -> None:
    item = words_codec().encode("Paris the")
    assert item.rows.tolist() == [FIRST + 1, FIRST]
    assert item.spelled == []


def test_an_unseen_form_has_the_row_of_its_stem_and_a_spelling() -> None:
    item = words_codec().encode("the DOG")
    assert item.rows.tolist() == [FIRST, FIRST + 3 + 1]
    ((place, characters),) = item.spelled
    assert (place, characters.tolist()) == (1, [UNKNOWN] * 3)


def test_an_unseen_word_is_unknown_and_spelled() -> None:
    item = words_codec().encode("abcz")
    assert item.rows.tolist() == [UNKNOWN]
    assert item.spelled[0][1].tolist() == [2, 3, 4, UNKNOWN]


def test_a_word_is_found_in_either_normal_form() -> None:
    codec = words_codec()
    for form in ("NFC", "NFD"):
        item = codec.encode(unicodedata.normalize(form, "café"))  # type: ignore[arg-type]
        assert (item.rows.tolist(), item.spelled) == ([FIRST + 2], [])


def test_a_long_word_is_spelled_by_its_two_ends() -> None:
    codec = words_codec()
    assert codec.spell("abc" + "x" * 100_000 + "cba").tolist() == codec.spell("abccba").tolist()
    item = codec.encode("a" * 100_000)
    assert (item.length, len(item.spelled[0][1])) == (1, 6)


def test_lower_case_codecs_find_words_whatever_their_case() -> None:
    assert words_codec(lowercase=True).encode("THE").rows.tolist() == [FIRST]


def test_words_already_split_are_counted_not_measured() -> None:
    item = words_codec().encode(["the", "two words", ""])
    assert (item.text, list(item.tokens)) == (None, ["the", "two words", ""])
    assert (list(item.starts), list(item.ends)) == ([0, 1, 2], [1, 2, 3])
    assert item.rows.tolist() == [FIRST, UNKNOWN, UNKNOWN]
    assert item.spelled[1][1].tolist() == [UNKNOWN]  # a spelling has at least one character


@pytest.mark.parametrize("raw", ["the the the the", ["the", "the", "the", "the"]])
def test_more_words_than_the_limit_are_not_encoded(raw: str | list[str]) -> None:
    assert words_codec().encode(raw, limit=2).length == 3


def test_the_feeds_point_at_the_spelling_of_each_unseen_word() -> None:
    codec = words_codec()
    items = [codec.encode("the abc"), codec.encode("de the a")]
    feeds = codec.collate(items)
    assert feeds["words"].tolist() == [[FIRST, UNKNOWN], [UNKNOWN, FIRST], [PADDING, UNKNOWN]]
    assert feeds["lengths"].tolist() == [2, 3]
    assert feeds["unseen"].tolist() == [[0, 2], [1, 0], [0, 3]]
    assert feeds["spellings"].T.tolist() == [[2, 3, 4], [5, 6, 0], [2, 0, 0]]
    assert feeds["spelling_lengths"].tolist() == [3, 2, 1]
    assert {array.dtype for array in feeds.values()} == {np.dtype(np.int32)}


def test_a_batch_without_unseen_words_has_one_empty_spelling() -> None:
    codec = words_codec()
    feeds = codec.collate([codec.encode("the")])
    assert (feeds["spellings"].tolist(), feeds["spelling_lengths"].tolist()) == ([[PADDING]], [1])


def test_fitting_counts_and_orders() -> None:
    spec = WordsSpec(stems="stems.json", characters="characters.json")
    sentences = [["b", "a", "B"], ["b", "cafe\u0301", "caf\u00e9"]]
    codec = WordsCodec.fit(spec, sentences, min_count=2, stem_count=3)
    assert (codec.words, codec.stems) == (("b", "caf\u00e9"), ("b",))
    assert codec.characters == ("a", "b", "c", "f", "\u00e9")
    assert codec.table_rows == FIRST + 2 + 1


def test_a_codec_is_rebuilt_from_its_vocabularies() -> None:
    codec = words_codec()
    again = codecs.build(codec.spec, lambda file: codec.vocabularies[file])
    assert isinstance(again, WordsCodec)
    assert again.vocabularies == codec.vocabularies
    letters = CharactersCodec.fit(CharactersSpec(), ["ba", "ab\n"])
    assert letters.characters == ("\n", "a", "b")
    assert codecs.build(letters.spec, lambda file: letters.vocabularies[file]).table_rows == letters.table_rows


@given(text=st.text("\n abcäß😀", max_size=40))
def test_known_characters_come_back(text: str) -> None:
    codec = CharactersCodec(CharactersSpec(), "\n abcäß😀")
    item = codec.encode(text)
    assert "".join(codec.decode(row) for row in item.rows) == text
    assert item.length == len(text)


def test_an_unknown_character_has_a_row_that_says_nothing() -> None:
    codec = CharactersCodec(CharactersSpec(), "ab")
    rows = codec.encode("a\x00\ud800b").rows
    assert rows.tolist() == [2, UNKNOWN, UNKNOWN, 3]
    assert [codec.decode(row) for row in (PADDING, UNKNOWN)] == ["", ""]


def test_characters_beyond_the_limit_are_not_encoded() -> None:
    codec = CharactersCodec(CharactersSpec(), "ab")
    assert codec.encode("ab" * 500_000, limit=9).length == 10


def test_characters_are_collated_time_first() -> None:
    codec = CharactersCodec(CharactersSpec(), "ab")
    feeds = codec.collate([codec.encode("ab"), codec.encode("b")])
    assert feeds["characters"].tolist() == [[2, 3], [3, PADDING]]
    assert feeds["lengths"].tolist() == [2, 1]


MET = WordsSpec(stems="stems.json", characters="characters.json", subwords=SubwordsSpec(buckets=100))
OFTEN = st.lists(
    st.sampled_from(["the", "The", "cat.", "don't", "U.S.", "zebra", "", "\t", "a@b.c", "3,000!", "foo,bar", "foo"])
    | PIECES
)


def parts_of(words: EncodedWords) -> object:
    spelled = [(place, characters.tolist()) for place, characters in words.spelled]
    subwords = [rows.tolist() for rows in words.subwords]
    return list(words.tokens), list(words.starts), list(words.ends), words.rows.tolist(), spelled, subwords


@given(OFTEN.map(" ".join))
def test_a_text_of_runs_that_were_seen_is_encoded_as_word_for_word(text: str) -> None:
    codec = WordsCodec(MET, ("the", "cat", "."), ("the", "cat", "zebra"), "abcdefghijklmnopqrstuvwxyz")
    expected = parts_of(codec._encode(text, *tokenize(text, "words")))
    assert [parts_of(codec.encode(text)) for _ in range(2)] == [expected] * 2


def test_runs_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.codecs.words._REMEMBERED", 3)
    codec = WordsCodec(WordsSpec(characters="characters.json"), ("a",), (), "ab")
    codec.encode("a b c, d")
    assert set(codec._cut_runs) == {"c,"}
    codec.encode(",".join("abcdefghij"))  # too many words for one run
    assert not codec._cut_runs
    assert codec.encode("e " + "x" * 100).length == 2  # the last one is too long to be remembered
    assert not [*codec._run_row, *codec._cut_runs, *codec._forms]
    codec.encode("e")
    assert set(codec._run_row) == {"e"}
