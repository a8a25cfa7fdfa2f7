"""The loop: it learns, keeps the best, stops early, and after a kill goes on as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training import tiny
from training import loop
from training.objectives import Sequences
from training.recipe import Training

TIMES = ("seconds",)


class Line:
    """The smallest objective: a line through points, with scores that the test decides."""

    metric, higher_is_better = "accuracy", True

    def __init__(self, scores: list[float], losses: list[float] | None = None, scale: float = 1.0) -> None:
        torch.manual_seed(0)
        self.network: Any = nn.Linear(1, 1)
        self._scores, self._losses, self._scale = scores, losses or [1.0] * len(scores), scale
        self._epochs = 0

    def batches(self, epoch: int) -> Iterator[Tensor]:
        yield from torch.full((2, 4, 1), 1.0)

    def count_batches(self, epoch: int) -> int:
        return 2

    def loss(self, batch: Tensor) -> Tensor:
        return self._scale * (self.network(batch) - 3).square().mean()

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        self._epochs += 1
        return {"accuracy": self._scores[self._epochs - 1], "loss": self._losses[self._epochs - 1]}


def silent(epoch: int, batch: int, batches: int, loss: float) -> None:
    pass


def training(**changes: Any) -> Training:
    return Training(**{"epochs": 3, "precision": "fp32", "warmup_steps": 0, **changes})


def classification(**changes: Any) -> tuple[Sequences, Training]:
    rows = tiny.labelled(60)
    torch.manual_seed(7)
    recipe = tiny.recipe("classify", **{"training__learning_rate": 0.01, **changes})
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"epochs": 4, "average": 0.5})})
    return Sequences(recipe, tiny.words_codec(), ("bad", "good"), rows[:48], rows[48:]), recipe.training


def without_times(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in entry.items() if key not in TIMES} for entry in history]


def weights(folder: Path, name: str = loop.BEST) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(folder / name, weights_only=True)
    return saved


def same_weights(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_the_loss_falls_and_the_task_is_learnt(tmp_path: Path) -> None:
    objective, how = classification()
    history = loop.fit(objective, how.model_copy(update={"epochs": 12, "average": 0.0}), tmp_path, silent)
    assert history[-1]["train_loss"] < 0.5 * history[0]["train_loss"]
    assert max(entry["accuracy"] for entry in history) > 90
    assert json.loads((tmp_path / loop.HISTORY).read_text()) == history
    assert list((tmp_path / "tensorboard").glob("events*"))


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("batch", [1, 3])
def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path: Path, batch: int) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = loop.fit(*classification(), tmp_path / "whole", silent)

    def pull_the_plug(epoch: int, number: int, batches: int, loss: float) -> None:
        if epoch == 3 and number == batch:
            raise Interrupted

    with pytest.raises(Interrupted):
        loop.fit(*classification(), tmp_path / "cut", pull_the_plug)
    assert len(json.loads((tmp_path / "cut" / loop.HISTORY).read_text())) == 2
    resumed = loop.fit(*classification(), tmp_path / "cut", silent)
    assert without_times(resumed) == without_times(whole)
    assert same_weights(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    ends = [weights(tmp_path / run, loop.CHECKPOINT)["network"] for run in ("whole", "cut")]
    assert same_weights(*ends)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from tests.training.test_loop import classification
from training import loop
torch.set_num_threads(1)
def report(epoch, batch, batches, loss):
    if (epoch, batch) == (2, 2):
        os.kill(os.getpid(), signal.SIGKILL)
loop.fit(*classification(), Path(sys.argv[1]), report)
"""


def test_a_killed_process_leaves_the_last_whole_epoch_and_is_continued_from_there(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    root = Path(loop.__file__).parents[1]
    env = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "cut"], env=env, cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    assert weights(tmp_path / "cut", loop.CHECKPOINT)["epoch"] == 1
    whole = loop.fit(*classification(), tmp_path / "whole", silent)
    resumed = loop.fit(*classification(), tmp_path / "cut", silent)
    assert without_times(resumed) == without_times(whole)
    assert same_weights(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    history = loop.fit(Line([1, 2, 3]), training(), tmp_path, silent)
    assert loop.fit(Line([]), training(), tmp_path, silent) == history


def test_patience_ends_the_run_and_the_best_epoch_is_kept(tmp_path: Path) -> None:
    kept: list[Any] = []
    objective = Line([1, 5, 4, 3, 9])

    def remember(epoch: int, batch: int, batches: int, loss: float) -> None:
        if batch == 1 and epoch == 3:
            kept.append(weights(tmp_path))

    history = loop.fit(objective, training(epochs=5, patience=2), tmp_path, remember)
    assert [entry["accuracy"] for entry in history] == [1, 5, 4, 3]
    assert same_weights(weights(tmp_path), kept[0])


def test_of_equal_scores_the_smaller_loss_is_kept(tmp_path: Path) -> None:
    history = loop.fit(
        Line([5, 5, 5, 5], losses=[0.9, 0.5, 0.6, 0.7]), training(epochs=4, patience=2), tmp_path, silent
    )
    assert len(history) == 4  # patience counts from epoch 2


def test_gradients_are_clipped_to_their_norm(tmp_path: Path) -> None:
    norms: list[float] = []
    objective = Line([1], scale=1e4)

    def measure(epoch: int, batch: int, batches: int, loss: float) -> None:
        norms.append(float(torch.cat([p.grad.flatten() for p in objective.network.parameters()]).norm()))

    history = loop.fit(objective, training(epochs=1, clip=0.25), tmp_path, measure)
    assert max(norms) == pytest.approx(0.25, rel=1e-3)
    assert history[0]["gradient_norm"] > 1000  # what is recorded is the norm before clipping


def test_a_loss_that_is_no_number_stops_the_run_and_says_what_to_change(tmp_path: Path) -> None:
    with pytest.raises(
        FloatingPointError, match=r"nan in epoch 1, batch 1: lower training\.learning_rate \(now 0\.002"
    ):
        loop.fit(Line([1], scale=float("nan")), training(), tmp_path, silent)
    assert not (tmp_path / loop.CHECKPOINT).exists()


def test_the_moving_average_is_what_is_judged_and_kept(tmp_path: Path) -> None:
    objective = Line([1])
    passed: list[Tensor] = []

    def remember(epoch: int, batch: int, batches: int, loss: float) -> None:
        passed.append(objective.network.bias.detach().clone())

    loop.fit(objective, training(epochs=1, average=0.75, learning_rate=0.5), tmp_path, remember)
    assert torch.allclose(weights(tmp_path)["bias"], 0.75 * passed[0] + 0.25 * passed[1])
    assert not torch.allclose(passed[0], passed[1])


@pytest.mark.parametrize(("schedule", "last"), [("cosine", 0.01), ("constant", 1.0)])
def test_the_learning_rate_warms_up_for_a_tenth_at_most_and_then_follows_its_schedule(
    schedule: Any, last: float
) -> None:
    factor = loop._factor(training(schedule=schedule, warmup_steps=100), 50)
    assert [factor(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factor(5) == pytest.approx(1.0)
    assert factor(50) == pytest.approx(last)
