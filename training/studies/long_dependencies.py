"""Tasks with long dependencies (Hochreiter and Schmidhuber 1997): which cell solves which task up to which length.

Sequences are generated. A sweep trains one recurrent layer for every task, method, length and seed, and writes a file
of results, a table and a plot.

T steps, B batch, I inputs, H hidden, K outputs, R answered steps.
"""

import inspect
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from models.messages import suggest
from training.data.examples import DataError
from training.nn.cells import Cell, CellInitialization
from training.nn.omega_regularizer import add_omega
from training.options import CellName
from training.plots import picture

SYMBOLS, REMEMBERED = 8, 2  # copy: number of symbols, and of symbols to remember
EVALUATED = 1_000  # new sequences per evaluation
SOLVED_BELOW = 0.01  # squared error (always 1: 0.167), or share of wrong classes (guessing: 0.75 and 0.875)
NOT_TRIED_COLOR = "0.93"  # gray
DARK = 0.7  # solved share from which a cell of the plot needs white text


@dataclass(frozen=True, kw_only=True)
class StudyTask:
    """A task. `sample(steps, batch, random)` returns x (T, B, I) and the targets of the last R steps (R, B)."""

    name: str
    inputs: int
    outputs: int  # 1: a number, more: classes
    answers: int  # R
    sample: Callable[[int, int, torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class StudyMethod:
    name: str
    cell: CellName
    learning_rate: float
    clip: float | None = 1.0  # largest norm of the gradient
    omega: float = 0.0  # strength of the regularizer Ω
    keeping: float | None = None  # bias of the gate that keeps the state; None: see make_cell


@dataclass(frozen=True, kw_only=True)
class StudyBudget:
    updates: int = 2_000
    batch: int = 32
    hidden: int = 50
    examine_every: int = 100  # updates


@dataclass(frozen=True, kw_only=True)
class Attempt:
    task: str
    method: str
    steps: int  # T of the task
    seed: int
    solved: bool
    updates: int
    error: float | None  # of the last evaluation; None if the loss became infinite or NaN
    seconds: float  # CPU time

    def __str__(self) -> str:
        error = "not finite" if self.error is None else f"{self.error:.4f}"
        result = "solved" if self.solved else "not solved"
        return (
            f"{self.task} T={self.steps} {self.method} seed {self.seed}: {result} after {self.updates:,} "
            f"updates, error {error}, {self.seconds:.0f} s"
        )


def sample_adding(steps: int, batch: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sample the adding problem: the sum of two marked numbers, one in each half (experiment 4; Le et al. 2015).

    x is (number, mark): numbers are uniform in [0, 1], the mark is 1 at two steps and 0 at all others.
    """
    numbers, marks = torch.rand(steps, batch, generator=random), torch.zeros(steps, batch)  # (T, B)
    for start, end in ((0, steps // 2), (steps // 2, steps)):
        marks[torch.randint(start, end, (batch,), generator=random), torch.arange(batch)] = 1
    return torch.stack([numbers, marks], dim=2), (numbers * marks).sum(dim=0)[None]


def sample_temporal_order(steps: int, batch: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sample temporal order: which of X and Y came first and which second, one of 4 classes (experiment 6a).

    One is in [0.1 T, 0.2 T), one in [0.5 T, 0.6 T), as in Pascanu et al. 2013. Other steps show 4 random symbols.
    """
    shown = torch.randint(2, 6, (steps, batch), generator=random)  # (T, B)
    target = torch.zeros(batch, dtype=torch.long)
    for bit, start in enumerate((steps // 10, steps // 2)):
        symbol = torch.randint(0, 2, (batch,), generator=random)
        when = torch.randint(start, start + max(1, steps // 10), (batch,), generator=random)
        shown[when, torch.arange(batch)] = symbol
        target += symbol << bit
    return nn.functional.one_hot(shown, 6).float(), target[None]


def sample_copy(steps: int, batch: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sample the copy problem: the first REMEMBERED symbols, repeated `steps` steps later, T = steps + REMEMBERED.

    Between them are blanks, and a signal at the step of the first answer.
    """
    target = torch.randint(0, SYMBOLS, (REMEMBERED, batch), generator=random)  # (R, B)
    shown = torch.full((steps + REMEMBERED, batch), SYMBOLS)  # blanks
    shown[:REMEMBERED] = target
    shown[steps] = SYMBOLS + 1  # the signal
    return nn.functional.one_hot(shown, SYMBOLS + 2).float(), target


ADDING = StudyTask(name="adding", inputs=2, outputs=1, answers=1, sample=sample_adding)
TEMPORAL_ORDER = StudyTask(name="temporal-order", inputs=6, outputs=4, answers=1, sample=sample_temporal_order)
COPY = StudyTask(name="copy", inputs=SYMBOLS + 2, outputs=SYMBOLS, answers=REMEMBERED, sample=sample_copy)
TASKS = {task.name: task for task in (ADDING, TEMPORAL_ORDER, COPY)}

# Rates are the best of 0.0003, 0.001, 0.003 and 0.01 on a seed that is not in the table.
METHODS = {
    method.name: method
    for method in (
        StudyMethod(name="rnn", cell="rnn", learning_rate=3e-3, clip=None),
        StudyMethod(name="rnn-clip", cell="rnn", learning_rate=3e-3),
        StudyMethod(name="rnn-clip-omega", cell="rnn", learning_rate=3e-3, omega=4.0),
        StudyMethod(name="lstm-bias-1", cell="lstm", learning_rate=1e-2, keeping=1.0),
        StudyMethod(name="lstm", cell="lstm", learning_rate=1e-2),
        StudyMethod(name="gru", cell="gru", learning_rate=1e-2),
    )
}


def method_of(name: str) -> StudyMethod:
    """Return a method of METHODS, or any cell with the training of the most similar method.

    Raises DataError for an unknown name.
    """
    if name in METHODS:
        return METHODS[name]
    if name not in get_args(CellName):
        raise DataError(f"no cell {name!r}; {suggest(name, dict.fromkeys([*METHODS, *get_args(CellName)]))}")
    similar = "lstm" if "lstm" in name else name.split("-")[0]
    return replace(METHODS[similar], name=name, cell=name)


class StudyModel(nn.Module):
    """One recurrent layer and a linear output of its last R steps."""

    def __init__(self, task: StudyTask, method: StudyMethod, hidden: int, steps: int) -> None:
        super().__init__()
        self.task, self.method = task, method
        self.cell = make_cell(method, task.inputs, hidden, steps)
        self.head = nn.Linear(hidden, task.outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the answers (R, B, K) and the layer's outputs (T, B, H) for x (T, B, I)."""
        y, _ = self.cell(x)
        return self.head(y[-self.task.answers :]), y


def make_cell(method: StudyMethod, inputs: int, hidden: int, steps: int) -> Cell:
    """Return a cell initialized as in PyTorch, except for the bias of the gate that keeps the state.

    The method's `keeping` is added to the bias of the forget or update gate. If it is None, time constants are spread
    over [1, T] (Tallec and Ollivier 2018, equation 16): log u is added, with u uniform in [1, T - 1], and subtracted
    from the bias of an input gate.
    """
    cell = Cell(method.cell, inputs, hidden, initial=CellInitialization(form="uniform", forget_bias=0.0))
    spread = torch.log(1 + torch.rand(hidden) * max(1, steps - 2))
    with torch.no_grad():
        for gate, bias in zip(cell.gates, cell.bias_ih_l0.split(hidden), strict=True):
            if gate in ("f", "z"):
                bias += spread if method.keeping is None else method.keeping
            elif gate == "i" and (method.keeping is None or "f" not in cell.gates):
                bias -= spread if method.keeping is None else method.keeping
    return cell


def train(task: StudyTask, method: StudyMethod, steps: int, seed: int, budget: StudyBudget) -> Attempt:
    """Train on new sequences in every update until the task is solved or the budget is spent."""
    torch.manual_seed(seed)
    random, evaluation_random = torch.Generator().manual_seed(2 * seed), torch.Generator().manual_seed(2 * seed + 1)
    model = StudyModel(task, method, budget.hidden, steps)
    optimizer = torch.optim.Adam(model.parameters(), lr=method.learning_rate)
    started, error, updates = time.process_time(), None, 0
    for updates in range(1, budget.updates + 1):
        if not update(model, optimizer, task.sample(steps, budget.batch, random)):
            error = None
            break
        if updates % budget.examine_every == 0 or updates == budget.updates:
            error = evaluate(model, steps, evaluation_random)
            if error < SOLVED_BELOW:
                break
    return Attempt(
        task=task.name,
        method=method.name,
        steps=steps,
        seed=seed,
        solved=error is not None and error < SOLVED_BELOW,
        updates=updates,
        error=error,
        seconds=time.process_time() - started,
    )


def update(model: StudyModel, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> bool:
    """Make one update. Return False, without an update, if the loss is not finite."""
    (x, target), method = batch, model.method
    answers, y = model(x)
    if model.task.outputs == 1:
        loss = nn.functional.mse_loss(answers[:, :, 0], target)
    else:
        loss = nn.functional.cross_entropy(answers.flatten(0, 1), target.flatten())
    if not math.isfinite(loss.item()):
        return False
    loss = add_omega(loss, method.cell, y, model.cell.weight_hh_l0, method.omega)
    optimizer.zero_grad()
    loss.backward()
    if method.clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), method.clip)
    optimizer.step()
    return True


@torch.no_grad()
def evaluate(model: StudyModel, steps: int, random: torch.Generator) -> float:
    """Return the error on EVALUATED new sequences: mean squared, or the share of wrong answers."""
    x, target = model.task.sample(steps, EVALUATED, random)
    answers, _ = model(x)
    if model.task.outputs == 1:
        return float(nn.functional.mse_loss(answers[:, :, 0], target))
    return float((answers.argmax(dim=2) != target).double().mean())  # float32 would put 10 of 1,000 below 1 %


def run_sweep(
    file: Path,
    say: Callable[[str], None],
    *,
    tasks: Sequence[StudyTask],
    methods: Sequence[StudyMethod],
    lengths: Sequence[int],
    seeds: Sequence[int],
    budget: StudyBudget,
    all_lengths: bool = False,
) -> list[Attempt]:
    """Make all attempts that `file` does not have yet, and write each one immediately.

    After a length that no seed solved, longer ones are skipped unless `all_lengths` is set. Raises DataError if the
    file has attempts with another budget or other methods.
    """
    settings = {"budget": asdict(budget), "methods": {method.name: asdict(method) for method in methods}}
    found = {}
    if file.exists():
        content = json.loads(file.read_text("utf-8"))
        if content["budget"] != settings["budget"] or not content["methods"].items() <= settings["methods"].items():
            what = "budget" if content["budget"] != settings["budget"] else "methods"
            raise DataError(f"{file} holds attempts with another {what}: choose another file with --out, or remove it")
        found = {(each.task, each.method, each.steps, each.seed): each for each in read_attempts(file)}

    def write() -> None:
        content = {
            **settings,
            "tasks": {task.name: inspect.getdoc(task.sample) for task in tasks},
            "versions": {"torch": torch.__version__},
            "attempts": [asdict(each) for each in found.values()],
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        os.replace(fresh, file)

    for task, method in itertools.product(tasks, methods):
        for steps in sorted(lengths):
            here = []
            for seed in seeds:
                key = (task.name, method.name, steps, seed)
                if key not in found:
                    found[key] = train(task, method, steps, seed, budget)
                    write()
                    say(str(found[key]))
                here.append(found[key])
            if not all_lengths and not any(each.solved for each in here):
                break
    write()
    return list(found.values())


def read_attempts(file: Path) -> list[Attempt]:
    """Return the attempts of a file that `run_sweep` wrote."""
    return [Attempt(**each) for each in json.loads(file.read_text("utf-8"))["attempts"]]


class StudyTable:
    """Attempts as a table: solved seeds of tried seeds, by task and method, for each length."""

    def __init__(self, attempts: Sequence[Attempt]) -> None:
        self._attempts = attempts
        self.tasks = list(dict.fromkeys(each.task for each in attempts))
        self.methods = list(dict.fromkeys(each.method for each in attempts))
        self.lengths = sorted({each.steps for each in attempts})

    def count(self, task: str, method: str, steps: int) -> tuple[int, int, int | None]:
        """Return solved attempts, all attempts, and the median updates of the solved ones."""
        here = [each for each in self._attempts if (each.task, each.method, each.steps) == (task, method, steps)]
        solved = [each.updates for each in here if each.solved]
        return len(solved), len(here), round(median(solved)) if solved else None

    def rows(self) -> list[tuple[str, str, list[str]]]:
        """Return the task, the method, and a text for each length, for example "2/3 (1,200)" or "not tried"."""
        rows = []
        for task, method in itertools.product(self.tasks, self.methods):
            counts = [self.count(task, method, steps) for steps in self.lengths]
            texts = [f"{solved}/{tried}" + (f" ({updates:,})" if solved else "") for solved, tried, updates in counts]
            texts = [text if tried else "not tried" for text, (_, tried, _) in zip(texts, counts, strict=True)]
            rows.append((task, method, texts))
        return rows

    def plot(self, path: Path) -> None:
        """Write a PNG with a heat map of solved shares for each task: methods down, lengths to the right."""
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (2.2 + 3.3 * len(self.tasks), 1.2 + 0.5 * len(self.methods))
        with picture(path, len(self.tasks), size=size) as (_, fields):
            for axes, task in zip(fields, self.tasks, strict=True):
                counts = [[self.count(task, method, steps) for steps in self.lengths] for method in self.methods]
                shares = np.array([[solved / tried if tried else np.nan for solved, tried, _ in row] for row in counts])
                axes.set_facecolor(NOT_TRIED_COLOR)
                # The scale ends at 1.15 because the darkest blue hides any text.
                axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
                for (row, column), share in np.ndenumerate(shares):
                    solved, tried, updates = counts[row][column]
                    text = f"{solved} of {tried}" + (f"\n{updates:,} updates" if solved else "")
                    color = "white" if share > DARK else "black"
                    text = text if tried else "not\ntried"
                    axes.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
                axes.set_xticks(range(len(self.lengths)), self.lengths)
                axes.set_yticks(range(len(self.methods)), self.methods if axes is fields[0] else [])
                axes.set_xlabel("T, steps")
                axes.set_title(task, fontsize=11)
                axes.tick_params(length=0)
