"""How fast the loop trains, against the least that training can take; and what each kind of cell costs against nn.LSTM.

Everything is timed in turn and repeated, and the medians are compared, so that what else the machine does falls on all
alike. Knows the loop and its batches. Does not know the command line.
T steps, B batch, I inputs, H hidden.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from training.device_precision import precision
from training.nn.options import CellName
from training.nn.recurrent import Recurrent
from training.objectives.base import Objective
from training.objectives.sequences import Batch
from training.optimizer_step import make_optimiser
from training.trainer import Loop
from training.training_config import Training

Seconds = dict[str, list[float]]  # by what was timed, one entry a repeat


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Tokens a second without padding, medians, and the median of the ratios of neighbouring measurements."""

    tokens: int  # timed, each repeat
    batches: int
    loop: float
    bare: float
    share: float  # of the bare speed that the loop reaches, %
    collate: float  # of the loop's time that making the batches takes, %


def measure(objective: Objective, training: Training, batches: int, repeats: int) -> Speed:
    """The loop over the first `batches` of an epoch, against forward, backward and step on the same batches.

    The loop draws, collates, clips, schedules, averages and counts. The bare arm has its batches ready in memory and
    the same module, arithmetic and optimiser, and does nothing else.
    """
    some = _Some(objective, batches)
    ready = list(some.batches(0))
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(some, training, Path(folder))
        arms = {
            "loop": lambda: loop.train(lambda *_: None),
            "bare": _bare(objective, training, ready),
            "collate": lambda: list(some.batches(0)),
        }
        seconds = in_turn(arms, repeats)
    tokens = sum(lengths(batch)[0] for batch in ready)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    return Speed(
        tokens=tokens,
        batches=len(ready),
        loop=tokens / medians["loop"],
        bare=tokens / medians["bare"],
        share=100 * statistics.median(b / a for a, b in zip(seconds["loop"], seconds["bare"], strict=True)),
        collate=100 * medians["collate"] / medians["loop"],
    )


def _bare(objective: Objective, training: Training, batches: list[Any]) -> Callable[[], None]:
    """Forward, backward, step: what no loop can do without."""
    optimiser = make_optimiser(training, objective.network)
    arithmetic: Callable[[], AbstractContextManager[Any]] = precision(training.precision, objective.network)

    def run() -> None:
        objective.network.train()
        for batch in batches:
            optimiser.zero_grad(set_to_none=True)
            with arithmetic():
                loss = objective.loss(batch)
            loss.backward()
            optimiser.step()

    return run


class _Some:
    """An objective whose epochs are the first batches of the first epoch of another."""

    def __init__(self, objective: Objective, count: int) -> None:
        self._objective, self._count = objective, min(count, objective.count_batches(0))
        self.network = objective.network
        self.metric, self.higher_is_better = objective.metric, objective.higher_is_better
        self.loss, self.weight, self.evaluate = objective.loss, objective.weight, objective.evaluate

    def batches(self, epoch: int, rank: int = 0, world: int = 1) -> Iterator[Any]:
        return islice(self._objective.batches(0), self._count)

    def count_batches(self, epoch: int, world: int = 1) -> int:
        return self._count


def lengths(batch: Any) -> tuple[int, int]:
    """Tokens of a batch without and with padding."""
    if isinstance(batch, Batch):
        each = batch.feeds["lengths"]
        return int(each.sum()), len(each) * int(each.max())
    return batch[0].numel(), batch[0].numel()  # streams of a text have no padding


def padding(objective: Objective, epochs: int = 3) -> float:
    """The share of padded tokens that is padding, %, over whole epochs of training batches."""
    sizes = [lengths(batch) for epoch in range(epochs) for batch in objective.batches(epoch)]
    return 100 * (1 - sum(real for real, _ in sizes) / sum(padded for _, padded in sizes))


def cells(hidden: int, steps: int, batch: int, repeats: int) -> dict[str, float]:
    """Milliseconds of forward and backward of one layer, one direction, I = H, by the kind of cell; "nn.LSTM" first."""
    torch.manual_seed(0)
    x = torch.randn(steps, batch, hidden)  # (T, B, I)
    counts = torch.full((batch,), steps)
    layers: dict[str, nn.Module] = {"nn.LSTM": nn.LSTM(hidden, hidden)}
    layers |= {kind: Recurrent(kind, hidden, hidden, bidirectional=False) for kind in get_args(CellName)}
    arms = {kind: _forward_backward(layer, x, counts) for kind, layer in layers.items()}
    seconds = in_turn(arms, repeats)
    return {kind: 1e3 * statistics.median(each) for kind, each in seconds.items()}


def _forward_backward(layer: nn.Module, x: Tensor, counts: Tensor) -> Callable[[], None]:
    arguments = (x,) if isinstance(layer, nn.LSTM) else (x, counts)

    def run() -> None:
        layer.zero_grad(set_to_none=True)
        layer(*arguments)[0].sum().backward()

    return run


def in_turn(arms: Mapping[str, Callable[[], object]], repeats: int) -> Seconds:
    """Seconds of each arm, `repeats` times in turn, every other round in the other order, after two rounds untimed."""
    seconds: Seconds = {name: [] for name in arms}
    for number in range(-2, repeats):  # two: what is compiled at first use is done by then
        for name in list(arms)[:: 1 if number % 2 else -1]:
            started = time.perf_counter()
            arms[name]()
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds
