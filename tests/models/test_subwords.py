"""Words without a row that are read by their n-grams."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.codecs.words import PADDING, UNKNOWN, WordsCodec
from models.manifest import SubwordsSpec, WordsSpec

BUCKETS = 2**24


def codec(**changes: object) -> WordsCodec:
    subwords = SubwordsSpec(buckets=BUCKETS, shortest=3, longest=4)
    spec = WordsSpec(subwords=subwords, max_spelling=6).model_copy(update=changes)
    return WordsCodec(spec, ["the", "café"], characters="abc" if spec.characters else ())


def fnv1a(text: str) -> int:
    value = 0x811C9DC5
    for byte in text.encode():
        value = (value ^ byte) * 0x01000193 % 2**32
    return value


def rows(*ngrams: str) -> list[int]:
    return [1 + fnv1a(ngram) % BUCKETS for ngram in ngrams]


def test_the_hash_is_that_of_fowler_noll_and_vo() -> None:
    assert [fnv1a(text) for text in ("", "a", "foobar")] == [0x811C9DC5, 0xE40C292C, 0xBF9CF968]


def test_ngrams_are_runs_of_the_word_between_its_marks() -> None:
    assert codec().split("cat").tolist() == rows("<ca", "<cat", "cat", "cat>", "at>")
    assert codec().split("é").tolist() == rows("<é>")
    assert codec().split("").tolist() == []


@given(word=st.text(max_size=5))
def test_every_row_is_one_of_the_buckets(word: str) -> None:
    few = codec(subwords=SubwordsSpec(buckets=7, shortest=1, longest=6))
    found = few.split(word)
    assert found.dtype == np.int32
    assert ((found >= 1) & (found <= 7)).all()


def test_only_words_without_a_row_are_split() -> None:
    item = codec().encode("the dog cafe\u0301")
    assert item.rows.tolist() == [2, UNKNOWN, 3]
    assert [found.tolist() for found in item.subwords] == [codec().split("dog").tolist()]
    assert item.extra == 1


def test_either_normal_form_has_the_same_ngrams() -> None:
    assert codec().split("ne\u0301e").tolist() == codec().split("n\u00e9e").tolist()


def test_a_long_word_is_split_at_its_two_ends() -> None:
    assert codec().split("abc" + "x" * 1_000_000 + "def").tolist() == codec().split("abcdef").tolist()


def test_a_lone_surrogate_has_ngrams_too() -> None:
    assert len(codec().split("\ud800")) == 1


def test_the_feeds_hold_the_ngrams_of_each_word_without_a_row() -> None:
    words = codec()
    feeds = words.collate([words.encode("the cat"), words.encode("it")])
    assert set(feeds) == {"words", "lengths", "unseen", "subwords", "subword_counts"}
    assert feeds["unseen"].tolist() == [[0, 2], [1, 0]]
    assert feeds["subword_counts"].tolist() == [5, 3]
    assert feeds["subwords"].T.tolist() == [words.split("cat").tolist(), [*rows("<it", "<it>", "it>"), 0, 0]]
    assert {array.dtype for array in feeds.values()} == {np.dtype(np.int32)}


def test_a_batch_of_known_words_has_one_column_of_nothing() -> None:
    feeds = codec().collate([codec().encode("the")])
    assert (feeds["subwords"].tolist(), feeds["subword_counts"].tolist()) == ([[PADDING]], [0])


def test_a_word_may_be_spelled_and_split() -> None:
    words = codec(characters="characters.json")
    feeds = words.collate([words.encode("cab the")])
    assert feeds["spellings"].T.tolist() == [[4, 2, 3]]
    assert feeds["subwords"].T.tolist() == [words.split("cab").tolist()]


def test_a_shortest_above_the_longest_is_refused() -> None:
    with pytest.raises(ValidationError, match="shortest is 5, longest 4: no n-gram is both"):
        SubwordsSpec(buckets=9, shortest=5, longest=4)
