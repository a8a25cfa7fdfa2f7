"""Small objectives for tests of the training loop, and helpers to compare its results."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training import trainer
from training.metrics import NATS
from training.options import Training

ROOT = Path(__file__).parents[2]


class Line:
    """A line through points, with scores that the test chooses."""

    metric = "accuracy"

    def __init__(self, scores: list[float], losses: list[float] | None = None, scale: float = 1.0) -> None:
        torch.manual_seed(0)
        self.network: Any = nn.Linear(1, 1)
        self._scores, self._losses, self._scale = scores, losses or [1.0] * len(scores), scale
        self._epochs = 0

    def batches(self, epoch: int, rank: int = 0, world: int = 1) -> Iterator[Tensor]:
        yield from torch.full((2, 4, 1), 1.0)

    def count_batches(self, epoch: int, world: int = 1) -> int:
        return 2

    def weight(self, batch: Tensor) -> int:
        return len(batch)

    def loss(self, batch: Tensor) -> Tensor:
        return self._scale * (self.network(batch) - 3).square().mean()

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        self._epochs += 1
        return {"accuracy": self._scores[self._epochs - 1], "loss": self._losses[self._epochs - 1]}


class Points:
    """A curve learned from seven uneven micro-batches per epoch, shared among processes."""

    metric = NATS  # lower is better

    def __init__(self, *, dropout: float = 0.0, seed: int = 3, sizes: tuple[int, ...] = (5, 2, 7, 3, 6, 1, 4)) -> None:
        draw = torch.Generator().manual_seed(1)
        self._x = torch.randn(sum(sizes), 2, generator=draw)  # (N, 2)
        self._y = torch.sin(self._x.sum(1, keepdim=True))  # (N, 1)
        self._sizes = sizes
        torch.manual_seed(seed)
        self.network: Any = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1))

    def _groups(self, epoch: int) -> list[Tensor]:
        return list(torch.randperm(len(self._x), generator=torch.Generator().manual_seed(epoch)).split(self._sizes))

    def batches(self, epoch: int, rank: int = 0, world: int = 1) -> Iterator[Tensor | None]:
        groups = self._groups(epoch)
        for place in range(rank, world * self.count_batches(epoch, world), world):
            yield groups[place] if place < len(groups) else None

    def count_batches(self, epoch: int, world: int = 1) -> int:
        return -(-len(self._sizes) // world)

    def weight(self, batch: Tensor) -> int:
        return len(batch)

    def loss(self, batch: Tensor) -> Tensor:
        return (self.network(self._x[batch]) - self._y[batch]).square().mean()

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        error = float((network(self._x) - self._y).square().mean())
        return {NATS: error, "loss": error}


def ignore(epoch: int, batch: int, batches: int, loss: float) -> None:
    pass


def training(**changes: Any) -> Training:
    return Training(**{"epochs": 3, "precision": "fp32", "warmup_steps": 0, "learning_rate": 0.02, **changes})


def without_times(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in history]


def load_weights(folder: Path, name: str = trainer.BEST) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(folder / name, weights_only=True)
    return saved


def same_weights(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
