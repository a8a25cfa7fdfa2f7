"""Codecs whose steps are single characters: texts letter by letter, DNA base by base."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.codecs import Codec, InputError, TooLong, build
from models.codecs.characters import UNKNOWN, CharactersCodec
from models.codecs.dna import CODES, FIRST, DnaCodec
from models.manifest import CharactersSpec, DnaSpec

LETTERS = CharactersCodec(CharactersSpec(), "abc")
BASES = DnaCodec(DnaSpec())
PLACES = DnaCodec(DnaSpec(positions=5))


@pytest.mark.parametrize("codec", [LETTERS, BASES], ids=["characters", "dna"])
@given(text=st.text("ACGTacgtNn-", max_size=20))
def test_a_step_is_where_it_is_said_to_be(codec: Codec, text: str) -> None:
    item = codec.encode(text)
    places = list(zip(item.starts, item.ends, strict=True))
    assert [text[start:end] for start, end in places] == list(item.tokens) == list(text)
    assert (item.length, item.extra) == (len(text), 0)
    assert item.between(0, len(text)) == text


@pytest.mark.parametrize("codec", [LETTERS, BASES], ids=["characters", "dna"])
def test_steps_already_split_have_the_rows_of_the_text(codec: Codec) -> None:
    split, whole = codec.encode(["a", "C", "g"]), codec.encode("aCg")
    assert split.rows.tolist() == whole.rows.tolist()
    assert (split.text, split.between(1, 3), list(split.ends)) == (None, "Cg", [1, 2, 3])


@pytest.mark.parametrize("codec", [LETTERS, BASES], ids=["characters", "dna"])
@pytest.mark.parametrize("token", ["ac", "", 3])
def test_a_token_that_is_not_one_step_is_refused_with_its_place(codec: Codec, token: object) -> None:
    with pytest.raises(InputError, match=r"token 1 is .*, but a token here is one .*: send the text as a string"):
        codec.encode(["a", token])  # type: ignore[list-item]


def test_lower_case_is_looked_up_and_the_text_stays_as_it_was_sent() -> None:
    codec = CharactersCodec.fit(CharactersSpec(lowercase=True), ["Ab", "\u03a3"])
    assert codec.characters == ("a", "b", "\u03c3")
    # An I with a dot is two characters in lower case, and a sigma that ends a word another letter: each is looked up
    # by itself.
    text = "B\u0130A\u03a3"
    item = codec.encode(text)
    assert (item.rows.tolist(), item.between(0, 4)) == ([3, UNKNOWN, 2, 4], text)


def test_rows_of_bases_are_in_the_order_of_the_format() -> None:
    assert "".join(CODES) == "ACGTRYSWKMBDHVN-"
    assert BASES.encode("".join(CODES)).rows.tolist() == list(range(FIRST, FIRST + 16))
    assert BASES.table_rows == FIRST + 16


def test_case_means_nothing_and_u_is_t() -> None:
    assert BASES.encode("uU").rows.tolist() == BASES.encode("tT").rows.tolist() == [FIRST + 3] * 2
    assert BASES.encode("acgtn").rows.tolist() == BASES.encode("ACGTN").rows.tolist()


def test_a_base_has_a_row_for_its_place() -> None:
    assert PLACES.encode("AAC").rows.tolist() == [FIRST, FIRST + 16, FIRST + 33]
    assert PLACES.table_rows == FIRST + 5 * 16
    assert [PLACES.decode(row) for row in PLACES.encode("ACGTN").rows] == list("ACGTN")
    assert PLACES.encode("ACGTN").rows.dtype == np.int32


@pytest.mark.parametrize(
    ("text", "place", "letter"), [("ACXT", 2, "X"), ("AC GT", 2, " "), ("é", 0, "é"), ("AC\ud800", 2, "\ud800")]
)
def test_a_letter_that_is_no_base_is_refused_with_its_place(text: str, place: int, letter: str) -> None:
    with pytest.raises(InputError) as caught:
        BASES.encode(text)
    assert str(caught.value).startswith(f"character {place} is {letter!r}, which is no base: send A, C, G, T (or U)")
    assert caught.value.value == letter


def test_numbers_are_no_bases() -> None:
    with pytest.raises(InputError, match="bases come as a string, not as 3"):
        BASES.encode(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("raw", ["ACGTAC", list("ACGTAC")])
def test_more_bases_than_places_are_refused_with_the_limit(raw: str | list[str]) -> None:
    with pytest.raises(TooLong, match="more than 5 bases") as caught:
        PLACES.encode(raw)
    assert caught.value.limit == 5
    assert BASES.encode(raw).length == 6


def test_bases_beyond_the_limit_are_not_encoded() -> None:
    assert BASES.encode("AC" * 500_000, limit=9).length == 10
    assert BASES.encode(list("ACGTACGT"), limit=3).length == 4


def test_bases_are_collated_time_first() -> None:
    feeds = BASES.collate([BASES.encode("AC"), BASES.encode("G")])
    assert feeds["bases"].tolist() == [[2, 4], [3, 0]]
    assert feeds["lengths"].tolist() == [2, 1]
    assert {array.dtype for array in feeds.values()} == {np.dtype(np.int32)}


def test_a_codec_of_bases_is_its_spec() -> None:
    again = build(PLACES.spec, lambda name: ())
    assert isinstance(again, DnaCodec)
    assert (again.vocabularies, DnaCodec.fit(PLACES.spec).spec, again.spec) == ({}, PLACES.spec, PLACES.spec)
