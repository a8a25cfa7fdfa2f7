"""The training loop: optimise, evaluate, keep the best, stop early, go on after a kill.

Knows an Objective (batches, loss, evaluate) and a run folder. Does not know tasks, codecs or ONNX.
"""

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter

from training.objectives import Objective
from training.recipe import Training

CHECKPOINT, BEST, HISTORY = "checkpoint.pt", "best.pt", "history.json"

Report = Callable[[int, int, int, float], None]  # epoch, batch, batches, mean loss so far


def fit(objective: Objective, training: Training, folder: Path, report: Report) -> list[dict[str, float]]:
    """Train until the epochs are over or patience is out; returns the history, one entry an epoch.

    Goes on from `folder`/checkpoint.pt where there is one. Leaves best.pt with the weights of the best epoch on
    the development data. Interrupted at any moment, the folder holds the last whole epoch.
    """
    torch.manual_seed(training.seed)
    run = _Run(objective, training, folder)
    with SummaryWriter(folder / "tensorboard") as board:
        while run.epoch < training.epochs and not run.out_of_patience:
            run.train_epoch(report)
            entry = run.history[-1]
            for name, value in entry.items():
                board.add_scalar(name, value, run.epoch)
    return run.history


def best_epoch(history: list[dict[str, float]], metric: str, *, higher_is_better: bool) -> int:
    """By score; among equals, as accuracies on few examples are, by the loss; among those the first."""
    sign = 1 if higher_is_better else -1
    scores = [(sign * entry[metric], -entry["dev_loss"]) for entry in history]
    return 1 + scores.index(max(scores))


class _Run:
    """The state of a training run: weights, optimiser, schedule, history."""

    def __init__(self, objective: Objective, training: Training, folder: Path) -> None:
        self._objective, self._training, self._folder = objective, training, folder
        self._network: nn.Module = objective.network
        self._averaged = (
            AveragedModel(self._network, multi_avg_fn=get_ema_multi_avg_fn(training.average))
            if training.average
            else None
        )
        self._optimiser = torch.optim.AdamW(
            self._network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
        )
        total = objective.count_batches(0) * training.epochs
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, _factor(training, total))
        self._precision = _precision(training.precision)
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        if (folder / CHECKPOINT).exists():
            self._restore()

    @property
    def _judged(self) -> nn.Module:
        """The weights that are evaluated and kept."""
        return self._averaged.module if self._averaged is not None else self._network

    @property
    def out_of_patience(self) -> bool:
        return bool(self.history) and self.epoch - self._best_epoch() >= self._training.patience

    def _best_epoch(self) -> int:
        return best_epoch(self.history, self._objective.metric, higher_is_better=self._objective.higher_is_better)

    def train_epoch(self, report: Report) -> None:
        started = time.perf_counter()
        # Seeded by epoch: a run that was interrupted drops the same units as one that was not.
        torch.manual_seed(self._training.seed * 1_000_003 + self.epoch)
        self._network.train()
        total, norm, batches = 0.0, 0.0, self._objective.count_batches(self.epoch)
        for number, batch in enumerate(self._objective.batches(self.epoch), 1):
            with self._precision():
                loss = self._objective.loss(batch)
            if not math.isfinite(loss.item()):
                raise FloatingPointError(
                    f"the loss became {loss.item()} in epoch {self.epoch + 1}, batch {number}: lower training."
                    f"learning_rate (now {self._training.learning_rate}) or training.clip (now {self._training.clip})"
                )
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm += float(nn.utils.clip_grad_norm_(self._network.parameters(), self._training.clip))
            self._optimiser.step()
            self._schedule.step()
            if self._averaged is not None:
                self._averaged.update_parameters(self._network)
            total += loss.item()
            report(self.epoch + 1, number, batches, total / number)
        self.epoch += 1
        self._judged.eval()
        scores = self._objective.evaluate(self._judged)
        self.history.append(
            {
                "epoch": self.epoch,
                "train_loss": total / number,
                "gradient_norm": norm / number,
                "learning_rate": self._schedule.get_last_lr()[0],
                "seconds": time.perf_counter() - started,
                **{("dev_loss" if name == "loss" else name): value for name, value in scores.items()},
            }
        )
        self._save()

    def _save(self) -> None:
        # The checkpoint comes last: after a kill before it, the epoch is run again and writes the same files again.
        if self._best_epoch() == self.epoch:
            _write(self._folder / BEST, self._judged.state_dict())
        history = self._folder / HISTORY
        history.with_suffix(".new").write_text(json.dumps(self.history, indent=1) + "\n", "utf-8")
        os.replace(history.with_suffix(".new"), history)
        _write(
            self._folder / CHECKPOINT,
            {
                "network": self._network.state_dict(),
                "averaged": self._averaged.state_dict() if self._averaged is not None else None,
                "optimiser": self._optimiser.state_dict(),
                "schedule": self._schedule.state_dict(),
                "epoch": self.epoch,
                "history": self.history,
            },
        )

    def _restore(self) -> None:
        saved: dict[str, Any] = torch.load(self._folder / CHECKPOINT, weights_only=True)
        self._network.load_state_dict(saved["network"])
        if self._averaged is not None:
            self._averaged.load_state_dict(saved["averaged"])
        self._optimiser.load_state_dict(saved["optimiser"])
        self._schedule.load_state_dict(saved["schedule"])
        self.epoch, self.history = saved["epoch"], saved["history"]


def _write(path: Path, content: Any) -> None:
    """Whole or not at all: a kill while writing leaves the previous file."""
    fresh = path.with_suffix(".new")
    torch.save(content, fresh)
    os.replace(fresh, path)


def _factor(training: Training, total: int) -> Callable[[int], float]:
    """The learning rate's factor at each step: a linear warm-up, then constant, or a cosine down to a hundredth.

    The warm-up is a tenth of the run at most: with little data a run may have fewer steps than a usual warm-up.
    """
    warmup = min(training.warmup_steps, total // 10)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if training.schedule == "constant":
            return 1.0
        share = min(1.0, (step - warmup) / max(1, total - warmup))
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share))

    return factor


def _precision(choice: str) -> Callable[[], AbstractContextManager[Any]]:
    """bfloat16 where the processor multiplies it in hardware (AMX): there an LSTM 512 trains 3 times as fast."""
    if choice == "bf16" or (choice == "auto" and torch.cpu._is_amx_tile_supported()):
        return lambda: torch.autocast("cpu", dtype=torch.bfloat16)
    return nullcontext
