"""The architectures: ragged sequences come out as from packed PyTorch, and a word is the same read or remembered."""

import pytest
import torch
from torch import nn

from models.codecs.words import WordsCodec
from models.manifest import WordsSpec
from tests.training import tiny
from training.batches import tensors
from training.networks import OUT_OF_RANGE, Recurrent, Words, reverse

LENGTHS = torch.tensor([5, 1, 9, 3])


def packed(layer: Recurrent, x: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same layer as one PyTorch module over packed sequences: outputs (T, B, D·H), final hidden (D, B, H)."""
    make = nn.LSTM if layer.cell == "lstm" else nn.GRU
    twin = make(x.shape[2], layer.hidden, bidirectional=layer.backwards is not None)
    weights = dict(layer.forwards.named_parameters())
    if layer.backwards is not None:
        weights |= {f"{name}_reverse": value for name, value in layer.backwards.named_parameters()}
    twin.load_state_dict(weights)
    y, final = twin(nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False))
    return nn.utils.rnn.pad_packed_sequence(y)[0], final[0] if layer.cell == "lstm" else final


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_ragged_batch_comes_out_as_from_packed_pytorch(cell: str, bidirectional: bool) -> None:
    torch.manual_seed(0)
    layer = Recurrent(cell, 4, 6, bidirectional=bidirectional)  # type: ignore[arg-type]
    x = torch.randn(9, 4, 4)
    with torch.no_grad():
        y, _ = layer(x, LENGTHS)
        expected, final = packed(layer, x, LENGTHS)
        for column, length in enumerate(LENGTHS.tolist()):
            torch.testing.assert_close(y[:length, column], expected[:length, column], atol=1e-6, rtol=0)
        torch.testing.assert_close(layer.last(y, LENGTHS), torch.cat(list(final), dim=1), atol=1e-6, rtol=0)


def test_reverse_turns_each_column_within_its_length_and_twice_is_nothing() -> None:
    x = torch.arange(9.0)[:, None, None].expand(9, 4, 2).clone()
    turned = reverse(x, LENGTHS)
    assert turned[:, 0, 0].tolist() == [4, 3, 2, 1, 0, 5, 6, 7, 8]
    assert torch.equal(reverse(turned, LENGTHS), x)


def test_a_state_carried_over_goes_on_as_if_the_sequence_were_whole() -> None:
    torch.manual_seed(0)
    layer = Recurrent("lstm", 4, 6, bidirectional=False)
    x, whole = torch.randn(8, 2, 4), torch.full((2,), 8)
    y, after = layer(x, whole)
    first, state = layer(x[:5], whole)
    second, state = layer(x[5:], whole, state)
    assert torch.allclose(torch.cat([first, second]), y, atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(state, after, strict=True))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_form_in_the_table_and_the_same_form_spelled_out_give_the_same_vector(cell: str) -> None:
    codec, made = tiny.words_codec(), tiny.network("tag", cell)
    form = "film"
    spelled = codec.spell(form)
    read = made.encoder(**{k: v for k, v in tensors(codec.collate([codec.encode([form])])).items() if k != "lengths"})
    stem_row = codec.encode(["FILM"]).rows[0]  # unseen as it stands, its stem known
    assert stem_row != codec.encode([form]).rows[0]
    remembered = made.encoder(
        torch.tensor([[int(stem_row)]]),
        torch.tensor([[1]]),
        torch.from_numpy(spelled)[:, None].long(),
        torch.tensor([len(spelled)]),
    )
    torch.testing.assert_close(read, remembered, atol=1e-6, rtol=0)
    torch.testing.assert_close(made.encoder.spelled()[codec.encode([form]).rows[0]], read[0, 0, 8:], atol=1e-6, rtol=0)


def test_words_without_a_spelling_have_no_spelled_vector() -> None:
    codec, made = tiny.words_codec(), tiny.network("tag")
    first_stem = 2 + len(codec.words)
    assert not made.encoder.spelled()[[0, 1, first_stem]].any()
    assert made.encoder.spelled()[2].any()


def test_the_maximum_over_time_never_sees_the_padding() -> None:
    made, batch = tiny.network("classify", bidirectional=True), tiny.items("classify", 6)
    together = tiny.probabilities(made, tiny.collate("classify", batch))
    for row, item in zip(together, batch, strict=True):
        assert row == pytest.approx(tiny.probabilities(made, tiny.collate("classify", [item]))[0], abs=1e-6)
    assert OUT_OF_RANGE < -1


def test_word_dropout_hides_words_in_training_only_and_never_the_padding() -> None:
    torch.manual_seed(0)
    encoder = tiny.network("tag").encoder
    encoder.word_dropout, encoder.dropout.p = 0.999999, 0.0
    words = torch.tensor([[2], [3], [0]])
    plain = encoder(words, None, None, None)
    hidden = encoder.train()(words, None, None, None)
    assert torch.equal(hidden[0, 0, :8], encoder.stem_embedding.weight[1])
    assert torch.equal(hidden[2], plain[2])
    assert not torch.equal(plain[0, 0, :8], hidden[0, 0, :8])


def test_a_vocabulary_in_which_no_form_repeats_makes_a_network_all_the_same() -> None:
    codec = WordsCodec.fit(WordsSpec(characters="characters.json"), [["aa", "ab"]], min_count=2)
    assert not codec.words
    assert Words.of(codec).character_count > 0
