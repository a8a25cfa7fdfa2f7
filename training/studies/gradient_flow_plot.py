"""Curves of gradients as a picture. Knows panels of curves, nothing of networks."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from training.plots import picture
from training.studies.gradient_flow import Panel

# Okabe and Ito 2008: told apart with every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
SMALLEST = 1e-12  # norm at the lower edge: from far less nothing is learnt


def draw(panels: Sequence[Panel], path: Path) -> None:
    """One field a panel, side by side: the norm on a logarithmic scale over the steps back from the loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with picture(path, len(panels), size=(5.2 * len(panels), 5.4)) as (_, fields):
        for field, panel in zip(fields, panels, strict=True):
            _field(field, panel)
        fields[0].set_ylabel("norm of the gradient of a loss at the last step")


def _field(field: Axes, panel: Panel) -> None:
    for curve in panel.curves:
        steps = range(len(curve.norms) - 1, -1, -1)  # back from the loss
        colour = COLOURS[curve.kind % len(COLOURS)]
        style = "--" if curve.dashed else "-"
        field.semilogy(steps, curve.norms, color=colour, linestyle=style, linewidth=1.6, label=curve.label)
    lowest, highest = field.get_ylim()
    field.set_ylim(max(lowest, SMALLEST), highest)
    field.set_title(panel.title, fontsize=11)
    field.set_xlabel("steps back from the loss")
    field.grid(alpha=0.25)
    field.legend(fontsize=8, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.13))
