"""The benchmark: what is counted, and that its arms take turns."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.support import tiny
from training import benchmark
from training.data.examples import Source, Splits
from training.objectives.base import make_objective
from training.objectives.sequences import Batch


class Two:
    """Batches of lengths 4 and 2, then 3."""

    def batches(self, epoch: int) -> Iterator[Batch]:
        for lengths in ([4, 2], [3]):
            yield Batch(feeds={"lengths": torch.tensor(lengths)}, steps=None, text=None)


def test_padding_is_what_the_longest_leaves_of_each_batch() -> None:
    objective: Any = Two()
    assert [benchmark.lengths(batch) for batch in objective.batches(0)] == [(6, 8), (3, 3)]
    assert benchmark.padding(objective, epochs=2) == pytest.approx(100 * 2 / 11)


def test_arms_take_turns_and_two_rounds_are_not_counted() -> None:
    called: list[str] = []
    arms = {name: lambda name=name: called.append(name) for name in "ab"}
    seconds = benchmark.in_turn(arms, 3)
    assert {name: len(each) for name, each in seconds.items()} == {"a": 3, "b": 3}
    assert "".join(called) == "baabbaabba"


def test_both_arms_go_over_the_same_batches_of_the_same_network() -> None:
    recipe = tiny.recipe("classify")
    rows = tiny.labelled(60)
    network = tiny.network("classify")
    source = Source(name="tiny", url="", licence="")
    objective = make_objective(
        recipe, tiny.words_codec(), network, Splits(train=rows[:48], dev=rows[48:], source=source)
    )
    seen: list[list[int]] = []
    loss = objective.loss

    def watch(batch: Batch) -> Any:
        assert torch.is_grad_enabled()
        seen.append(batch.feeds["lengths"].tolist())
        return loss(batch)

    objective.loss = watch  # type: ignore[method-assign]
    speed = benchmark.measure(objective, recipe.training, 3, 1)
    first = [batch.feeds["lengths"].tolist() for batch in objective.batches(0)][:3]
    assert seen == first * 6  # two arms, two rounds untimed and one timed
    assert speed.batches == 3
    assert speed.tokens == sum(map(sum, first))
