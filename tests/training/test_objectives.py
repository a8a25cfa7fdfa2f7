"""What is learnt and counted: targets, padding, labels and characters that training never saw, short texts."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from models.codecs.characters import CharactersCodec
from models.manifest import CharactersSpec
from tests.training import tiny
from training.data.examples import Labelled, Tagged
from training.objectives import IGNORED, Sequences, Text

TAGS = ("ADJ", "NOUN", "O")


def tagging(dev: list[Tagged]) -> Sequences:
    return Sequences(tiny.recipe("tag"), tiny.words_codec(characters=False), TAGS, tiny.tagged(40), dev)


def says_always(label: int, labels: int) -> Any:
    """A network that is sure of one label, whatever it reads."""

    class Sure(nn.Module):
        def forward(self, words: Any, lengths: Any, **_: Any) -> Any:
            return torch.nn.functional.one_hot(torch.full(words.shape, label), labels) * 50.0

    return Sure()


def test_padding_is_no_target() -> None:
    objective = tagging(tiny.tagged(4))
    feeds, targets = next(iter(objective.batches(0)))
    steps = torch.arange(len(targets))[:, None]
    assert torch.equal(targets == IGNORED, steps >= feeds["lengths"][None, :])


def test_accuracy_counts_words_and_a_tag_that_training_never_saw_is_an_error() -> None:
    dev = [Tagged(tokens=("the", "film"), tags=("O", "NOUN")), Tagged(tokens=("x", "y"), tags=("O", "NEW"))]
    assert tagging(dev).evaluate(says_always(2, 3)) == {"accuracy": 50.0, "loss": pytest.approx(50 / 4, abs=1e-3)}


def test_batches_are_counted_as_they_come_in_every_epoch() -> None:
    objective = tagging(tiny.tagged(4))
    for epoch in range(6):
        assert objective.count_batches(epoch) == sum(1 for _ in objective.batches(epoch))


def test_every_example_is_learnt_from_once_an_epoch() -> None:
    train = [Labelled(text=row.text, label=row.label) for row in tiny.labelled(50)]
    objective = Sequences(tiny.recipe("classify"), tiny.words_codec(), ("bad", "good"), train, train[:5])
    targets = torch.cat([targets for _, targets in objective.batches(3)])
    assert sorted(targets.tolist()) == sorted(int(row.label == "good") for row in train)


def text(train: str, dev: str, **changes: Any) -> Text:
    codec = CharactersCodec.fit(CharactersSpec(), [train])
    return Text(tiny.recipe("generate", **changes), codec, train, dev)


def test_a_state_is_carried_from_piece_to_piece_but_not_into_the_next_epoch() -> None:
    objective = text(tiny.TEXT, tiny.TEXT[:200])
    seen: list[bool] = []
    forward = objective.network.forward
    objective.network.forward = lambda i, n, s=None: (seen.append(s is not None), forward(i, n, s))[1]  # type: ignore
    for epoch in (0, 1):
        for batch in objective.batches(epoch):
            objective.loss(batch)
    once = [False] + [True] * (objective.count_batches(0) - 1)
    assert seen[: len(once)] == once
    assert seen.count(False) == 2


def test_an_untrained_language_model_knows_nothing() -> None:
    objective = text(tiny.TEXT, tiny.TEXT[:400])
    loss = objective.evaluate(objective.network.eval())["nats_per_character"]
    assert loss == pytest.approx(math.log(len(set(tiny.TEXT))), abs=0.2)


def test_characters_that_training_never_saw_do_not_count() -> None:
    objective = text(tiny.TEXT, tiny.TEXT[:300] + "☃" * 50)
    assert math.isfinite(objective.evaluate(objective.network.eval())["nats_per_character"])


@pytest.mark.parametrize("length", [100, 150, 400, 3000])
def test_a_short_text_gets_fewer_streams_and_shorter_steps(length: int) -> None:
    objective = text((tiny.TEXT * 2)[:length], tiny.TEXT[:100], training__streams=64, training__steps=128)
    for epoch in range(4):
        pieces = list(objective.batches(epoch))
        assert len(pieces) >= 3
        assert sum(targets.numel() for _, targets, _ in pieces) > length / 2


def test_a_long_text_gets_the_streams_and_steps_of_the_recipe() -> None:
    objective = text(tiny.TEXT * 4, tiny.TEXT[:100], training__streams=8, training__steps=32)
    assert next(iter(objective.batches(0)))[0].shape == (32, 8)
