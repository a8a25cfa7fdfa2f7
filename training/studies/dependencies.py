"""Tasks that hang on what was seen long ago, made on the fly, and the networks that try to solve them.

Hochreiter and Schmidhuber 1997 asked them first. Knows one recurrent layer under a linear reading, and its own small
loop. Does not know recipes, codecs, bundles or files.
T steps, B batch, I inputs, H hidden, K outputs, R steps that are answered.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor, nn

from training.data.examples import DataError
from training.nn.cells import Cell, Initial
from training.nn.options import CellName
from training.studies.gradients import with_omega

Random = torch.Generator
SYMBOLS, REMEMBERED = 8, 2  # copy: different symbols, and how many of them are to be kept
EXAMINED = 1_000  # fresh sequences of every examination


@dataclass(frozen=True, kw_only=True)
class Task:
    """`draw(steps, batch, random)` makes x (T, B, I) and the targets of the last R steps, (R, B)."""

    name: str
    inputs: int
    outputs: int  # 1 is a number, more are classes
    answers: int  # R
    solved_below: float  # mean squared error of a number, share of wrong answers of classes
    chance: float  # the same error of the best constant answer
    draw: Callable[[int, int, Random], tuple[Tensor, Tensor]]
    what: str


@dataclass(frozen=True, kw_only=True)
class Method:
    """A cell and how it is trained."""

    name: str
    cell: CellName
    learning_rate: float
    clip: float | None = 1.0  # largest norm of the gradient of all parameters together
    omega: float = 0.0  # strength of the regulariser Ω
    keeping: float | None = None  # bias of the gate that keeps the state; None: spread, see make_cell


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What every attempt gets."""

    updates: int = 2_000
    batch: int = 32
    hidden: int = 50
    examine_every: int = 100  # updates


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What came out of one training."""

    task: str
    method: str
    steps: int  # T of the task
    seed: int
    solved: bool
    updates: int  # until it was solved, or given up
    error: float | None  # at the end, of fresh sequences; None after a loss that is not finite
    seconds: float  # of the processor


def draw_adding(steps: int, batch: int, random: Random) -> tuple[Tensor, Tensor]:
    """The sum of two marked numbers, one in each half, out of `steps` uniform in [0, 1] (their experiment 4).

    As Le, Jaitly and Hinton 2015 put it: x is (number, mark), the mark 1 at two steps and 0 at all others.
    """
    numbers, marks = torch.rand(steps, batch, generator=random), torch.zeros(steps, batch)
    for start, end in ((0, steps // 2), (steps // 2, steps)):
        marks[torch.randint(start, end, (batch,), generator=random), torch.arange(batch)] = 1
    return torch.stack([numbers, marks], dim=2), (numbers * marks).sum(dim=0)[None]


def draw_temporal_order(steps: int, batch: int, random: Random) -> tuple[Tensor, Tensor]:
    """Which of X and Y came first and which second, one in [0.1 T, 0.2 T), one in [0.5 T, 0.6 T): one of 4 classes.

    Their experiment 6a with the spans of Pascanu et al. 2013: every other step shows one of four symbols at random.
    """
    shown = torch.randint(2, 6, (steps, batch), generator=random)
    target = torch.zeros(batch, dtype=torch.long)
    for place, start in enumerate((steps // 10, steps // 2)):
        symbol = torch.randint(0, 2, (batch,), generator=random)
        when = torch.randint(start, start + max(1, steps // 10), (batch,), generator=random)
        shown[when, torch.arange(batch)] = symbol
        target += symbol << place
    return nn.functional.one_hot(shown, 6).float(), target[None]


def draw_copy(steps: int, batch: int, random: Random) -> tuple[Tensor, Tensor]:
    """The first REMEMBERED symbols, said again in their order `steps` steps after they were seen.

    Between them blanks, and a sign at the step of the first answer; T = steps + REMEMBERED.
    """
    target = torch.randint(0, SYMBOLS, (REMEMBERED, batch), generator=random)
    shown = torch.full((steps + REMEMBERED, batch), SYMBOLS)  # the blank
    shown[:REMEMBERED] = target
    shown[steps] = SYMBOLS + 1  # the sign
    return nn.functional.one_hot(shown, SYMBOLS + 2).float(), target


TASKS = {
    task.name: task
    for task in (
        Task(
            name="adding",
            inputs=2,
            outputs=1,
            answers=1,
            solved_below=0.01,
            chance=1 / 6,
            draw=draw_adding,
            what="the sum of two marked numbers; solved: mean squared error < 0.01 (always 1 gives 0.167)",
        ),
        Task(
            name="temporal-order",
            inputs=6,
            outputs=4,
            answers=1,
            solved_below=0.01,
            chance=3 / 4,
            draw=draw_temporal_order,
            what="the order of two symbols among others; solved: < 1 % wrong (guessing gives 75 %)",
        ),
        Task(
            name="copy",
            inputs=SYMBOLS + 2,
            outputs=SYMBOLS,
            answers=REMEMBERED,
            solved_below=0.01,
            chance=1 - 1 / SYMBOLS,
            draw=draw_copy,
            what=f"{REMEMBERED} of {SYMBOLS} symbols, said again after T steps; solved: < 1 % wrong (guessing: 87.5 %)",
        ),
    )
}


# Rates: out of 0.0003, 0.001, 0.003 and 0.01 on a seed that is not in the table, see docs/inside.md.
METHODS = {
    method.name: method
    for method in (
        Method(name="rnn", cell="rnn", learning_rate=3e-3, clip=None),
        Method(name="rnn-clip", cell="rnn", learning_rate=3e-3),
        Method(name="rnn-clip-omega", cell="rnn", learning_rate=3e-3, omega=4.0),
        Method(name="lstm-bias-1", cell="lstm", learning_rate=1e-2, keeping=1.0),
        Method(name="lstm", cell="lstm", learning_rate=1e-2),
        Method(name="gru", cell="gru", learning_rate=1e-2),
    )
}


def method_of(name: str) -> Method:
    """One of METHODS, or any cell of training/cells.py by its name, trained as the nearest of METHODS.

    Raises DataError that names what there is.
    """
    if name in METHODS:
        return METHODS[name]
    if name not in get_args(CellName):
        raise DataError(f"no cell {name!r}: choose of {', '.join(dict.fromkeys([*METHODS, *get_args(CellName)]))}")
    nearest = "lstm" if "lstm" in name else name.split("-")[0]
    return replace(METHODS[nearest], name=name, cell=name)


class Reader(nn.Module):
    """One recurrent layer, and a linear reading of its last R steps."""

    def __init__(self, task: Task, method: Method, hidden: int, steps: int) -> None:
        super().__init__()
        self.cell = make_cell(method, task.inputs, hidden, steps)
        self.head = nn.Linear(hidden, task.outputs)
        self._answers = task.answers

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (T, B, I) -> the answers (R, B, K) and the layer's outputs (T, B, H)."""
        y, _ = self.cell(x)
        return self.head(y[-self._answers :]), y


