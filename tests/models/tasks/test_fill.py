"""Filling: gaps in a text, targets, and the bits of an answer in any batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
from models.bundle import Bundle
from models.codecs import InputError
from models.predictor import ParameterError
from models.tasks import FilledGap, Filling
from models.tasks.fill import MOST_GAPS, MOST_TARGETS
from tests.support import bundles

GAPPED = ["The [MASK] sat .", "[MASK]", "a <mask> on the [MASK] mat .", "on [MASK]", '"[MASK]" lovely']


@pytest.fixture(scope="module")
def bundle(tiny_filler: Path) -> Bundle:
    return bundles.opened(tiny_filler)


@pytest.fixture
def task(bundle: Bundle) -> Filling:
    assert isinstance(bundle.task, Filling)
    return bundle.task


@pytest.mark.parametrize(
    ("text", "steps", "length"),
    [
        ("The [MASK] sat", [1], 3),
        ("[MASK]", [0], 1),
        ("[MASK]<mask>", [0, 1], 2),
        ("(the <mask>) sat.[MASK]", [2, 6], 7),
        ("the [MASK]'s mat", [1], 4),
        ("", [], 0),
        (" \n", [], 0),
    ],
)
def test_a_gap_is_one_step(task: Filling, text: str, steps: list[int], length: int) -> None:
    item = task.encode(text)
    assert (item.steps.tolist(), item.length, item.extra) == (steps, length, len(steps))


def test_tokens_have_the_mark_of_each_gap(task: Filling) -> None:
    assert task.encode("the [MASK], <mask>").tokens == ["the", "[MASK]", ",", "<mask>"]


def test_a_gap_has_the_row_of_unknown_words(task: Filling) -> None:
    assert np.array_equal(task.encode("the [MASK] sat").rows, task.encode("the zebra sat [MASK]").rows[:3])


@pytest.mark.parametrize(
    ("text", "limit"),
    [("the cat", None), ("the[MASK]", None), ("[MASK]s", None), ("<mask>1", None), ("[MASK] " * 33, MOST_GAPS)],
)
def test_a_text_without_a_gap_of_its_own_is_refused(task: Filling, text: str, limit: int | None) -> None:
    with pytest.raises(InputError) as error:
        task.encode(text)
    assert error.value.limit == limit


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
def test_at_most_one_word_over_the_limit_is_encoded(task: Filling, limit: int) -> None:
    for text in ("the cat [MASK] sat on the mat", "[MASK] " * 7, "the cat sat on the mat again"):
        assert task.encode(text, limit=limit).length == limit + 1


def test_an_answer_has_the_same_bits_alone_and_in_any_batch(bundle: Bundle, task: Filling) -> None:
    targets = [[], ["cat"], ["mat", "film", "the"], [], ["a"]]
    items = [task.with_targets(task.encode(text), task.rows_of(t)) for text, t in zip(GAPPED, targets, strict=True)]
    alone = [task.decode([item], bundle.model.run(task.collate([item])))[0] for item in items]
    for order in ([0, 1, 2, 3, 4], [4, 2, 0], [3, 3, 2, 1] * 16):
        batch = [items[place] for place in order]
        rows = task.decode(batch, bundle.model.run(task.collate(batch)))
        for place, row in zip(order, rows, strict=True):
            width = len(items[place].targets)
            assert row.scores.tobytes() == alone[place].scores.tobytes()
            assert row.words.tobytes() == alone[place].words.tobytes()
            assert row.target_scores[:, :width].tobytes() == alone[place].target_scores[:, :width].tobytes()


def test_the_word_at_a_gap_is_not_read(bundle: Bundle, task: Filling) -> None:
    item = task.encode("the [MASK] sat on a mat")
    feeds = task.collate([item])
    before = bundle.model.run(feeds)["best_scores"]
    feeds["words"][1, 0] = 5
    assert np.array_equal(bundle.model.run(feeds)["best_scores"], before)


def test_words_come_best_first_with_the_text_that_they_complete(tiny_filler: Path) -> None:
    found = models.load(tiny_filler)("The <mask> sat.", top_k=6)
    assert [word.score for word in found] == sorted((word.score for word in found), reverse=True)
    assert len({word.token for word in found}) == 6
    assert all(word.sequence == f"The {word.token_str} sat." for word in found)


def test_several_gaps_give_a_list_for_each(tiny_filler: Path) -> None:
    first, second = models.load(tiny_filler)("a [MASK] on <mask>", top_k=1)
    assert first[0].sequence == f"a {first[0].token_str} on <mask>"
    assert second[0].sequence == f"a [MASK] on {second[0].token_str}"


def test_targets_keep_the_scores_that_they_have_among_all_words(tiny_filler: Path) -> None:
    predictor = models.load(tiny_filler)
    every: list[FilledGap] = predictor("a [MASK] film", top_k=6)
    chosen = [every[4], every[1]]
    found = predictor("a [MASK] film", targets=[word.token_str.upper() for word in chosen])
    assert found == chosen[::-1]
    assert predictor("a [MASK] film", targets=[word.token_str for word in chosen], top_k=1) == [every[1]]


def test_an_empty_text_has_an_empty_answer(tiny_filler: Path) -> None:
    predictor = models.load(tiny_filler)
    assert predictor("") == []
    assert predictor(["", "a [MASK]"])[1] == predictor("a [MASK]")


@pytest.mark.parametrize(
    "parameters",
    [
        {"top_k": 7},
        {"targets": ["zebra"]},
        {"targets": ["the cat"]},
        {"targets": ["cat", "Cat"]},
        {"targets": [""]},
        {"targets": ["cat"] * (MOST_TARGETS + 1)},
    ],
)
def test_parameters_that_the_bundle_does_not_take_are_refused(tiny_filler: Path, parameters: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=next(iter(parameters))):
        models.load(tiny_filler)("a [MASK]", **parameters)
