"""Learning curves as a picture. Knows the history of a run, nothing else."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator  # the backend must be chosen first


def draw(history: list[dict[str, float]], metric: str, path: Path, title: str) -> None:
    """Losses on the left axis, the metric on the right, one point an epoch; written to `path` (PNG)."""
    epochs = [entry["epoch"] for entry in history]
    figure, left = plt.subplots(figsize=(7, 4), dpi=120)
    left.plot(epochs, [entry["train_loss"] for entry in history], color="tab:gray", label="training loss")
    left.plot(epochs, [entry["dev_loss"] for entry in history], color="tab:blue", label="development loss")
    left.set_xlabel("epoch")
    left.set_ylabel("loss (nats)")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    lines = left.get_lines()
    if metric in history[0] and metric != "nats_per_character":
        right = left.twinx()
        right.plot(
            epochs, [entry[metric] for entry in history], color="tab:orange", marker="o", markersize=3, label=metric
        )
        right.set_ylabel(metric)
        lines = [*lines, *right.get_lines()]
    left.legend(handles=lines, loc="center right", frameon=False)
    left.set_title(title)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
