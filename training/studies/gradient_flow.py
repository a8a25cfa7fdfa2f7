"""How far back in time a gradient reaches: norms by cell, recipe or run, as curves and as a plot.

T steps, B batch, I inputs, H hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from training import recipe, run
from training.data import loading
from training.data.examples import DataError, inputs_of
from training.nn.cells import GATES, Cell, CellInitialization, CellState
from training.nn.networks import Network
from training.nn.recurrent import reverse
from training.objectives import to_tensors
from training.options import CellName
from training.plots import picture
from training.prepare import prepare
from training.studies.long_dependencies import METHODS, TASKS, StudyBudget, StudyMethod, StudyModel, make_cell, update

HIDDEN, INPUTS, BATCH = 50, 8, 32
RADII = (0.8, 1.0, 1.2)  # spectral radius of the recurrent matrix: the gradient shrinks, stays or grows
KEEP_BIASES = (0.0, 1.0, 4.0)  # of the gate that keeps the state: a step loses a half, a quarter or a fiftieth of it
LONGEST_INPUTS = 32  # of a recipe's data that are used
# Okabe and Ito 2008: distinguishable with any color vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
SMALLEST_SHOWN = 1e-12  # norm


@dataclass(frozen=True, kw_only=True)
class GradientCurve:
    """Norms (T,) of the gradient of a loss at the last step by the state at each step.

    `group` numbers what a panel compares. `dashed` marks the second curve of a group.
    """

    label: str
    norms: tuple[float, ...]
    group: int
    dashed: bool = False

    @property
    def factor(self) -> float:
        """Mean factor by which the gradient changes per step back."""
        first, last = self.norms[0], self.norms[-1]
        return (first / last) ** (1 / max(1, len(self.norms) - 1)) if last else 0.0


@dataclass(frozen=True, kw_only=True)
class GradientPanel:
    title: str
    curves: tuple[GradientCurve, ...]


def gradient_norms(cell: Cell, x: Tensor) -> tuple[float, ...]:
    """Return the norm of the gradient of a loss at the last step by the state after every step: (T,) numbers.

    x (T, B, I). The loss is v · h_T with a random unit vector v (H,) per row, so that the last norm is 1: the gradient
    of any loss at h_T is a multiple of such a v. The state of an LSTM is h and c. Norms are medians over the batch,
    because a few exploding rows would hide that the gradient vanishes in most.
    """
    states: list[CellState] = []
    state: CellState | None = None
    for step in x.detach():
        _, after = cell(step[None], state)
        # Views separate h and c: the gradient by c must not include the way through h of the same step.
        state = tuple(part.view_as(part) for part in after)
        states.append(state)
    last = states[-1][0]  # (B, H)
    direction = torch.randn(last.shape, generator=torch.Generator().manual_seed(0)).to(last)
    loss = (direction / direction.norm(dim=1, keepdim=True) * last).sum()
    parts = [part for each in states for part in each]
    # No loss reads the last c, so its gradient is zero.
    gradients = torch.autograd.grad(loss, parts, allow_unused=True, materialize_grads=True)
    norms = torch.stack([gradient.norm(dim=1) for gradient in gradients]).view(len(states), -1, len(last))
    return tuple(norms.norm(dim=1).median(dim=1).values.tolist())  # over parts (T, B), then over rows (T,)


@torch.no_grad()
def scale_to_radius(weight: nn.Parameter, radius: float) -> None:
    """Scale a square matrix (H, H) to a spectral radius, the largest magnitude of an eigenvalue."""
    weight.mul_(radius / torch.linalg.eigvals(weight).abs().max())


def compare_cells(cells: Sequence[CellName], steps: int, updates: int, method: StudyMethod) -> list[GradientPanel]:
    """Return panels of untrained cells and, with `updates`, of cells before and after some training.

    `method` is the clipped and regularized RNN of the training panel.
    """
    panels = [elman_panel(kind, steps) for kind in cells if kind in ("rnn", "rnn-relu")]
    if gated := [kind for kind in cells if len(GATES[kind]) > 1]:
        panels.append(gated_panel(gated, steps))
    if updates:
        panels.append(trained_panel(cells, steps, updates, method))
    return panels


def elman_panel(kind: CellName, steps: int) -> GradientPanel:
    """Compare spectral radii of an Elman cell, without input (dashed) and with noise as input."""
    curves = []
    for number, radius in enumerate(RADII):
        torch.manual_seed(1)
        cell = Cell(kind, INPUTS, HIDDEN, initial=CellInitialization(form="orthogonal"))
        scale_to_radius(cell.weight_hh_l0, radius)
        noise = torch.randn(steps, BATCH, INPUTS)  # (T, B, I)
        for label, x in ((f"radius {radius:g}, no input", torch.zeros_like(noise)), (f"radius {radius:g}", noise)):
            norms = gradient_norms(cell, x)
            curves.append(GradientCurve(label=label, norms=norms, group=number, dashed=x is not noise))
    return GradientPanel(title=f"{kind}, untrained", curves=tuple(curves))


def gated_panel(kinds: Sequence[CellName], steps: int) -> GradientPanel:
    """Compare biases of the gate that keeps the state."""
    curves = []
    for kind in kinds:
        for bias in KEEP_BIASES:
            torch.manual_seed(1)
            method = StudyMethod(name=kind, cell=kind, learning_rate=0, keeping=bias)
            cell = make_cell(method, INPUTS, HIDDEN, steps)
            norms = gradient_norms(cell, torch.randn(steps, BATCH, INPUTS))
            label = f"{kind}, {'update' if 'z' in cell.gates else 'forget'} bias {bias:g}"
            curves.append(GradientCurve(label=label, norms=norms, group=len(curves)))
    return GradientPanel(title="with gates, untrained", curves=tuple(curves))


def trained_panel(cells: Sequence[CellName], steps: int, updates: int, regularized: StudyMethod) -> GradientPanel:
    """Compare before (dashed) and after updates on temporal order."""
    methods = [METHODS[kind] for kind in cells if kind in METHODS]
    if "rnn" in cells:
        clip = [f"clip {regularized.clip:g}"] if regularized.clip is not None else []
        omega = [f"Ω {regularized.omega:g}"] if regularized.omega else []
        methods.insert(1, replace(regularized, name=", ".join(["rnn", *clip, *omega])))
    task, curves = TASKS["temporal-order"], []
    for number, method in enumerate(methods):
        torch.manual_seed(1)
        model = StudyModel(task, method, StudyBudget().hidden, steps)
        optimizer = torch.optim.Adam(model.parameters(), lr=method.learning_rate)
        random = torch.Generator().manual_seed(1)
        x, _ = task.sample(steps, BATCH, random)
        before = gradient_norms(model.cell, x)
        for _ in range(updates):
            update(model, optimizer, task.sample(steps, StudyBudget().batch, random))
        after = gradient_norms(model.cell, x)
        curves.append(GradientCurve(label=f"{method.name}, before", norms=before, group=number, dashed=True))
        curves.append(GradientCurve(label=f"{method.name}, after", norms=after, group=number))
    return GradientPanel(title=f"after {updates:,} updates on temporal order", curves=tuple(curves))


def inspect_network(name: str, steps: int) -> GradientPanel:
    """Return curves for every layer of a run's network, or of a recipe's untrained one, on its longest inputs.

    Raises DataError if no input has two steps, and the errors of loading the run or the recipe.
    """
    folder = Path(name)
    if (folder / run.RUN_FILE).is_file():
        opened = run.open_run(folder)
        title, network, codec = f"{folder}, trained", opened.network(), opened.codec
        dev = loading.load_splits(opened.recipe).dev
    else:
        chosen = recipe.load(name)
        prepared = prepare(chosen)
        title, network, codec = f"{chosen.name}, untrained", prepared.network.eval(), prepared.codec
        dev = prepared.examples.dev
    if isinstance(dev, str):
        items = [codec.encode(dev[start : start + steps]) for start in range(0, len(dev) - steps, steps)]
    else:
        items = sorted((codec.encode(inputs_of(example)) for example in dev), key=lambda item: -item.length)
    items = items[:LONGEST_INPUTS]
    if not items or items[0].length < 2:
        raise DataError(f"{name}: its inputs have at most 1 step, and gradients need 2: use longer inputs")
    steps = min(steps, items[0].length)
    feeds = to_tensors(codec.collate([item for item in items if item.length >= steps]))
    curves = tuple(
        GradientCurve(label=label, norms=gradient_norms(cell, x[:steps]), group=number)
        for number, (label, cell, x) in enumerate(_layer_inputs(network, feeds))
    )
    return GradientPanel(title=title, curves=curves)


@torch.no_grad()
def _layer_inputs(network: Network, feeds: dict[str, Tensor]) -> list[tuple[str, Cell, Tensor]]:
    """Return the name, the cell and the input (T, B, I) of each direction of each layer, in reading order."""
    read: list[tuple[Tensor, Tensor]] = []
    layers = network.stack.layers
    hooks = [layer.register_forward_pre_hook(lambda _, given: read.append((given[0], given[1]))) for layer in layers]
    network(**feeds)
    for hook in hooks:
        hook.remove()
    found = []
    for number, (layer, (x, lengths)) in enumerate(zip(layers, read, strict=True)):
        found.append((f"layer {number}", layer.forwards, x))
        if layer.backwards is not None:
            found.append((f"layer {number} backward", layer.backwards, reverse(x, lengths)))
    return found


def plot_panels(panels: Sequence[GradientPanel], path: Path) -> None:
    """Write a PNG of the panels, side by side: norms on a logarithmic scale over the steps back from the loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with picture(path, len(panels), size=(5.2 * len(panels), 5.4)) as (_, fields):
        for axes, panel in zip(fields, panels, strict=True):
            for curve in panel.curves:
                steps_back = range(len(curve.norms) - 1, -1, -1)
                color, style = COLORS[curve.group % len(COLORS)], "--" if curve.dashed else "-"
                axes.semilogy(steps_back, curve.norms, color=color, linestyle=style, linewidth=1.6, label=curve.label)
            lowest, highest = axes.get_ylim()
            axes.set_ylim(max(lowest, SMALLEST_SHOWN), highest)
            axes.set_title(panel.title, fontsize=11)
            axes.set_xlabel("steps back from the loss")
            axes.grid(alpha=0.25)
            axes.legend(fontsize=8, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.13))
        fields[0].set_ylabel("norm of the gradient of a loss at the last step")
