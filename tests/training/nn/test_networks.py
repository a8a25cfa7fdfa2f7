"""Encoders, pooling, heads and language models."""

from typing import Any

import pytest
import torch

from models.codecs.words import WordsCodec
from models.manifest import WordsSpec
from tests.support import tiny
from training.nn.networks import LanguageModel, fit_standardization, make_network
from training.objectives import to_tensors
from training.options import Architecture

EMBEDDING = 8


def fed(codec: WordsCodec, words: list[str]) -> dict[str, Any]:
    feeds = to_tensors(codec.collate([codec.encode(words)]))
    return {name: feed for name, feed in feeds.items() if name != "lengths"}


@pytest.mark.parametrize("characters", ["lstm", "cnn"])
@pytest.mark.parametrize("subwords", [False, True])
def test_known_form_and_the_same_spelled_form_have_the_same_vector(characters: str, subwords: bool) -> None:
    codec = tiny.words_codec(subwords=subwords)
    made: Any = tiny.network("tag", codec=codec, characters=characters)
    form, row = "film", int(codec.encode(["film"]).rows[0])
    remembered = made.encoder(**fed(codec, [form]))
    unknown = fed(codec, ["FILM"])  # unseen as it stands, its stem known
    assert int(unknown["words"]) != row
    spelled, split = codec.spelling(form), codec.ngrams(form) if subwords else None
    unknown["spellings"], unknown["spelling_lengths"] = (
        torch.tensor(spelled)[:, None].long(),
        torch.tensor([len(spelled)]),
    )
    if split is not None:
        unknown["subwords"], unknown["subword_counts"] = torch.tensor(split)[:, None].long(), torch.tensor([len(split)])
    torch.testing.assert_close(made.encoder(**unknown), remembered, atol=1e-6, rtol=0)
    torch.testing.assert_close(made.encoder.form_table()[row], remembered[0, 0, EMBEDDING:], atol=1e-6, rtol=0)


def test_rows_without_a_spelling_have_a_zero_form() -> None:
    codec, made = tiny.words_codec(), tiny.network("tag")
    first_stem = 2 + len(codec.words)
    assert not made.encoder.form_table()[[0, 1, first_stem]].any()
    assert made.encoder.form_table()[2].any()


@pytest.mark.parametrize("pooling", ["max", "mean", "last", "attention"])
@pytest.mark.parametrize("skip", ["none", "dense"])
def test_pooling_ignores_the_padding(pooling: str, skip: str) -> None:
    made = tiny.network("classify", layers=2, bidirectional=True, skip=skip, pooling=(pooling,))
    codec = tiny.words_codec()
    batch = tiny.items(codec, 6)
    together = tiny.answers(made, codec.collate(batch))["probabilities"]
    for row, item in zip(together, batch, strict=True):
        assert row == pytest.approx(tiny.answers(made, codec.collate([item]))["probabilities"][0], abs=1e-6)


def test_word_dropout_applies_to_words_in_training_only() -> None:
    torch.manual_seed(0)
    encoder: Any = tiny.network("tag", codec=tiny.words_codec(characters=False)).encoder
    encoder.word_dropout, encoder.dropout.p = 0.999999, 0.0
    words = torch.tensor([[2], [3], [0]])
    plain = encoder(words)
    hidden = encoder.train()(words)
    assert torch.equal(hidden[0, 0], encoder.stem_embedding.weight[1])
    assert torch.equal(hidden[2], plain[2])
    assert not torch.equal(plain[0, 0], hidden[0, 0])


def test_vocabulary_without_repeated_forms_has_word_tables() -> None:
    codec = WordsCodec.fit(WordsSpec(characters="characters.json"), [["aa", "ab"]], min_count=2)
    assert not codec.words
    assert tiny.network("tag", codec=codec).encoder.speller is not None


def test_ambiguous_base_is_the_mean_of_its_bases_and_positions_add_a_vector() -> None:
    codec = tiny.dna_codec()
    encoder: Any = tiny.network("classify", codec=codec).encoder
    table = encoder.table()
    a, g, r, gap = (table[int(codec.encode(letter).rows[0])] for letter in "AGR-")
    torch.testing.assert_close(r, (a + g) / 2)
    torch.testing.assert_close(gap, encoder.place.weight[0])
    second = table[int(codec.encode("AA").rows[1])]
    torch.testing.assert_close(second - a, encoder.place.weight[1] - encoder.place.weight[0])


def test_joint_network_answers_steps_and_text() -> None:
    made, codec = tiny.network("joint", crf=True, bidirectional=True), tiny.words_codec()
    found = tiny.answers(made, codec.collate(tiny.items(codec, 3)))
    assert {name: part.shape[-1] for name, part in found.items()} == {
        "probabilities": 3,
        "path": 3,
        "text_probabilities": 2,
        "embedding": 48,
    }


def test_tied_language_model_shares_its_embedding() -> None:
    made = tiny.network("generate", tied=True, layers=2)
    assert isinstance(made, LanguageModel)
    assert made.head.weight is made.embedding.weight


def test_bidirectional_language_model_is_rejected() -> None:
    with pytest.raises(ValueError, match="bidirectional"):
        make_network(Architecture(bidirectional=True), tiny.text_codec(), task="generate")


def test_unknown_character_is_read_as_the_mean_of_all() -> None:
    made, codec = tiny.network("generate"), tiny.text_codec()
    assert isinstance(made, LanguageModel)
    unknown = int(codec.encode("☃").rows[0])
    torch.testing.assert_close(made.table()[unknown], made.embedding.weight[unknown + 1 :].mean(0))
    read, _ = made(torch.tensor([[unknown]]), torch.tensor([1]))
    made.embedding.weight.data[unknown] = 100.0
    again, _ = made(torch.tensor([[unknown]]), torch.tensor([1]))
    assert torch.equal(read, again)


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_pooling_ignores_infinite_padding(pooling: str) -> None:
    made = tiny.network("classify", "rnn-relu", pooling=(pooling,))
    codec = tiny.words_codec()
    with torch.no_grad():
        made.stack.layers[0].forwards.weight_hh_l0.copy_(2 * torch.eye(12))
    short, long = codec.encode(["the"]), codec.encode(["the"] * 200)
    alone, together = (
        tiny.answers(made, codec.collate(items))["probabilities"][0] for items in ([short], [short, long])
    )
    assert together == pytest.approx(alone, abs=1e-6)


def test_constant_feature_is_not_scaled() -> None:
    made = tiny.network("classify", codec=tiny.frames_codec())
    fit_standardization(made.encoder, [[[0.1, 1.0, 2.0]] * 3, [[0.1, 2.0, 4.0]] * 2])
    assert made.encoder.deviation.tolist() == pytest.approx([1.0, 0.489898, 0.979796], abs=1e-5)


def test_weights_from_before_the_rename_of_the_crf_load() -> None:
    made, other = tiny.network("tag", crf=True), tiny.network("tag", crf=True, seed=1)
    old = {name.replace("crf.", "chain."): value for name, value in made.state_dict().items()}
    other.load_state_dict(old)
    assert all(torch.equal(value, made.state_dict()[name]) for name, value in other.state_dict().items())
