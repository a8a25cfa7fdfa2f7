"""Several runs of a recipe: statistics, seeds, folds, and the best run."""

import json
import math
from pathlib import Path

import pytest

from training import seeds_and_folds
from training.data.examples import DataError, LabeledExample, Source, Splits


def test_interval_uses_students_t() -> None:
    # 4.303 is the 97.5 % quantile of t with two degrees of freedom.
    found = seeds_and_folds.summarize({"a": 90.0, "b": 92.0, "c": 94.0})
    half = 4.303 * 2 / math.sqrt(3)
    assert (found.mean, found.deviation) == pytest.approx((92, 2))
    assert (found.low, found.high) == pytest.approx((92 - half, 92 + half), rel=1e-4)
    assert str(found) == "92.00, standard deviation 2.00, 95 % interval 87.03 to 96.97"


def test_one_run_has_no_interval() -> None:
    summary = seeds_and_folds.summarize({"a": 90.0})
    assert summary.mean == 90
    assert all(map(math.isnan, (summary.deviation, summary.low, summary.high)))
    assert "nan" not in str(summary)


def test_larger_folds_weigh_more() -> None:
    assert seeds_and_folds.summarize({"a": 90.0, "b": 60.0}, [20, 10]).mean == pytest.approx(80)


@pytest.mark.parametrize(("text", "seeds"), [("3", [1, 2, 3]), ("1,7,9", [1, 7, 9]), ("4,", [4])])
def test_seeds_are_a_count_or_a_list(text: str, seeds: list[int]) -> None:
    assert seeds_and_folds.parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "0", "many", "1,1", "1;2", "-1,2"])
def test_wrong_seeds_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(DataError, match=r"--seeds 5"):
        seeds_and_folds.parse_seeds(text)


def test_folds_hold_out_every_example_once_and_are_stratified() -> None:
    rows = [LabeledExample(text=str(number), label="rare" if number < 4 else "common") for number in range(20)]
    whole = Splits(train=rows[:11], choice=rows[11:15], dev=rows[15:], source=Source(name="x", url="", licence=""))
    parts = seeds_and_folds.make_folds(whole, 4, seed=1)
    assert sorted(int(str(row.text)) for part in parts for row in part.dev) == list(range(20))
    for part in parts:
        assert [row.label for row in part.dev].count("rare") == 1
        assert not set(part.train) & set(part.dev)
        assert len(part.train) + len(part.dev) == 20
        assert part.choosing == part.dev


def test_folder_becomes_a_copy_of_the_best_run(tmp_path: Path) -> None:
    for name, content in (("seed-1", "bad"), ("seed-2", "good")):
        (tmp_path / name / "tensorboard").mkdir(parents=True)
        (tmp_path / name / "run.json").write_text(content)
    seeds_and_folds.keep_best(tmp_path, seeds_and_folds.summarize({"seed-1": 1.0, "seed-2": 2.0}), "seed-2")
    assert (tmp_path / "run.json").read_text() == "good"
    said = json.loads((tmp_path / seeds_and_folds.SEEDS).read_text())
    assert (said["best"], said["scores"], said["mean"]) == ("seed-2", {"seed-1": 1.0, "seed-2": 2.0}, 1.5)


def test_folder_of_a_single_run_is_refused(tmp_path: Path) -> None:
    seeds_and_folds.refuse_single_run(tmp_path)
    (tmp_path / "run.json").touch()
    with pytest.raises(DataError, match="--run"):
        seeds_and_folds.refuse_single_run(tmp_path)
    (tmp_path / seeds_and_folds.SEEDS).touch()
    seeds_and_folds.refuse_single_run(tmp_path)
