"""Held-out rows and folds: every row once, stratified, the same for a seed."""

from collections import Counter

import pytest

from training.data.examples import DataError
from training.data.splitting import folds, split, split_text

LABELS = ["a"] * 600 + ["b"] * 350 + ["c"] * 49 + ["d"]


def test_split_uses_every_row_once_and_repeats_for_a_seed() -> None:
    rows = list(range(1000))
    train, dev = split(rows, seed=7)
    assert (len(train), len(dev)) == (900, 100)
    assert sorted(train + dev) == rows
    assert (train, dev) == split(rows, seed=7) != split(rows, seed=8)
    assert dev[:5] == [3, 6, 8, 10, 21], "published scores refer to the split of a seed"


def test_stratified_split_repeats_for_a_seed() -> None:
    rows = list(range(1000))
    train, dev = split(rows, seed=7, labels=LABELS)
    assert (len(train), len(dev)) == (900, 100)
    assert sorted(train + dev) == rows
    assert Counter(LABELS[row] for row in dev) == {"a": 60, "b": 35, "c": 5}
    assert (train, dev) == split(rows, seed=7, labels=LABELS) != split(rows, seed=8, labels=LABELS)
    assert dev[:5] == [1, 8, 11, 19, 26], "published scores refer to the split of a seed"


@pytest.mark.parametrize("seed", range(20))
def test_every_label_keeps_a_training_row(seed: int) -> None:
    labels = list("aaaaaabbcd")
    train, dev = split(labels, dev_share=0.5, seed=seed, labels=labels)
    assert len(dev) == 5
    assert set(train) == set("abcd")


def test_labels_that_occur_once_can_be_held_out() -> None:
    train, dev = split("abcdefghij", dev_share=0.2, seed=0, labels="abcdefghij")
    assert (len(train), len(dev)) == (8, 2)


@pytest.mark.parametrize("labels", [None, LABELS])
def test_folds_hold_out_every_row_once_and_repeat_for_a_seed(labels: list[str] | None) -> None:
    rows = list(range(1000))
    parts = folds(rows, 7, 3, labels)
    assert sorted(row for _, dev in parts for row in dev) == rows
    assert {len(dev) for _, dev in parts} == {142, 143}
    for train, dev in parts:
        assert sorted(train + dev) == rows
        assert (train, dev) == (sorted(train), sorted(dev)), "rows keep their order"
    assert parts == folds(rows, 7, 3, labels) != folds(rows, 7, 4, labels)


def test_stratified_folds_balance_every_label() -> None:
    counts = [Counter(LABELS[row] for row in dev) for _, dev in folds(range(1000), 7, 3, LABELS)]
    for label in "abcd":
        found = [count[label] for count in counts]
        assert max(found) - min(found) <= 1


@pytest.mark.parametrize("k", [0, 1, 4])
def test_impossible_fold_count_is_refused(k: int) -> None:
    with pytest.raises(DataError, match=f"{k} folds of 3 rows.*2 to 3"):
        folds("abc", k, 0)


def test_text_is_split_at_its_end() -> None:
    assert split_text("abcdefghij", dev_share=0.2) == ("abcdefgh", "ij")


@pytest.mark.parametrize(("rows", "dev_share", "error"), [(4, 0.1, r"4 rows.*--dev"), (9, 1.0, r"1\.0.*0 and 1")])
def test_impossible_split_is_refused(rows: int, dev_share: float, error: str) -> None:
    with pytest.raises(DataError, match=error):
        split(range(rows), dev_share=dev_share, seed=0)
