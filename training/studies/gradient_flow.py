"""How far back a gradient reaches, cell by cell: the curves of docs/inside.md and of any recipe or run.

Knows cells, the long-dependency tasks and recipes. Leaves the gradients to gradients.py. Does not draw or print.
T steps, B batch, I inputs, H hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training import recipe, run
from training.batches import tensors
from training.data import loading as choice
from training.data.examples import DataError, inputs_of
from training.nn.cells import GATES, Cell, Initial
from training.nn.networks import Network
from training.nn.options import CellName
from training.nn.recurrent import reverse
from training.prepare import prepare
from training.studies.dependencies import METHODS, TASKS, Budget, Method, Random, Reader, learn, make_cell
from training.studies.gradients import flow, scale_to_radius

HIDDEN, INPUTS, BATCH = 50, 8, 32
RADII = (0.8, 1.0, 1.2)  # of the recurrent matrix: a gradient that shrinks, stays, grows
KEEPING = (0.0, 1.0, 4.0)  # bias of the gate that keeps the state: half of it a step is lost, a quarter, a fiftieth
NEAREST = 32  # texts of a recipe that are looked at: the longest


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Norms (T,) of the gradient of a loss at the last step with respect to the state at each step.

    `kind` numbers what a panel compares; `dashed` is the other of two of a kind.
    """

    label: str
    norms: tuple[float, ...]
    kind: int
    dashed: bool = False

    @property
    def factor(self) -> float:
        """By which the gradient changes a step back, on the average."""
        first, last = self.norms[0], self.norms[-1]
        return (first / last) ** (1 / max(1, len(self.norms) - 1)) if last else 0.0


@dataclass(frozen=True, kw_only=True)
class Panel:
    title: str
    curves: tuple[Curve, ...]


def panels(cells: Sequence[CellName], steps: int, updates: int, method: Method) -> list[Panel]:
    """What untrained cells do, and with `updates` what some training changes; `method`: of the RNN that is helped."""
    found = [elman(kind, steps) for kind in cells if kind in ("rnn", "rnn-relu")]
    if with_gates := [kind for kind in cells if len(GATES[kind]) > 1]:
        found.append(gated(with_gates, steps))
    if updates:
        found.append(trained(cells, steps, updates, method))
    return found


def elman(kind: CellName, steps: int) -> Panel:
    """An Elman cell by the spectral radius of its recurrent matrix, with nothing to read (dashed) and with noise."""
    curves = []
    for number, radius in enumerate(RADII):
        torch.manual_seed(1)
        cell = Cell(kind, INPUTS, HIDDEN, initial=Initial(form="orthogonal"))
        scale_to_radius(cell.weight_hh_l0, radius)
        noise = torch.randn(steps, BATCH, INPUTS)
        for reading_nothing in (True, False):
            x = torch.zeros_like(noise) if reading_nothing else noise
            label = f"radius {radius:g}" + (", nothing to read" if reading_nothing else "")
            curves.append(Curve(label=label, norms=tuple(flow(cell, x)), kind=number, dashed=reading_nothing))
    return Panel(title=f"{kind}, untrained", curves=tuple(curves))


def gated(kinds: Sequence[CellName], steps: int) -> Panel:
    """Cells with gates, by the bias of the gate that keeps the state."""
    curves = []
    for number, kind in enumerate(kinds):
        for bias in KEEPING:
            torch.manual_seed(1)
            cell = make_cell(Method(name=kind, cell=kind, learning_rate=0, keeping=bias), INPUTS, HIDDEN, steps)
            norms = tuple(flow(cell, torch.randn(steps, BATCH, INPUTS)))
            label = f"{kind}, {'update' if 'z' in cell.gates else 'forget'} bias {bias:g}"
            curves.append(Curve(label=label, norms=norms, kind=len(KEEPING) * number + KEEPING.index(bias)))
    return Panel(title="with gates, untrained", curves=tuple(curves))


def trained(cells: Sequence[CellName], steps: int, updates: int, helped: Method) -> Panel:
    """Before (dashed) and after some updates on temporal order, each by its method of dependencies.py."""
    methods = [METHODS[kind] for kind in cells if kind in METHODS]
    if "rnn" in cells:
        methods.insert(1, replace(helped, name=_name(helped)))
    task, curves = TASKS["temporal-order"], []
    for number, method in enumerate(methods):
        torch.manual_seed(1)
        reader = Reader(task, method, Budget().hidden, steps)
        optimiser = torch.optim.Adam(reader.parameters(), lr=method.learning_rate)
        random = Random().manual_seed(1)
        x, _ = task.draw(steps, BATCH, random)
        before = tuple(flow(reader.cell, x))
        for _ in range(updates):
            learn(reader, optimiser, task, method, task.draw(steps, Budget().batch, random))
        curves.append(Curve(label=f"{method.name}, before", norms=before, kind=number, dashed=True))
        curves.append(Curve(label=f"{method.name}, after", norms=tuple(flow(reader.cell, x)), kind=number))
    return Panel(title=f"after {updates:,} updates on temporal order", curves=tuple(curves))


def _name(method: Method) -> str:
    helps = [f"clip {method.clip:g}"] if method.clip is not None else []
    return ", ".join(["rnn", *helps, *([f"Ω {method.omega:g}"] if method.omega else [])])


def of_network(what: str, steps: int) -> Panel:
    """Every layer of a run's trained network, or of a recipe's untrained one, over the longest of its own data.

    Raises RecipeError or DataError as those do, and DataError where no input has two steps.
    """
    name, network, codec, dev = _opened(what)
    if isinstance(dev, str):
        rows = [codec.encode(dev[start : start + steps]) for start in range(0, len(dev) - steps, steps)][:NEAREST]
    else:
        rows = [codec.encode(inputs_of(example)) for example in dev]
        rows = sorted(rows, key=lambda item: -item.length)[:NEAREST]
    if not rows or rows[0].length < 2:
        raise DataError(f"{what}: its data has no input of two steps or more, so that there is no way back")
    steps = min(steps, rows[0].length)
    rows = [item for item in rows if item.length >= steps]
    curves = []
    for number, (label, cell, x) in enumerate(_inputs(network, tensors(codec.collate(rows)))):
        curves.append(Curve(label=label, norms=tuple(flow(cell, x[:steps])), kind=number))
    return Panel(title=name, curves=tuple(curves))


def _opened(what: str) -> tuple[str, Network, Any, Any]:
    """Title, network, codec and held-out data of a run folder or of a recipe."""
    folder = Path(what)
    if (folder / run.RUN).is_file():
        opened = run.open_run(folder)
        return f"{folder}, trained", opened.network(), opened.codec, choice.splits(opened.recipe).dev
    chosen = recipe.load(what)
    made = prepare(chosen)
    return f"{chosen.name}, untrained", made.network.eval(), made.codec, made.examples.dev


@torch.no_grad()
def _inputs(network: Network, feeds: dict[str, Tensor]) -> list[tuple[str, Cell, Tensor]]:
    """Each direction of each layer: its name, its cell, and what it reads (T, B, I), in the order of its reading."""
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
