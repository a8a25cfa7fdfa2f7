"""Pictures (PNG) of training: learning curves of one run or of several, and confusion matrices.  K labels."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from training.metrics import Confusion, History, best_epoch

GAMMA = 0.4  # of the colors: one percent is visible although most counts are on the diagonal
LONGEST_BASELINE = 45  # characters of its name
LONGEST_NAME = 22  # characters of a label


@contextmanager
def picture(path: Path, columns: int = 1, *, size: tuple[float, float] = (7, 4)) -> Iterator[tuple[Figure, list[Axes]]]:
    """Make a figure with `columns` axes side by side, `size` in inches, and write it to `path` at the end."""
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    yield figure, list(figure.subplots(1, columns, squeeze=False)[0])
    figure.savefig(path)


def draw_history(
    history: History, metric: str, path: Path, title: str, baseline: tuple[str, float] | None = None
) -> None:
    """Draw the losses on the left axis and the metric on the right, one point per epoch.

    A vertical line marks the best epoch, and a horizontal one the score of `baseline`, given with its name.
    """
    epochs = [entry["epoch"] for entry in history]
    best = best_epoch(history, metric)
    with picture(path) as (_, [left]):
        left.plot(epochs, [entry["train_loss"] for entry in history], color="tab:gray", label="training loss")
        left.plot(epochs, [entry["dev_loss"] for entry in history], color="tab:blue", label="development loss")
        left.set(xlabel="epoch", ylabel="loss (nats)", title=title)
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes, lines = left, left.get_lines()
        if any(entry[metric] != entry["dev_loss"] for entry in history):  # a language model's score is its loss
            axes = left.twinx()
            scores = [entry[metric] for entry in history]
            axes.plot(epochs, scores, color="tab:orange", marker="o", markersize=3, label=metric)
            axes.set_ylabel(metric)
            lines = [*lines, *axes.get_lines()]
        if baseline is not None:
            name = baseline[0] if len(baseline[0]) <= LONGEST_BASELINE else f"{baseline[0][: LONGEST_BASELINE - 1]}…"
            label = f"baseline: {name}, {baseline[1]:.4g}"
            lines.append(axes.axhline(baseline[1], color="tab:red", linestyle="--", linewidth=1, label=label))
        label = f"best epoch: {best}, {metric} {history[best - 1][metric]:.4g}"
        lines.append(left.axvline(best, color="tab:green", linestyle=":", label=label))
        left.figure.legend(handles=lines, loc="outside lower center", ncols=2, frameon=False, fontsize=9)


def draw_comparison(runs: Mapping[str, History], metric: str, path: Path) -> None:
    """Draw the metric over epochs and over minutes, and the losses, of several runs. Training losses are dashed."""
    with picture(path, 3, size=(15, 4.5)) as (_, [over_epochs, over_time, losses]):
        for number, (name, history) in enumerate(runs.items()):
            epochs = [entry["epoch"] for entry in history]
            minutes = [seconds / 60 for seconds in accumulate(entry["seconds"] for entry in history)]
            scores = [entry[metric] for entry in history]
            color = f"C{number % 10}"
            over_epochs.plot(epochs, scores, color=color, marker="o", markersize=3, label=name)
            over_time.plot(minutes, scores, color=color, marker="o", markersize=3)
            losses.plot(epochs, [entry["dev_loss"] for entry in history], color=color)
            losses.plot(epochs, [entry["train_loss"] for entry in history], color=color, linestyle="--", linewidth=1)
        over_epochs.set(xlabel="epoch", ylabel=metric)
        over_time.set(xlabel="minutes", ylabel=metric)
        over_time.xaxis.set_major_locator(MaxNLocator(5))
        losses.set(xlabel="epoch", ylabel="loss (nats): development, dashed training")
        for axes in (over_epochs, losses):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        over_epochs.legend(frameon=False)


def draw_confusion(matrix: Confusion, path: Path, title: str) -> None:
    """Draw a confusion matrix. Colors are shares of the row, numbers are counts."""
    size = len(matrix.labels)
    names = [label if len(label) <= LONGEST_NAME else f"{label[: LONGEST_NAME - 1]}…" for label in matrix.labels]
    names = [name.replace("$", r"\$") for name in names]  # matplotlib renders text between two $ as a formula
    shares = matrix.counts / np.maximum(matrix.counts.sum(1, keepdims=True), 1)  # (K, K)
    side = 2.5 + 0.34 * max(size, 4)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box replaces letters that the font lacks
        with picture(path, size=(side + 1, side)) as (figure, [axes]):
            image = axes.imshow(100 * shares, cmap="Blues", norm=PowerNorm(GAMMA, vmin=0, vmax=100))
            axes.set_xticks(range(size), names, rotation=90, fontsize=8)
            axes.set_yticks(range(size), names, fontsize=8)
            axes.set(xlabel="predicted", ylabel="expected")
            axes.set_title(title.replace("$", r"\$"), fontsize=10)
            figure.colorbar(image, ax=axes, label="% of the row", shrink=0.7, ticks=[0, 1, 5, 20, 50, 100])
            for (row, column), count in np.ndenumerate(matrix.counts):
                if count:
                    style: dict[str, Any] = {"color": "white" if shares[row, column] > 0.25 else "black", "fontsize": 6}
                    axes.text(column, row, f"{count}", ha="center", va="center", **style)
