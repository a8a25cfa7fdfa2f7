"""The loop: it learns, keeps the best, stops early, and after a kill goes on as if nothing had happened."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.points import Line, Points, silent, training
from training import trainer as loop

ROOT = Path(loop.__file__).parents[1]
TIMES = ("seconds",)


def without_times(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in entry.items() if key not in TIMES} for entry in history]


def weights(folder: Path, name: str = loop.BEST) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(folder / name, weights_only=True)
    return saved


def same_weights(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_the_loss_falls_and_the_history_says_so(tmp_path: Path) -> None:
    history = loop.fit(Points(), training(epochs=30), tmp_path, silent)
    assert history[-1]["train_loss"] < 0.2 * history[0]["train_loss"]
    assert history[-1]["error"] < 0.1
    assert json.loads((tmp_path / loop.HISTORY).read_text()) == history
    assert list((tmp_path / "tensorboard").glob("events*"))


class Interrupted(Exception):
    pass


WAYS: list[dict[str, Any]] = [
    {"average": 0.5},
    {"accumulate": 3, "schedule": "linear", "average_after": 2},
    {"optimiser": "sgd", "momentum": 0.9, "schedule": "plateau", "plateau_patience": 1, "average_stalled": 1},
    {"schedule": "one-cycle", "optimiser": "sgd", "learning_rate": 0.5, "clip": 0},
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())))
def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path: Path, way: dict[str, Any]) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    how = training(**{"epochs": 6, "patience": 9, **way})
    whole = loop.fit(Points(dropout=0.3), how, tmp_path / "whole", silent)

    def pull_the_plug(epoch: int, number: int, batches: int, loss: float) -> None:
        if epoch == 4 and number >= 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        loop.fit(Points(dropout=0.3), how, tmp_path / "cut", pull_the_plug)
    assert len(loop.kept(tmp_path / "cut")) == 3
    resumed = loop.fit(Points(dropout=0.3, seed=99), how, tmp_path / "cut", silent)
    assert without_times(resumed) == without_times(whole)
    assert same_weights(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    ends = [weights(tmp_path / run, loop.CHECKPOINT)["network"] for run in ("whole", "cut")]
    assert same_weights(*ends)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from tests.training.points import Points, training
from training import loop
torch.set_num_threads(1)
def report(epoch, batch, batches, loss):
    if (epoch, batch) == (2, 2):
        os.kill(os.getpid(), signal.SIGKILL)
loop.fit(Points(dropout=0.3), training(), Path(sys.argv[1]), report)
"""


def test_a_killed_process_leaves_the_last_whole_epoch_and_is_continued_from_there(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "cut"], env=env, cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(loop.kept(tmp_path / "cut")) == 1
    whole = loop.fit(Points(dropout=0.3), training(), tmp_path / "whole", silent)
    resumed = loop.fit(Points(dropout=0.3), training(), tmp_path / "cut", silent)
    assert without_times(resumed) == without_times(whole)
    assert same_weights(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_nothing_is_kept_before_the_first_epoch_is_over(tmp_path: Path) -> None:
    def pull_the_plug(*_: object) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        loop.fit(Points(), training(), tmp_path, pull_the_plug)
    assert loop.kept(tmp_path) == []


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    history = loop.fit(Line([1, 2, 3]), training(), tmp_path, silent)
    assert loop.fit(Line([]), training(), tmp_path, silent) == history


def test_patience_ends_the_run_and_the_best_epoch_is_kept(tmp_path: Path) -> None:
    found: list[Any] = []
    objective = Line([1, 5, 4, 3, 9])

    def remember(epoch: int, batch: int, batches: int, loss: float) -> None:
        if batch == 1 and epoch == 3:
            found.append(weights(tmp_path))

    history = loop.fit(objective, training(epochs=5, patience=2), tmp_path, remember)
    assert [entry["accuracy"] for entry in history] == [1, 5, 4, 3]
    assert same_weights(weights(tmp_path), found[0])


def test_of_equal_scores_the_smaller_loss_is_kept(tmp_path: Path) -> None:
    history = loop.fit(
        Line([5, 5, 5, 5], losses=[0.9, 0.5, 0.6, 0.7]), training(epochs=4, patience=2), tmp_path, silent
    )
    assert len(history) == 4  # patience counts from epoch 2


def test_a_loss_that_is_no_number_stops_the_run_and_says_what_to_change(tmp_path: Path) -> None:
    objective = Line([1], scale=float("nan"))
    before = objective.network.weight.detach().clone()
    with pytest.raises(FloatingPointError, match=r"nan in epoch 1, batch 1: lower training\.learning_rate \(now 0\.02"):
        loop.fit(objective, training(), tmp_path, silent)
    assert torch.equal(objective.network.weight, before)
    assert not (tmp_path / loop.CHECKPOINT).exists()


def test_the_moving_average_is_what_is_judged_and_kept(tmp_path: Path) -> None:
    objective = Line([1])
    passed: list[Tensor] = []

    def remember(epoch: int, batch: int, batches: int, loss: float) -> None:
        passed.append(objective.network.bias.detach().clone())

    loop.fit(objective, training(epochs=1, average=0.75, learning_rate=0.5), tmp_path, remember)
    assert torch.allclose(weights(tmp_path)["bias"], 0.75 * passed[0] + 0.25 * passed[1])
    assert not torch.allclose(passed[0], passed[1])


def test_the_rate_that_the_schedule_gives_is_the_one_of_each_step(tmp_path: Path) -> None:
    moved: list[float] = []
    objective = Line([1, 1])

    def remember(epoch: int, batch: int, batches: int, loss: float) -> None:
        moved.append(objective.network.bias.item())

    # clip makes every gradient one of norm 1 and so every plain step as long as its rate
    how = training(epochs=2, optimiser="sgd", learning_rate=0.1, schedule="linear", clip=1.0)
    history = loop.fit(objective, how, tmp_path, remember)
    steps = [abs(b - a) * 2**0.5 for a, b in itertools.pairwise(moved)]
    assert steps == pytest.approx([0.1 * (1 - 0.99 * share) for share in (0.25, 0.5, 0.75)], rel=1e-3)
    assert history[-1]["learning_rate"] == pytest.approx(0.1 * (1 - 0.99 * 0.75))


def test_deterministic_operations_hold_while_it_trains_and_the_bits_repeat(tmp_path: Path) -> None:
    seen: list[tuple[bool, int]] = []

    def look(*_: object) -> None:
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()))

    torch.set_num_threads(2)
    try:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            loop.fit(Points(dropout=0.3), training(deterministic=True), tmp_path / name, look)
        assert set(seen) == {(True, 1)}
        assert (torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()) == (False, 2)
    finally:
        torch.set_num_threads(1)
    assert same_weights(weights(tmp_path / "a"), weights(tmp_path / "b"))
