"""Learning curves as pictures: of one run, and of several side by side. Knows histories, nothing else."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator  # the backend must be chosen first

History = list[dict[str, float]]


@contextmanager
def picture(path: Path, columns: int = 1, *, size: tuple[float, float] = (7, 4)) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with `columns` axes side by side, `size` in inches, written to `path` (PNG) at the end."""
    figure, axes = plt.subplots(1, columns, figsize=size, dpi=120, squeeze=False)
    try:
        yield figure, list(axes[0])
        figure.tight_layout()
        figure.savefig(path)
    finally:
        plt.close(figure)


def draw(history: History, metric: str, path: Path, title: str) -> None:
    """Losses on the left axis, the metric on the right, one point an epoch; written to `path` (PNG)."""
    epochs = [entry["epoch"] for entry in history]
    with picture(path) as (_, [left]):
        left.plot(epochs, [entry["train_loss"] for entry in history], color="tab:gray", label="training loss")
        left.plot(epochs, [entry["dev_loss"] for entry in history], color="tab:blue", label="development loss")
        left.set(xlabel="epoch", ylabel="loss (nats)", title=title)
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        lines = left.get_lines()
        if any(entry[metric] != entry["dev_loss"] for entry in history):  # a language model's score is its loss
            right = left.twinx()
            scores = [entry[metric] for entry in history]
            right.plot(epochs, scores, color="tab:orange", marker="o", markersize=3, label=metric)
            right.set_ylabel(metric)
            lines = [*lines, *right.get_lines()]
        left.legend(handles=lines, loc="center right", frameon=False)


def side_by_side(runs: Mapping[str, History], metric: str, path: Path) -> None:
    """The metric and the losses of several runs, over epochs and over time; written to `path` (PNG).

    Dashed is the training loss. Time is that of training and evaluation, in minutes.
    """
    with picture(path, 3, size=(15, 4.5)) as (_, [over_epochs, over_time, losses]):
        for number, (name, history) in enumerate(runs.items()):
            epochs = [entry["epoch"] for entry in history]
            minutes = [seconds / 60 for seconds in accumulate(entry["seconds"] for entry in history)]
            scores = [entry[metric] for entry in history]
            colour = f"C{number % 10}"
            over_epochs.plot(epochs, scores, color=colour, marker="o", markersize=3, label=name)
            over_time.plot(minutes, scores, color=colour, marker="o", markersize=3)
            losses.plot(epochs, [entry["dev_loss"] for entry in history], color=colour)
            losses.plot(epochs, [entry["train_loss"] for entry in history], color=colour, linestyle="--", linewidth=1)
        over_epochs.set(xlabel="epoch", ylabel=metric)
        over_time.set(xlabel="minutes", ylabel=metric)
        over_time.xaxis.set_major_locator(MaxNLocator(5))
        losses.set(xlabel="epoch", ylabel="loss (nats): development, dashed training")
        for axes in (over_epochs, losses):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        over_epochs.legend(frameon=False)
