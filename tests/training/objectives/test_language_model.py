"""Language modeling: streams, the carried state, and evaluation."""

import math
from typing import Any

import pytest

from models.codecs.characters import CharactersCodec
from models.manifest import CharactersSpec
from tests.support import tiny
from training.nn.networks import LanguageModel
from training.objectives.language_model import LanguageModelObjective


def text(train: str, dev: str, **changes: Any) -> LanguageModelObjective:
    codec = CharactersCodec.fit(CharactersSpec(), [train])
    recipe = tiny.recipe("generate", **changes)
    network = LanguageModel(recipe.architecture, codec)
    return LanguageModelObjective(recipe, codec, network, train, dev)


def test_state_carries_over_within_an_epoch_only() -> None:
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


def test_untrained_model_has_the_loss_of_a_uniform_guess() -> None:
    objective = text(tiny.TEXT, tiny.TEXT[:400])
    loss = objective.evaluate(objective.network.eval())["nats_per_character"]
    assert loss == pytest.approx(math.log(len(set(tiny.TEXT))), abs=0.2)


def test_unknown_characters_are_not_counted() -> None:
    objective = text(tiny.TEXT, tiny.TEXT[:300] + "☃" * 50)
    assert math.isfinite(objective.evaluate(objective.network.eval())["nats_per_character"])


@pytest.mark.parametrize("length", [100, 150, 400, 3000])
def test_short_text_gets_fewer_streams_and_shorter_pieces(length: int) -> None:
    objective = text((tiny.TEXT * 2)[:length], tiny.TEXT[:100], training__streams=64, training__steps=128)
    for epoch in range(4):
        pieces = list(objective.batches(epoch))
        assert len(pieces) >= 3
        assert sum(targets.numel() for _, targets, _ in pieces) > length / 2


def test_long_text_gets_the_streams_and_steps_of_the_recipe() -> None:
    objective = text(tiny.TEXT * 4, tiny.TEXT[:100], training__streams=8, training__steps=32)
    assert next(iter(objective.batches(0)))[0].shape == (32, 8)


@pytest.mark.parametrize(("length", "shape"), [(12_000, (33, 4)), (48_000, (64, 8)), (7_000, (32, 2))])
def test_fewest_steps_narrow_the_batches_of_a_short_text(length: int, shape: tuple[int, int]) -> None:
    changes = {"training__streams": 8, "training__steps": 64, "training__fewest_steps": 90}
    objective = text((tiny.TEXT * 30)[:length], tiny.TEXT[:100], **changes)
    assert next(iter(objective.batches(0)))[0].shape == shape
    assert objective.count_batches(0) >= 90
