"""The codecs with one character per step: text and DNA."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.codecs import Codec, InputError, TooLong, build
from models.codecs.base import FIRST, PADDING, UNKNOWN
from models.codecs.characters import CODES, CharactersCodec, DnaCodec
from models.manifest import CharactersSpec, DnaSpec

LETTERS = CharactersCodec(CharactersSpec(), "abc")
BASES = DnaCodec(DnaSpec())
POSITIONS = DnaCodec(DnaSpec(positions=5))


@pytest.mark.parametrize("codec", [LETTERS, BASES], ids=["characters", "dna"])
@given(text=st.text("ACGTacgtNn-", max_size=20))
def test_offsets_of_symbols(codec: Codec, text: str) -> None:
    item = codec.encode(text)
    places = list(zip(item.starts, item.ends, strict=True))
    assert [text[start:end] for start, end in places] == list(item.tokens) == list(text)
    assert (item.length, item.extra) == (len(text), 0)
    assert item.span_text(0, len(text)) == text


@pytest.mark.parametrize("codec", [LETTERS, BASES], ids=["characters", "dna"])
def test_list_of_symbols_has_the_rows_of_the_text(codec: Codec) -> None:
    split, whole = codec.encode(["a", "C", "g"]), codec.encode("aCg")
    assert split.rows.tolist() == whole.rows.tolist()
    assert (split.text, split.span_text(1, 3), list(split.ends)) == (None, "Cg", [1, 2, 3])


@pytest.mark.parametrize("codec", [LETTERS, BASES], ids=["characters", "dna"])
@pytest.mark.parametrize("token", ["ac", "", 3])
def test_token_of_several_symbols_is_refused(codec: Codec, token: object) -> None:
    with pytest.raises(InputError, match="token 1 ") as caught:
        codec.encode(["a", token])  # type: ignore[list-item]
    assert caught.value.value == token


def test_lowercase_codec_keeps_the_text() -> None:
    codec = CharactersCodec.fit(CharactersSpec(lowercase=True), ["Ab", "\u03a3"])
    assert codec.characters == ("a", "b", "\u03c3")
    # In lower case, an I with a dot is two characters, and a final sigma is another letter.
    text = "B\u0130A\u03a3"
    item = codec.encode(text)
    assert (item.rows.tolist(), item.span_text(0, 4)) == ([3, UNKNOWN, 2, 4], text)


def test_rows_of_bases() -> None:
    assert "".join(CODES) == "ACGTRYSWKMBDHVN-"
    assert BASES.encode("".join(CODES)).rows.tolist() == list(range(FIRST, FIRST + 16))
    assert BASES.table_rows == FIRST + 16


def test_bases_ignore_case_and_u_is_t() -> None:
    assert BASES.encode("uU").rows.tolist() == BASES.encode("tT").rows.tolist() == [FIRST + 3] * 2
    assert BASES.encode("acgtn").rows.tolist() == BASES.encode("ACGTN").rows.tolist()


def test_positions_have_rows_of_their_own() -> None:
    assert POSITIONS.encode("AAC").rows.tolist() == [FIRST, FIRST + 16, FIRST + 33]
    assert POSITIONS.table_rows == FIRST + 5 * 16
    assert [POSITIONS.decode(row) for row in POSITIONS.encode("ACGTN").rows] == list("ACGTN")
    assert POSITIONS.encode("ACGTN").rows.dtype == np.int32


@pytest.mark.parametrize(
    ("text", "place", "letter"), [("ACXT", 2, "X"), ("AC GT", 2, " "), ("é", 0, "é"), ("AC\ud800", 2, "\ud800")]
)
def test_invalid_base_is_refused(text: str, place: int, letter: str) -> None:
    with pytest.raises(InputError) as caught:
        BASES.encode(text)
    assert f"character {place} " in str(caught.value)
    assert caught.value.value == letter


def test_number_is_not_a_base() -> None:
    with pytest.raises(InputError) as caught:
        BASES.encode(3)  # type: ignore[arg-type]
    assert caught.value.value == 3


@pytest.mark.parametrize("raw", ["ACGTAC", list("ACGTAC")])
def test_more_bases_than_positions_are_refused(raw: str | list[str]) -> None:
    with pytest.raises(TooLong) as caught:
        POSITIONS.encode(raw)
    assert caught.value.limit == 5
    assert BASES.encode(raw).length == 6


def test_bases_stop_after_the_limit() -> None:
    assert BASES.encode("AC" * 500_000, limit=9).length == 10
    assert BASES.encode(list("ACGTACGT"), limit=3).length == 4


def test_collate_bases() -> None:
    feeds = BASES.collate([BASES.encode("AC"), BASES.encode("G")])
    assert feeds["bases"].tolist() == [[2, 4], [3, 0]]
    assert feeds["lengths"].tolist() == [2, 1]
    assert {array.dtype for array in feeds.values()} == {np.dtype(np.int32)}


def test_build_dna_codec_from_spec() -> None:
    again = build(POSITIONS.spec, lambda name: ())
    assert isinstance(again, DnaCodec)
    assert (again.vocabularies, again.spec) == ({}, POSITIONS.spec)


@given(text=st.text("\n abcäß😀", max_size=40))
def test_decode_reverses_encode(text: str) -> None:
    codec = CharactersCodec(CharactersSpec(), "\n abcäß😀")
    item = codec.encode(text)
    assert "".join(codec.decode(row) for row in item.rows) == text
    assert item.length == len(text)


def test_unknown_characters_have_the_unknown_row() -> None:
    codec = CharactersCodec(CharactersSpec(), "ab")
    rows = codec.encode("a\x00\ud800b").rows
    assert rows.tolist() == [2, UNKNOWN, UNKNOWN, 3]
    assert [codec.decode(row) for row in (PADDING, UNKNOWN)] == ["", ""]


def test_characters_stop_after_the_limit() -> None:
    codec = CharactersCodec(CharactersSpec(), "ab")
    assert codec.encode("ab" * 500_000, limit=9).length == 10


def test_collate_characters() -> None:
    codec = CharactersCodec(CharactersSpec(), "ab")
    feeds = codec.collate([codec.encode("ab"), codec.encode("b")])
    assert feeds["characters"].tolist() == [[2, 3], [3, PADDING]]
    assert feeds["lengths"].tolist() == [2, 1]