def make_cell(method: Method, inputs: int, hidden: int, steps: int) -> Cell:
    """A cell with weights and biases uniform in ±1/√H, as PyTorch's own, but for the gates that keep the state.

    The bias of the forget or update gate is raised by the method's `keeping`. Where the method leaves it open, gates
    start with time constants spread over [1, T]: the bias is raised by log u, u uniform in [1, T - 1], that of an
    input gate lowered by as much (Tallec and Ollivier 2018, equation 16).
    """
    cell = Cell(method.cell, inputs, hidden, initial=Initial(form="uniform", forget_bias=0.0))
    spread = torch.log(1 + torch.rand(hidden) * max(1, steps - 2))
    with torch.no_grad():
        for gate, bias in zip(cell.gates, cell.bias_ih_l0.split(hidden), strict=True):
            if gate in ("f", "z"):
                bias += spread if method.keeping is None else method.keeping
            elif gate == "i" and (method.keeping is None or "f" not in cell.gates):
                bias -= spread if method.keeping is None else method.keeping
    return cell


def train(task: Task, method: Method, steps: int, seed: int, budget: Budget) -> Attempt:
    """One training with fresh sequences at every update, until solved or the budget is spent."""
    torch.manual_seed(seed)
    shown, examined = Random().manual_seed(2 * seed), Random().manual_seed(2 * seed + 1)
    reader = Reader(task, method, budget.hidden, steps)
    optimiser = torch.optim.Adam(reader.parameters(), lr=method.learning_rate)
    started, error, update = time.process_time(), None, 0
    for update in range(1, budget.updates + 1):
        if not learn(reader, optimiser, task, method, task.draw(steps, budget.batch, shown)):
            error = None
            break
        if update % budget.examine_every == 0 or update == budget.updates:
            error = examine(reader, task, steps, examined)
            if error < task.solved_below:
                break
    return Attempt(
        task=task.name,
        method=method.name,
        steps=steps,
        seed=seed,
        solved=error is not None and error < task.solved_below,
        updates=update,
        error=error,
        seconds=time.process_time() - started,
    )


def learn(
    reader: Reader, optimiser: torch.optim.Optimizer, task: Task, method: Method, batch: tuple[Tensor, Tensor]
) -> bool:
    """One update; False, and none made, where the loss is not finite."""
    x, target = batch
    answers, y = reader(x)
    loss = loss_of(task, answers, target)
    if not math.isfinite(loss.item()):
        return False
    if method.omega:
        loss = with_omega(loss, method.cell, y, reader.cell.weight_hh_l0, method.omega)
    optimiser.zero_grad()
    loss.backward()
    if method.clip is not None:
        nn.utils.clip_grad_norm_(reader.parameters(), method.clip)
    optimiser.step()
    return True


def loss_of(task: Task, answers: Tensor, target: Tensor) -> Tensor:
    """answers (R, B, K), target (R, B): the squared error of a number, else cross-entropy in nats."""
    if task.outputs == 1:
        return nn.functional.mse_loss(answers[:, :, 0], target)
    return nn.functional.cross_entropy(answers.flatten(0, 1), target.flatten())


@torch.no_grad()
def examine(reader: Reader, task: Task, steps: int, random: Random) -> float:
    """The error on EXAMINED sequences never seen: mean squared, or the share of wrong answers."""
    x, target = task.draw(steps, EXAMINED, random)
    answers, _ = reader(x)
    if task.outputs == 1:
        return float(loss_of(task, answers, target))
    return float((answers.argmax(dim=2) != target).double().mean())  # of 1,000, 10 wrong are not < 1 %
