"""The speed of the training loop against bare training, and of each kind of cell against nn.LSTM.

All arms are timed in turn and compared by medians, so that other load affects all alike.
T steps, B batch, I inputs, H hidden.
"""

import copy
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from training.device_precision import autocast_for
from training.nn.recurrent import RecurrentLayer
from training.objectives import Objective
from training.objectives.sequences import SequenceBatch
from training.optimizer import make_optimizer
from training.options import CellName, Training
from training.trainer import Trainer

WARMUP_ROUNDS = 2  # not timed: what is compiled or cached at first use is done by then


@dataclass(frozen=True, kw_only=True)
class TrainingSpeed:
    """Median speeds in tokens per second, padding not counted."""

    tokens: int  # per repeat
    batches: int
    loop: float
    bare: float
    share: float  # speed of the loop, % of the bare speed: median over neighboring measurements
    collate: float  # time for making batches, % of the loop's time


def measure_training(objective: Objective, training: Training, batches: int, repeats: int) -> TrainingSpeed:
    """Time the loop over the first `batches` of an epoch, and forward, backward and step on the same batches.

    The bare arm has its batches in memory and uses the same network, precision and optimizer.
    """
    excerpt = _excerpt(objective, batches)
    ready = list(excerpt.batches(0))
    optimizer = make_optimizer(training, objective.network)
    autocast = autocast_for(training.precision, objective.network)

    def train_bare() -> None:
        objective.network.train()
        for batch in ready:
            optimizer.zero_grad(set_to_none=True)
            with autocast():
                loss = objective.loss(batch)
            loss.backward()
            optimizer.step()

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(excerpt, training, Path(folder))
        arms = {
            "loop": lambda: trainer.train(lambda *_: None),
            "bare": train_bare,
            "collate": lambda: list(excerpt.batches(0)),
        }
        seconds = time_in_turn(arms, repeats)
    tokens = sum(count_tokens(batch)[0] for batch in ready)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    return TrainingSpeed(
        tokens=tokens,
        batches=len(ready),
        loop=tokens / medians["loop"],
        bare=tokens / medians["bare"],
        share=100 * statistics.median(b / a for a, b in zip(seconds["loop"], seconds["bare"], strict=True)),
        collate=100 * medians["collate"] / medians["loop"],
    )


def _excerpt(objective: Objective, batches: int) -> Objective:
    """Return the objective with epochs of the first `batches` of the first epoch."""
    count = min(batches, objective.count_batches(0))
    excerpt = copy.copy(objective)
    excerpt.batches = lambda epoch, rank=0, world=1: islice(objective.batches(0), count)
    excerpt.count_batches = lambda epoch, world=1: count
    return excerpt


def measure_neighbor(objective: Objective, training: Training, batches: int, repeats: int) -> dict[str, float]:
    """Return the median seconds of the loop over `batches`: "idle", and "busy" next to a process that uses a core."""
    excerpt = _excerpt(objective, batches)
    with tempfile.TemporaryDirectory() as folder, _busy_process() as neighbor:
        trainer = Trainer(excerpt, training, Path(folder))

        def train_next_to_neighbor() -> None:
            neighbor.send_signal(signal.SIGCONT)
            trainer.train(lambda *_: None)
            neighbor.send_signal(signal.SIGSTOP)

        arms = {"idle": lambda: trainer.train(lambda *_: None), "busy": train_next_to_neighbor}
        return {name: statistics.median(each) for name, each in time_in_turn(arms, repeats).items()}


@contextmanager
def _busy_process() -> Iterator[subprocess.Popen[bytes]]:
    """Yield a stopped process that uses one whole core when it runs."""
    core = min(os.sched_getaffinity(0))
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            os.sched_setaffinity(process.pid, {core})
            process.send_signal(signal.SIGSTOP)
            yield process
        finally:
            process.kill()


def count_tokens(batch: Any) -> tuple[int, int]:
    """Return the tokens of a batch without and with padding."""
    if isinstance(batch, SequenceBatch):
        lengths = batch.feeds["lengths"]
        return int(lengths.sum()), len(lengths) * int(lengths.max())
    return batch[0].numel(), batch[0].numel()  # streams of a text have no padding


def padding_percent(objective: Objective, epochs: int = 3) -> float:
    """Return the share of padding in the training batches of whole epochs, in %."""
    sizes = [count_tokens(batch) for epoch in range(epochs) for batch in objective.batches(epoch)]
    return 100 * (1 - sum(real for real, _ in sizes) / sum(padded for _, padded in sizes))


def measure_cells(hidden: int, steps: int, batch: int, repeats: int) -> dict[str, float]:
    """Return the milliseconds of forward and backward of one layer (I = H) by kind of cell, "nn.LSTM" first."""
    torch.manual_seed(0)
    x = torch.randn(steps, batch, hidden)  # (T, B, I)
    lengths = torch.full((batch,), steps)
    layers = {kind: RecurrentLayer(kind, hidden, hidden, bidirectional=False) for kind in get_args(CellName)}

    def forward_backward(layer: nn.Module, *inputs: Tensor) -> None:
        layer.zero_grad(set_to_none=True)
        layer(*inputs)[0].sum().backward()

    arms = {"nn.LSTM": partial(forward_backward, nn.LSTM(hidden, hidden), x)}
    arms |= {kind: partial(forward_backward, layer, x, lengths) for kind, layer in layers.items()}
    seconds = time_in_turn(arms, repeats)
    return {kind: 1e3 * statistics.median(each) for kind, each in seconds.items()}


def time_in_turn(arms: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each arm, `repeats` times. Arms take turns, in reverse order in every other round."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(-WARMUP_ROUNDS, repeats):
        for name in list(arms)[:: 1 if number % 2 else -1]:
            started = time.perf_counter()
            arms[name]()
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds
