"""The training loop: learning, best weights, early stopping and resuming."""

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

from tests.support.point_objectives import (
    ROOT,
    Line,
    Points,
    ignore,
    load_weights,
    same_weights,
    training,
    without_times,
)
from training import metrics, trainer
from training.recipe import RecipeError


def test_training_lowers_the_loss_and_writes_the_history(tmp_path: Path) -> None:
    history = trainer.fit(Points(), training(epochs=30), tmp_path, ignore)
    assert history[-1]["train_loss"] < 0.2 * history[0]["train_loss"]
    assert history[-1]["dev_loss"] < 0.1
    assert json.loads((tmp_path / trainer.HISTORY).read_text()) == history
    assert list((tmp_path / "tensorboard").glob("events*"))


class Interrupted(Exception):
    pass


WAYS: list[dict[str, Any]] = [
    {"average": 0.5},
    {"accumulate": 3, "schedule": "linear", "average_after": 2},
    {"optimizer": "sgd", "momentum": 0.9, "schedule": "plateau", "plateau_patience": 1, "average_stalled": 1},
    {"schedule": "one-cycle", "optimizer": "sgd", "learning_rate": 0.5, "clip": 0},
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())))
def test_resumed_run_equals_an_uninterrupted_run_bit_for_bit(tmp_path: Path, way: dict[str, Any]) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    how = training(**{"epochs": 6, "patience": 9, **way})
    whole = trainer.fit(Points(dropout=0.3), how, tmp_path / "whole", ignore)

    def interrupt(epoch: int, number: int, batches: int, loss: float) -> None:
        if epoch == 4 and number >= 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        trainer.fit(Points(dropout=0.3), how, tmp_path / "cut", interrupt)
    assert len(trainer.saved_history(tmp_path / "cut")) == 3
    resumed = trainer.fit(Points(dropout=0.3, seed=99), how, tmp_path / "cut", ignore)
    assert without_times(resumed) == without_times(whole)
    assert same_weights(load_weights(tmp_path / "whole"), load_weights(tmp_path / "cut"))
    ends = [load_weights(tmp_path / run, trainer.CHECKPOINT)["network"] for run in ("whole", "cut")]
    assert same_weights(*ends)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from tests.support.point_objectives import Points, training
from training import trainer
from training.recipe import RecipeError
torch.set_num_threads(1)
def report(epoch, batch, batches, loss):
    if (epoch, batch) == (2, 2):
        os.kill(os.getpid(), signal.SIGKILL)
