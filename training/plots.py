"""Pictures (PNG) of training: learning curves of one run or of several, and confusion matrices.  K labels."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from models.inspect.render import save_attention
from models.inspect.units import Row
from training.data.examples import ForecastWindow
from training.data.time_series import as_array
from training.forecasts import LAST, fill, repeat_last, repeat_season, seasonal
from training.metrics import Confusion, History, best_epoch
from training.translations import AttendedTranslation

FAN_CHARTS, MOST_STEPS = 3, 168  # charts in a picture; steps of a history and of a forecast
GAMMA = 0.4  # of the colors: one percent is visible although most counts are on the diagonal
LONGEST_BASELINE = 45  # characters of its name
LONGEST_NAME = 22  # characters of a label

ForecastRow = tuple[NDArray[np.float64], NDArray[np.float64]]  # the mean (N,) and the quantiles (N, Q)


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


def draw_forecasts(
    windows: Sequence[ForecastWindow], rows: Sequence[ForecastRow], levels: Sequence[float], path: Path
) -> None:
    """Draw a fan chart for some windows: the end of the history, the future, and the forecast with its intervals.

    `rows` has the mean (N,) and the quantiles (N, Q) of each window.
    """
    chosen = np.unique(np.linspace(0, len(windows) - 1, FAN_CHARTS).astype(int))
    with picture(path, len(chosen), size=(5 * len(chosen), 4)) as (_, axes):
        for part, number in zip(axes, chosen, strict=True):
            window, (mean, quantiles) = windows[number], rows[number]
            future = as_array(window.future)[:MOST_STEPS]
            history, steps = as_array(window.history)[-MOST_STEPS:], np.arange(len(future))
            part.plot(np.arange(-len(history), 0), history, color="black", linewidth=1, label="history")
            part.plot(steps, future, color="tab:gray", linewidth=1, label="what followed")
            part.plot(steps, mean[: len(future)], color="tab:blue", label="forecast")
            for low in range(len(levels) // 2):
                bounds = quantiles[: len(future), low], quantiles[: len(future), -1 - low]
                part.fill_between(steps, *bounds, color="tab:blue", alpha=0.12, linewidth=0)
            part.set(xlabel="step", title=window.series)
        axes[0].legend(frameon=False, loc="upper left")


def draw_errors(windows: Sequence[ForecastWindow], rows: Sequence[ForecastRow], season: int, path: Path) -> None:
    """Draw the mean absolute error by horizon, next to that of the last value and of the last season."""
    horizon = max(len(window.future) for window in windows)
    names = ["forecast", LAST, *([seasonal(season)] if season > 1 else [])]
    errors = np.full((len(names), len(windows), horizon), np.nan)
    for number, (window, (mean, _)) in enumerate(zip(windows, rows, strict=True)):
        future, history = as_array(window.future), fill(as_array(window.history))
        count = len(future)
        others = [repeat_last(history, count), repeat_season(history, season, count)][: len(names) - 1]
        for place, forecast in enumerate([mean[:count], *others]):
            errors[place, number, :count] = np.abs(future - forecast) / window.unit
    with picture(path) as (_, [axes]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mean of empty slice")  # a step that no window knows
        for name, part in zip(names, np.nanmean(errors, axis=1), strict=True):
            axes.plot(1 + np.arange(horizon), part, label=name)
        axes.set(xlabel="steps ahead", ylabel="mean absolute error (deviations)")
        axes.legend(frameon=False)


def draw_attention(found: AttendedTranslation, path: Path) -> None:
    """Draw a heat map of attention: a row for each piece that was written, a column for each that was read.

    The attention on a picture is drawn over it, once for each piece.
    """
    if found.picture is not None:
        pieces = zip(found.target, found.weights, strict=True)
        save_attention(found.picture, [Row(label=piece, values=weights) for piece, weights in pieces], path)
        return
    rows, columns = found.weights.shape
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        with picture(path, size=(2.5 + 0.38 * columns, 1.8 + 0.3 * rows)) as (figure, [axes]):
            image = axes.imshow(found.weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
            axes.set_xticks(range(columns), [_plain(piece) for piece in found.source], rotation=90, fontsize=9)
            axes.set_yticks(range(rows), [_plain(piece) for piece in found.target], fontsize=9)
            axes.set(xlabel="read", ylabel="written")
            figure.colorbar(image, ax=axes, label="attention", shrink=0.8)


def _plain(text: str) -> str:
    """Return a text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")


def draw_confusion(matrix: Confusion, path: Path, title: str) -> None:
    """Draw a confusion matrix. Colors are shares of the row, numbers are counts."""
    size = len(matrix.labels)
    names = [label if len(label) <= LONGEST_NAME else f"{label[: LONGEST_NAME - 1]}…" for label in matrix.labels]
    names = list(map(_plain, names))
    shares = matrix.counts / np.maximum(matrix.counts.sum(1, keepdims=True), 1)  # (K, K)
    side = 2.5 + 0.34 * max(size, 4)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box replaces letters that the font lacks
        with picture(path, size=(side + 1, side)) as (figure, [axes]):
            image = axes.imshow(100 * shares, cmap="Blues", norm=PowerNorm(GAMMA, vmin=0, vmax=100))
            axes.set_xticks(range(size), names, rotation=90, fontsize=8)
            axes.set_yticks(range(size), names, fontsize=8)
            axes.set(xlabel="predicted", ylabel="expected")
            axes.set_title(_plain(title), fontsize=10)
            figure.colorbar(image, ax=axes, label="% of the row", shrink=0.7, ticks=[0, 1, 5, 20, 50, 100])
            for (row, column), count in np.ndenumerate(matrix.counts):
                if count:
                    style: dict[str, Any] = {"color": "white" if shares[row, column] > 0.25 else "black", "fontsize": 6}
                    axes.text(column, row, f"{count}", ha="center", va="center", **style)
