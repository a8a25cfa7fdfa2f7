"""Translation: how sources are encoded, which pair they belong to, and what an answer says."""

from typing import Any

import numpy as np
import pytest

from models.codecs import InputError
from models.codecs.frames import FramesCodec
from models.codecs.pieces import END, PiecesCodec, fixed_pieces
from models.manifest import FramesSpec, LanguagePair, PiecesSpec
from models.tasks import Translation
from models.tasks.beam_search import StepOutputs, TranslateOptions

LEARNED = ("▁", "<2de>", "a", "b", "▁a", "▁b", "é")
CODEC = PiecesCodec(PiecesSpec(), (*fixed_pieces(), *LEARNED), ("▁ a", "▁ b"))
ROW = {piece: row for row, piece in enumerate(CODEC.pieces)}
GERMAN, FRENCH = LanguagePair(source="en", target="de", mark="<2de>"), LanguagePair(source="en", target="fr")


def task(*pairs: LanguagePair, source: Any = CODEC) -> Translation:
    return Translation(source, CODEC, state=(), memory=(), pairs=pairs)


def written(text: Any, *steps: tuple[str, int]) -> Any:
    """Let a greedy search write these pieces, each with its attention on one step of the source, and return it."""
    for piece, place in steps:
        scores = np.array([[-0.5]], np.float32)
        attention = np.eye(len(text.source.rows), dtype=np.float32)[[place]]
        text.advance(StepOutputs(scores, np.array([[ROW[piece]]], np.int32), attention), 0)
    return text


def test_a_text_ends_with_the_end_symbol() -> None:
    source = task(FRENCH).encode("a b")
    assert source.rows.tolist() == [ROW["▁a"], ROW["▁b"], END]
    assert source.length == 2


def test_the_mark_of_a_pair_comes_before_the_text() -> None:
    assert task(FRENCH, GERMAN).encode("a", pair=GERMAN).rows.tolist() == [ROW["<2de>"], ROW["▁a"], END]


@pytest.mark.parametrize("vectors", [[1.0, 2.0], [[1.0, 2.0]], np.array([1.0, 2.0]), np.array([[1.0, 2.0]])])
def test_one_vector_is_a_source_of_one_step(vectors: Any) -> None:
    source = task(source=FramesCodec(FramesSpec(features=2))).encode(vectors)
    np.testing.assert_array_equal(source.rows, np.array([[1, 2]], np.float32))


@pytest.mark.parametrize(
    ("languages", "pair"), [(("en", "de"), GERMAN), ((None, "fr"), FRENCH), (("en", None), None), (("de", "en"), None)]
)
def test_languages_choose_a_pair(languages: tuple[str | None, str | None], pair: LanguagePair | None) -> None:
    model = task(GERMAN, FRENCH)
    if pair is not None:
        assert model.find_pair(*languages) == pair
        return
    with pytest.raises(InputError):
        model.find_pair(*languages)


def test_the_only_pair_needs_no_languages() -> None:
    assert task(GERMAN).find_pair(None, None) == GERMAN
    assert task().find_pair(None, None) is None


def test_details_have_the_tokens_and_what_they_attend_to() -> None:
    model = task(GERMAN)
    text = written(
        model.start(model.encode("a b", pair=GERMAN), TranslateOptions(details=True)),
        *(("▁b", 2), ("é", 1), ("a", 3), ("</s>", 0)),  # the source is: mark, a, b, end
    )
    answer = text.answer()
    details = answer.details
    assert answer.translation_text == "béa"
    assert [token.text for token in details.tokens] == ["b", "é", "a"]
    assert [token.logprob for token in details.tokens] == [-0.5] * 3
    assert [(token.text, token.start, token.end) for token in details.source_tokens] == [("a", 0, 1), ("b", 2, 3)]
    assert details.alignment == ((1, 0), (0, 1))  # the last token attends to the end
    assert details.attention == ((0.0, 1.0), (1.0, 0.0), (0.0, 0.0))
    assert details.score == pytest.approx(-2 / (9 / 6) ** 0.6, abs=1e-6)


def test_a_growing_target_can_be_read() -> None:
    model = task(FRENCH)
    text = written(model.start(model.encode("a"), TranslateOptions()), ("▁a", 0), ("▁b", 0))
    assert (text.token_texts, text.finish_reason) == (["a", " b"], None)


def test_each_token_of_a_growing_target_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    bytes_of = PiecesCodec.bytes_of
    monkeypatch.setattr(PiecesCodec, "bytes_of", lambda codec, row: (decoded.append(row), bytes_of(codec, row))[1])
    model = task(FRENCH)
    text = model.start(model.encode("a"), TranslateOptions())
    for piece, read in (("▁a", ["a"]), ("<0xC3>", ["a", ""]), ("<0xA9>", ["a", "", "é"])):
        written(text, (piece, 0))
        assert [text.token_texts for _ in range(3)] == [read] * 3
    assert decoded == text.tokens


def test_targets_begin_with_the_pieces_of_the_prefix() -> None:
    model = task(FRENCH)
    text = model.start(model.encode("a"), TranslateOptions(), prefix="b é")
    assert CODEC.decode(text.options.prefix) == "b é"


def test_an_empty_source_has_an_empty_target() -> None:
    model = task(FRENCH)
    assert model.start(model.encode(""), TranslateOptions()).answer().translation_text == ""
