"""Hashed n-grams of out-of-vocabulary words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.codecs.base import PADDING, UNKNOWN
from models.codecs.words import WordsCodec
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


def test_hash_is_fnv1a() -> None:
    assert [fnv1a(text) for text in ("", "a", "foobar")] == [0x811C9DC5, 0xE40C292C, 0xBF9CF968]


def test_ngrams_of_a_word_with_boundary_marks() -> None:
    assert codec().ngrams("cat").tolist() == rows("<ca", "<cat", "cat", "cat>", "at>")
    assert codec().ngrams("é").tolist() == rows("<é>")
    assert codec().ngrams("").tolist() == []


@given(word=st.text(max_size=5))
def test_rows_are_buckets(word: str) -> None:
    few = codec(subwords=SubwordsSpec(buckets=7, shortest=1, longest=6))
    found = few.ngrams(word)
    assert found.dtype == np.int32
    assert ((found >= 1) & (found <= 7)).all()


def test_only_oov_words_have_ngrams() -> None:
    item = codec().encode("the dog cafe\u0301")
    assert item.rows.tolist() == [2, UNKNOWN, 3]
    assert [found.tolist() for found in item.ngrams] == [codec().ngrams("dog").tolist()]
    assert item.extra == 1


def test_ngrams_are_normalized_to_nfc() -> None:
    assert codec().ngrams("ne\u0301e").tolist() == codec().ngrams("n\u00e9e").tolist()


def test_ngrams_of_a_long_word_are_those_of_its_two_ends() -> None:
    assert codec().ngrams("abc" + "x" * 1_000_000 + "def").tolist() == codec().ngrams("abcdef").tolist()


def test_ngrams_of_a_lone_surrogate() -> None:
    assert len(codec().ngrams("\ud800")) == 1


def test_collate_ngrams_of_oov_words() -> None:
    words = codec()
    feeds = words.collate([words.encode("the cat"), words.encode("it")])
    assert set(feeds) == {"words", "lengths", "unseen", "subwords", "subword_counts"}
    assert feeds["unseen"].tolist() == [[0, 2], [1, 0]]
    assert feeds["subword_counts"].tolist() == [5, 3]
    assert feeds["subwords"].T.tolist() == [words.ngrams("cat").tolist(), [*rows("<it", "<it>", "it>"), 0, 0]]
    assert {array.dtype for array in feeds.values()} == {np.dtype(np.int32)}


def test_collate_without_oov_words_has_one_padding_column() -> None:
    feeds = codec().collate([codec().encode("the")])
    assert (feeds["subwords"].tolist(), feeds["subword_counts"].tolist()) == ([[PADDING]], [0])


def test_characters_and_ngrams_together() -> None:
    words = codec(characters="characters.json")
    feeds = words.collate([words.encode("cab the")])
    assert feeds["spellings"].T.tolist() == [[4, 2, 3]]
    assert feeds["subwords"].T.tolist() == [words.ngrams("cab").tolist()]


def test_shortest_above_longest_is_refused() -> None:
    with pytest.raises(ValidationError, match="shortest is 5"):
        SubwordsSpec(buckets=9, shortest=5, longest=4)
