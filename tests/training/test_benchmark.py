"""The training benchmark: counts and turns."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.support import tiny
from training import benchmark
from training.data.examples import Source, Splits
from training.objectives.sequences import SequenceBatch, SequenceObjective


class Two:
    """Batches of lengths 4 and 2, then 3."""

    def batches(self, epoch: int) -> Iterator[SequenceBatch]:
        for lengths in ([4, 2], [3]):
            yield SequenceBatch(feeds={"lengths": torch.tensor(lengths)}, steps=None, text=None)


def test_padding_percent_counts_padded_tokens() -> None:
    objective: Any = Two()
    assert [benchmark.count_tokens(batch) for batch in objective.batches(0)] == [(6, 8), (3, 3)]
    assert benchmark.padding_percent(objective, epochs=2) == pytest.approx(100 * 2 / 11)


def test_arms_take_turns_and_warmup_rounds_are_not_counted() -> None:
    called: list[str] = []
    arms = {name: lambda name=name: called.append(name) for name in "ab"}
    seconds = benchmark.time_in_turn(arms, 3)
    assert {name: len(each) for name, each in seconds.items()} == {"a": 3, "b": 3}
    assert "".join(called) == "baabbaabba"


def test_both_arms_train_on_the_same_batches() -> None:
    recipe = tiny.recipe("classify")
    rows = tiny.labeled(60)
    network = tiny.network("classify")
    source = Source(name="tiny", url="", licence="")
    objective = SequenceObjective(
        recipe, tiny.words_codec(), network, Splits(train=rows[:48], dev=rows[48:], source=source)
    )
    seen: list[list[int]] = []
    loss = objective.loss

    def watch(batch: SequenceBatch) -> Any:
        assert torch.is_grad_enabled()
        seen.append(batch.feeds["lengths"].tolist())
        return loss(batch)

    objective.loss = watch  # type: ignore[method-assign]
    speed = benchmark.measure_training(objective, recipe.training, 3, 1)
    first = [batch.feeds["lengths"].tolist() for batch in objective.batches(0)][:3]
    assert seen == first * 6  # two arms, two rounds untimed and one timed
    assert speed.batches == 3
    assert speed.tokens == sum(map(sum, first))
