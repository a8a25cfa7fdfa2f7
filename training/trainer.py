"""The training loop: optimise, evaluate, keep the best, stop early, go on after a kill.

Knows an Objective (batches, loss, evaluate) and a run folder. Does not know tasks, codecs or ONNX.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from training import lr_schedules as schedules
from training import parallel
from training.device_precision import repeatable
from training.objectives.base import Objective
from training.optimizer_step import Stepper
from training.training_config import Training

CHECKPOINT, BEST, HISTORY = "checkpoint.pt", "best.pt", "history.json"

Report = Callable[[int, int, int, float], None]  # epoch, batches done, batches, mean loss so far


def fit(objective: Objective, training: Training, folder: Path, report: Report) -> list[dict[str, float]]:
    """Train until the epochs are over or patience is out; returns the history, one entry an epoch.

    Goes on from `folder`/checkpoint.pt where there is one. Leaves best.pt with the weights of the best epoch on
    the development data. Interrupted at any moment, the folder holds the last whole epoch.

    Among several processes (torchrun) each calls this with the same arguments; the first writes, reports and evaluates.
    Raises FloatingPointError if the loss is no number.
    """
    first = parallel.rank() == 0
    board: SummaryWriter | nullcontext[None] = SummaryWriter(folder / "tensorboard") if first else nullcontext()
    with repeatable(training.deterministic), board as writer:
        torch.manual_seed(training.seed)
        run = Loop(objective, training, folder)
        while run.epoch < training.epochs and not run.out_of_patience:
            run.train_epoch(report)
            for name, value in run.history[-1].items():
                if writer is not None:
                    writer.add_scalar(name, value, run.epoch)
    return run.history


def best_epoch(history: list[dict[str, float]], metric: str, *, higher_is_better: bool) -> int:
    """By score; among equals, as accuracies on few examples are, by the loss; among those the first."""
    sign = 1 if higher_is_better else -1
    scores = [(sign * entry[metric], -entry["dev_loss"]) for entry in history]
    return 1 + scores.index(max(scores))


def kept(folder: Path) -> list[dict[str, float]]:
    """The history of the epochs from which `fit` would go on in this folder; none if it would start."""
    path = folder / CHECKPOINT
    found: list[dict[str, float]] = (
        torch.load(path, map_location="cpu", weights_only=True)["history"] if path.exists() else []
    )
    return found


class Loop:
    """The state of a training run: the stepper, the epochs behind it, and their history."""

    def __init__(self, objective: Objective, training: Training, folder: Path) -> None:
        self._objective, self._training, self._folder = objective, training, folder
        self._stepper = Stepper(objective, training)
        steps = -(-objective.count_batches(0, parallel.world()) // training.accumulate)
        self._total = steps * training.epochs
        self.epoch, self._step = 0, 0
        self.history: list[dict[str, float]] = []
        if (folder / CHECKPOINT).exists():
            self._restore()

    @property
    def out_of_patience(self) -> bool:
        return bool(self.history) and self.epoch - self._best_epoch() >= self._training.patience

    def _best_epoch(self) -> int:
        return best_epoch(self.history, self._objective.metric, higher_is_better=self._objective.higher_is_better)

    def train_epoch(self, report: Report) -> None:
        started = time.perf_counter()
        trained = self.train(report)
        self.epoch += 1
        judged = self._stepper.judged.eval()
        scores = parallel.from_first(lambda: self._objective.evaluate(judged))
        scores = {("dev_loss" if name == "loss" else name): value for name, value in scores.items()}
        seconds = parallel.from_first(lambda: time.perf_counter() - started)
        self.history.append({"epoch": self.epoch, **trained, "seconds": seconds, **scores})
        if parallel.rank() == 0:
            self._save()

    def train(self, report: Report) -> dict[str, float]:
        """One pass over the training data; returns what the history says of it."""
        rank, world = parallel.rank(), parallel.world()
        # Seeded by epoch: a run that was interrupted drops the same units as one that was not. Processes differ.
        torch.manual_seed(self._training.seed * 1_000_003 + self.epoch + 1_000_000_007 * rank)
        self._objective.network.train()
        dev_losses = [entry["dev_loss"] for entry in self.history]
        count = self._objective.count_batches(self.epoch, world)
        total, targets, norms, done, steps = 0.0, 0, 0.0, 0, 0
        for group in _groups(self._objective.batches(self.epoch, rank, world), self._training.accumulate):
            factor = schedules.factor(self._training, self._step, self._total, dev_losses)
            loss, weight, norm = self._stepper.step(group, factor, dev_losses)
            done += len(group)
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the loss became {loss} in epoch {self.epoch + 1}, batch {done}: lower training.learning_rate "
                    f"(now {self._training.learning_rate}) or training.clip (now {self._training.clip}; 0 is off)"
                )
            self._step, steps = self._step + 1, steps + 1
            total, targets, norms = total + loss * weight, targets + weight, norms + norm
            if rank == 0:
                report(self.epoch + 1, done, count, total / targets)
        rate = self._training.learning_rate * factor
        return {"train_loss": total / targets, "gradient_norm": norms / steps, "learning_rate": rate}

    def _save(self) -> None:
        # The checkpoint comes last: after a kill before it, the epoch is run again and writes the same files again.
        if self._best_epoch() == self.epoch:
            _write(self._folder / BEST, self._stepper.judged.state_dict())
        history = self._folder / HISTORY
        history.with_suffix(".new").write_text(json.dumps(self.history, indent=1) + "\n", "utf-8")
        os.replace(history.with_suffix(".new"), history)
        average = self._stepper.average
        _write(
            self._folder / CHECKPOINT,
            {
                "network": self._objective.network.state_dict(),
                "average": average.state_dict() if average is not None else None,
                "optimiser": self._stepper.optimiser.state_dict(),
                "epoch": self.epoch,
                "step": self._step,
                "history": self.history,
            },
        )

    def _restore(self) -> None:
        saved: dict[str, Any] = torch.load(self._folder / CHECKPOINT, map_location="cpu", weights_only=True)
        self._objective.network.load_state_dict(saved["network"])
        if self._stepper.average is not None:
            self._stepper.average.load_state_dict(saved["average"])
        self._stepper.optimiser.load_state_dict(saved["optimiser"])
        self.epoch, self._step, self.history = saved["epoch"], saved["step"], saved["history"]


def _groups(batches: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """The micro-batches of each step; the last may have fewer."""
    rest = iter(batches)
    while group := list(islice(rest, size)):
        yield group


def _write(path: Path, content: Any) -> None:
    """Whole or not at all: a kill while writing leaves the previous file."""
    fresh = path.with_suffix(".new")
    torch.save(content, fresh)
    os.replace(fresh, path)
