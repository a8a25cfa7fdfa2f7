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


def classifier() -> SequenceObjective:
    rows = tiny.labeled(60)
    splits = Splits(train=rows[:48], dev=rows[48:], source=Source(name="tiny", url="", licence=""))
    return SequenceObjective(tiny.recipe("classify"), tiny.words_codec(), tiny.network("classify"), splits)


def test_loop_is_timed_alone_and_next_to_a_busy_process() -> None:
    seconds = benchmark.measure_neighbor(classifier(), tiny.recipe("classify").training, 2, 1)
    assert seconds.keys() == {"idle", "busy"}
    assert min(seconds.values()) > 0


def test_both_arms_train_on_the_same_batches() -> None:
    recipe, objective = tiny.recipe("classify"), classifier()
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