trainer.fit(Points(dropout=0.3), training(), Path(sys.argv[1]), report)
"""


def test_killed_process_resumes_from_the_last_finished_epoch(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "cut"], env=env, cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(trainer.saved_history(tmp_path / "cut")) == 1
    whole = trainer.fit(Points(dropout=0.3), training(), tmp_path / "whole", ignore)
    resumed = trainer.fit(Points(dropout=0.3), training(), tmp_path / "cut", ignore)
    assert without_times(resumed) == without_times(whole)
    assert same_weights(load_weights(tmp_path / "whole"), load_weights(tmp_path / "cut"))


def test_no_checkpoint_before_the_first_epoch_ends(tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        trainer.fit(Points(), training(), tmp_path, interrupt)
    assert trainer.saved_history(tmp_path) == []


def test_checkpoint_of_an_older_version_is_rejected(tmp_path: Path) -> None:
    torch.save({"network": {}, "optimiser": {}, "epoch": 1, "step": 2, "history": []}, tmp_path / trainer.CHECKPOINT)
    with pytest.raises(RecipeError, match="older version"):
        trainer.fit(Points(), training(), tmp_path, ignore)


def test_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    history = trainer.fit(Line([1, 2, 3]), training(), tmp_path, ignore)
    assert trainer.fit(Line([]), training(), tmp_path, ignore) == history


def test_patience_stops_the_run_and_keeps_the_best_epoch(tmp_path: Path) -> None:
    found: list[Any] = []
    objective = Line([1, 5, 4, 3, 9])

    def remember(epoch: int, batch: int, batches: int, loss: float) -> None:
        if batch == 1 and epoch == 3:
            found.append(load_weights(tmp_path))

    history = trainer.fit(objective, training(epochs=5, patience=2), tmp_path, remember)
    assert [entry["accuracy"] for entry in history] == [1, 5, 4, 3]
    assert same_weights(load_weights(tmp_path), found[0])


def test_ties_in_score_go_to_the_lower_loss(tmp_path: Path) -> None:
    found: list[Any] = []

    def remember(epoch: int, batch: int, batches: int, loss: float) -> None:
        if batch == 1 and epoch == 3:
            found.append(load_weights(tmp_path))

    objective = Line([4, 5, 5, 5, 9], losses=[0.9, 0.9, 0.5, 0.6, 0.1])
    history = trainer.fit(objective, training(epochs=5, patience=2), tmp_path, remember)
    assert len(history) == 4  # patience counts from epoch 2, where the score was reached
    assert metrics.best_epoch(history, "accuracy") == 3
    assert not same_weights(load_weights(tmp_path), found[0])  # epoch 3 replaced epoch 2


def test_every_finished_epoch_is_reported_also_after_resuming(tmp_path: Path) -> None:
    seen: list[list[float]] = []

    def remember(history: list[dict[str, float]], metric: str) -> None:
        seen.append([entry[metric] for entry in history])

    for scores in ([1.0, 2.0, 3.0], []):
        seen.clear()
        trainer.fit(Line(scores), training(), tmp_path, ignore, remember)
        assert seen == [[1], [1, 2], [1, 2, 3]]


@pytest.mark.parametrize(
    ("scores", "epochs", "reason"),
    [([5, 9], 2, "training.epochs"), ([5, 4, 3], 9, "training.patience"), ([100, 100, 100], 9, "100 cannot improve")],
)
def test_reason_of_the_stop_names_the_field(scores: list[float], epochs: int, reason: str) -> None:
    history = [{"accuracy": score, "dev_loss": 1.0} for score in scores]
    assert reason in trainer.describe_stop(history, "accuracy", training(epochs=epochs, patience=2))


def test_nan_loss_stops_the_run_without_an_update(tmp_path: Path) -> None:
    objective = Line([1], scale=float("nan"))
    before = objective.network.weight.detach().clone()
    with pytest.raises(FloatingPointError, match="nan in epoch 1, batch 1"):
        trainer.fit(objective, training(), tmp_path, ignore)
    assert torch.equal(objective.network.weight, before)
    assert not (tmp_path / trainer.CHECKPOINT).exists()


def test_moving_average_is_saved_as_best(tmp_path: Path) -> None:
    objective = Line([1])
    passed: list[Tensor] = []

    def remember(epoch: int, batch: int, batches: int, loss: float) -> None:
        passed.append(objective.network.bias.detach().clone())

    trainer.fit(objective, training(epochs=1, average=0.75, learning_rate=0.5), tmp_path, remember)
    assert torch.allclose(load_weights(tmp_path)["bias"], 0.75 * passed[0] + 0.25 * passed[1])
    assert not torch.allclose(passed[0], passed[1])


def test_each_step_uses_the_rate_of_the_schedule(tmp_path: Path) -> None:
    moved: list[float] = []
    objective = Line([1, 1])

    def remember(epoch: int, batch: int, batches: int, loss: float) -> None:
        moved.append(objective.network.bias.item())

    # clip makes every gradient one of norm 1 and so every plain step as long as its rate
    how = training(epochs=2, optimizer="sgd", learning_rate=0.1, schedule="linear", clip=1.0)
    history = trainer.fit(objective, how, tmp_path, remember)
    steps = [abs(b - a) * 2**0.5 for a, b in itertools.pairwise(moved)]
    assert steps == pytest.approx([0.1 * (1 - 0.99 * share) for share in (0.25, 0.5, 0.75)], rel=1e-3)
    assert history[-1]["learning_rate"] == pytest.approx(0.1 * (1 - 0.99 * 0.75))


def test_deterministic_runs_repeat_bit_for_bit(tmp_path: Path) -> None:
    seen: list[tuple[bool, int]] = []

    def look(*_: object) -> None:
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()))

    torch.set_num_threads(2)
    try:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            trainer.fit(Points(dropout=0.3), training(deterministic=True), tmp_path / name, look)
        assert set(seen) == {(True, 1)}
        assert (torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()) == (False, 2)
    finally:
        torch.set_num_threads(1)
    assert same_weights(load_weights(tmp_path / "a"), load_weights(tmp_path / "b"))
