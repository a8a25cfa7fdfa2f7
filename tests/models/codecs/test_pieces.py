"""The codec of byte-pair encoding."""

import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.codecs import InputError, build
from models.codecs.pieces import BYTES, END, FIRST_BYTE, FIRST_PIECE, PiecesCodec, fixed_pieces
from models.manifest import PiecesSpec

LEARNED = ("▁", "a", "b", "c", "▁a", "ab", "▁ab", "abc", "▁abc", "é")
MERGES = ("a b", "▁ ab", "ab c", "▁ab c", "▁ a")
CODEC = PiecesCodec(PiecesSpec(), (*fixed_pieces(), *LEARNED), MERGES)


def pieces_of(text: str, codec: PiecesCodec = CODEC) -> list[str]:
    return list(codec.encode(text).tokens)


@given(text=st.text(st.one_of(st.sampled_from("abc ▁é\n1.<>"), st.characters(exclude_categories=["Cs"])), max_size=30))
def test_decoding_returns_the_text(text: str) -> None:
    item = CODEC.encode(text)
    assert CODEC.decode([*item.rows, END]) == text
    assert "".join(CODEC.texts(item.rows.tolist())) == text
    assert item.span_text(0, item.length).strip() == text.strip()


def test_merges_go_in_their_order() -> None:
    assert pieces_of("abc") == ["▁abc"]  # "▁ ab" comes before "ab c"
    assert pieces_of("cabab") == ["▁", "c", "ab", "ab"]
    assert pieces_of("aab") == ["▁a", "ab"]
    assert pieces_of("ba a") == ["▁", "b", "a", "▁a"]


def test_merges_do_not_cross_words() -> None:
    assert pieces_of("a1b a.b") == ["▁a", "<0x31>", "b", "▁a", "<0x2E>", "b"]
    assert pieces_of("a  a") == ["▁a", "▁", "▁a"]


def test_characters_without_a_piece_are_bytes() -> None:
    assert pieces_of("aß") == ["▁a", "<0xC3>", "<0x9F>"]
    assert pieces_of("a▁") == ["▁a", "<0xE2>", "<0x96>", "<0x81>"]
    assert CODEC.encode("ß").rows.tolist()[-2:] == [FIRST_BYTE + 0xC3, FIRST_BYTE + 0x9F]


def test_spans_are_those_of_the_text() -> None:
    item = CODEC.encode("ab ßb")
    assert [(item.tokens[n], *span) for n, span in enumerate(item.spans)] == [
        ("▁ab", 0, 2),
        ("▁", 2, 3),
        ("<0xC3>", 3, 3),
        ("<0x9F>", 3, 4),
        ("b", 4, 5),
    ]


def test_texts_wait_for_the_last_byte_of_a_character() -> None:
    assert CODEC.texts(CODEC.encode("a ß").rows.tolist()) == ["a", " ", "", "ß"]
    assert CODEC.texts([FIRST_BYTE + 0xC3]) == ["\ufffd"]
    assert CODEC.texts([]) == []


def test_bytes_that_are_not_utf_8_are_replaced() -> None:
    assert CODEC.decode([FIRST_BYTE + 0xFF, FIRST_PIECE + 1]) == "\ufffda"


def test_lowercase_codec_keeps_places() -> None:
    codec = PiecesCodec(PiecesSpec(lowercase=True), CODEC.pieces, MERGES)
    assert pieces_of("ABC Éİ", codec) == ["▁abc", "▁", "é", "<0xC4>", "<0xB0>"]


def test_limit_cuts_after_one_more_piece() -> None:
    assert CODEC.encode("a " * 100, limit=7).length == 8


def test_a_long_word_is_cut_after_64_letters() -> None:
    assert pieces_of("ab" * 32) == ["▁ab", *["ab"] * 31]
    assert pieces_of("c" * 64 + "ab") == ["▁", *["c"] * 64, "ab"]
    assert pieces_of("c" * 63 + "ab") == ["▁", *["c"] * 63, "a", "b"]


@pytest.mark.parametrize("raw", [3, None, ["a"]])
def test_other_inputs_than_texts_are_refused(raw: Any) -> None:
    with pytest.raises(InputError) as caught:
        CODEC.encode(raw)
    assert caught.value.value == raw


def test_build_reads_both_files() -> None:
    files = CODEC.vocabularies
    built = build(PiecesSpec(), lambda name: files[name])
    assert isinstance(built, PiecesCodec)
    assert built.encode("abc").rows.tolist() == CODEC.encode("abc").rows.tolist()
    assert (built.row_of("▁abc"), built.tables) == (CODEC.row_of("▁abc"), {"pieces": FIRST_PIECE + len(LEARNED)})


@pytest.mark.parametrize(
    ("pieces", "merges"), [(BYTES, ()), (CODEC.pieces, ("a x",)), (CODEC.pieces, ("b a",)), (CODEC.pieces, ("ab",))]
)
def test_tables_that_do_not_fit_are_refused(pieces: tuple[str, ...], merges: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="piece"):
        PiecesCodec(PiecesSpec(), pieces, merges)


def test_words_that_clients_make_up_take_little_memory() -> None:
    codec = PiecesCodec(PiecesSpec(), (*fixed_pieces(), *LEARNED), MERGES)
    tracemalloc.start()
    for number in range(2000):
        codec.encode("\N{CJK UNIFIED IDEOGRAPH-4E00}" * 40 + chr(0x4E00 + number))
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 1 << 20
