"""The training loop: epochs with evaluation, early stopping, the best weights, and resuming after an interruption."""

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from training import metrics, parallel
from training.device_precision import deterministic_operations, threads_for
from training.metrics import History
from training.objectives import Objective
from training.optimizer import LearningRateSchedule, TrainingStep
from training.options import Training
from training.recipe import RecipeError

CHECKPOINT, BEST, HISTORY = "checkpoint.pt", "best.pt", "history.json"

ProgressCallback = Callable[[int, int, int, float], None]  # epoch, finished batches, batches, mean loss so far
EpochCallback = Callable[[History, str], None]  # the history up to a finished epoch, and the metric


def fit(
    objective: Objective,
    training: Training,
    folder: Path,
    report: ProgressCallback,
    on_epoch: EpochCallback = lambda history, metric: None,
) -> History:
    """Train until the last epoch or until patience runs out; return the history.

    `report` is called after each batch, `on_epoch` after each epoch. A resumed run first reports its finished epochs.

    Resumes from checkpoint.pt in `folder` if it exists, and gives the weights of an uninterrupted run, bit for bit.
    Writes best.pt with the weights of the epoch with the best development score. Interrupted at any moment, the folder
    holds the last finished epoch.

    Under torchrun, each process calls this with the same arguments; process 0 writes, reports and evaluates. Raises
    FloatingPointError if the loss is not finite, and RecipeError for a checkpoint of an older version.
    """
    is_first = parallel.rank() == 0
    board: SummaryWriter | nullcontext[None] = SummaryWriter(folder / "tensorboard") if is_first else nullcontext()
    threads = threads_for(training.threads, objective.network)
    with threads, deterministic_operations(training.deterministic), board as writer:
        torch.manual_seed(training.seed)
        trainer = Trainer(objective, training, folder)
        if is_first:
            for finished in range(1, trainer.epoch + 1):
                on_epoch(trainer.history[:finished], objective.metric)
        while trainer.epoch < training.epochs and not trainer.out_of_patience:
            trainer.run_epoch(report)
            if writer is not None:
                on_epoch(trainer.history, objective.metric)
                for name, value in trainer.history[-1].items():
                    writer.add_scalar(name, value, trainer.epoch)
    return trainer.history


def describe_stop(history: History, metric: str, training: Training) -> str:
    """Return why a run stopped."""
    if len(history) >= training.epochs:
        return f"all {training.epochs} epochs are done (training.epochs)"
    waited, best = (
        metrics.epochs_without_improvement(history, metric),
        history[metrics.best_epoch(history, metric) - 1][metric],
    )
    if best == metrics.PERFECT.get(metric):
        return f"{metric} {best:g} cannot improve, and {waited} more epochs kept it (training.patience)"
    return f"{metric} did not improve for {waited} epochs (training.patience)"


def saved_history(folder: Path) -> History:
    """Return the history of the epochs in a folder's checkpoint; [] without a checkpoint."""
    path = folder / CHECKPOINT
    return torch.load(path, map_location="cpu", weights_only=True)["history"] if path.exists() else []


class Trainer:
    """The state of a training run: weights, optimizer, schedule, finished epochs and their history."""

    def __init__(self, objective: Objective, training: Training, folder: Path) -> None:
        self._objective, self._training, self._folder = objective, training, folder
        self._step = TrainingStep(objective, training)
        steps = -(-objective.count_batches(0, parallel.world_size()) // training.accumulate)
        self._schedule = LearningRateSchedule(training, self._step.optimizer, steps * training.epochs)
        self.epoch = 0
        self.history: History = []
        path = folder / CHECKPOINT
        if not path.exists():
            return
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if "schedule" not in saved:
            raise RecipeError(f"{path} is from an older version and cannot be resumed: train again with --fresh")
        objective.network.load_state_dict(saved["network"])
        if self._step.average is not None:
            self._step.average.load_state_dict(saved["average"])
        self._step.optimizer.load_state_dict(saved["optimizer"])
        self._schedule.load_state_dict(saved["schedule"])
        self.epoch, self.history = saved["epoch"], saved["history"]

    @property
    def out_of_patience(self) -> bool:
        if not self.history:
            return False
        return metrics.epochs_without_improvement(self.history, self._objective.metric) >= self._training.patience

    def run_epoch(self, report: ProgressCallback) -> None:
        """Train one epoch, evaluate, and save the checkpoint."""
        started = time.perf_counter()
        trained = self.train(report)
        self.epoch += 1
        network = self._step.evaluated_network.eval()
        scores = parallel.from_first(lambda: self._objective.evaluate(network))
        scores = {("dev_loss" if name == "loss" else name): value for name, value in scores.items()}
        seconds = parallel.from_first(lambda: time.perf_counter() - started)
        self.history.append({"epoch": self.epoch, **trained, "seconds": seconds, **scores})
        self._schedule.end_epoch(scores["dev_loss"])
        if parallel.rank() == 0:
            self._save()

    def train(self, report: ProgressCallback) -> dict[str, float]:
        """Make one pass over the training data; return its fields of the history."""
        rank, world = parallel.rank(), parallel.world_size()
        # Seed each epoch, so that a resumed run drops the same units as an uninterrupted one. Processes differ.
        torch.manual_seed(self._training.seed * 1_000_003 + self.epoch + 1_000_000_007 * rank)
        self._objective.network.train()
        dev_losses = [entry["dev_loss"] for entry in self.history]
        count = self._objective.count_batches(self.epoch, world)
        batches = iter(self._objective.batches(self.epoch, rank, world))
        total, targets, norms, done, steps, rate = 0.0, 0.0, 0.0, 0, 0, 0.0
        while group := list(islice(batches, self._training.accumulate)):
            rate = self._schedule.rate
            loss, weight, norm = self._step(group, dev_losses)
            done += len(group)
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss} in epoch {self.epoch + 1}, batch {done}: lower training.learning_rate "
                    f"(now {self._training.learning_rate}) or training.clip (now {self._training.clip}; 0 is off)"
                )
            self._schedule.step()
            steps, total, targets, norms = steps + 1, total + loss * weight, targets + weight, norms + norm
            if rank == 0:
                report(self.epoch + 1, done, count, total / targets)
        return {"train_loss": total / targets, "gradient_norm": norms / steps, "learning_rate": rate}

    def _save(self) -> None:
        # The checkpoint comes last: after an interruption before it, the epoch runs again and writes the same files.
        if metrics.best_epoch(self.history, self._objective.metric) == self.epoch:
            _write_atomically(self._folder / BEST, self._step.evaluated_network.state_dict())
        history = self._folder / HISTORY
        history.with_suffix(".new").write_text(json.dumps(self.history, indent=1) + "\n", "utf-8")
        os.replace(history.with_suffix(".new"), history)
        average = self._step.average
        _write_atomically(
            self._folder / CHECKPOINT,
            {
                "network": self._objective.network.state_dict(),
                "average": average.state_dict() if average is not None else None,
                "optimizer": self._step.optimizer.state_dict(),
                "schedule": self._schedule.state_dict(),
                "epoch": self.epoch,
                "history": self.history,
            },
        )


def _write_atomically(path: Path, content: Any) -> None:
    """Write a file as a whole or not at all: an interruption leaves the previous file."""
    fresh = path.with_suffix(".new")
    torch.save(content, fresh)
    os.replace(fresh, path)
