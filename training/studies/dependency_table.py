"""The table of docs/inside.md: which method solves which long-dependency task up to which length.

Knows attempts and a file that they are written to as they come, so that a sweep which was stopped goes on.
Does not know how a network is trained.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from training.data.examples import DataError
from training.studies.dependencies import TASKS, Attempt, Budget, Method, Task, train

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is tried. `all_lengths`: also lengths beyond one at which no seed of a method solved the task."""

    tasks: tuple[Task, ...]
    methods: tuple[Method, ...]
    lengths: tuple[int, ...]
    seeds: tuple[int, ...]
    budget: Budget
    all_lengths: bool = False


@dataclass(frozen=True, kw_only=True)
class Square:
    """One square of the table: the attempts at one length, or none where a shorter length was already too long."""

    solved: int
    attempts: int
    updates: int | None  # median over the seeds that solved it

    @property
    def text(self) -> str:
        if not self.attempts:
            return "not tried"
        return f"{self.solved}/{self.attempts}" + (f" ({self.updates:,})" if self.updates is not None else "")


def run(sweep: Sweep, file: Path, say: Say) -> list[Attempt]:
    """All attempts of a sweep, those of `file` taken from there; each new one is written before the next begins.

    Raises DataError for a file that holds another sweep's.
    """
    found = {(each.task, each.method, each.steps, each.seed): each for each in _read(file, sweep)}
    for task in sweep.tasks:
        for method in sweep.methods:
            for steps in sorted(sweep.lengths):
                here = []
                for seed in sweep.seeds:
                    key = (task.name, method.name, steps, seed)
                    if key not in found:
                        found[key] = train(task, method, steps, seed, sweep.budget)
                        write(file, sweep, list(found.values()))
                        say(_line(found[key]))
                    here.append(found[key])
                if not sweep.all_lengths and not any(each.solved for each in here):
                    break
    write(file, sweep, list(found.values()))
    return list(found.values())


def _line(attempt: Attempt) -> str:
    error = "not finite" if attempt.error is None else f"{attempt.error:.4f}"
    how = "solved" if attempt.solved else "not solved"
    return (
        f"{attempt.task} T={attempt.steps} {attempt.method} seed {attempt.seed}: {how} after {attempt.updates:,} "
        f"updates, error {error}, {attempt.seconds:.0f} s"
    )


def _settings(sweep: Sweep) -> dict[str, Any]:
    """What every attempt in a file has in common; the lengths and the seeds may grow."""
    return {"budget": asdict(sweep.budget), "methods": {method.name: asdict(method) for method in sweep.methods}}


def write(file: Path, sweep: Sweep, attempts: Sequence[Attempt]) -> None:
    """Whole or not at all: a kill while writing leaves the previous file."""
    content = {
        **_settings(sweep),
        "tasks": {task.name: task.what for task in sweep.tasks},
        "versions": {"torch": torch.__version__},
        "attempts": [asdict(each) for each in attempts],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    os.replace(fresh, file)


def _read(file: Path, sweep: Sweep) -> list[Attempt]:
    """The attempts that a file holds already, [] where there is none."""
    if not file.exists():
        return []
    content, settings = json.loads(file.read_text("utf-8")), _settings(sweep)
    methods = content["methods"]
    changed = [name for name in settings["methods"] if name in methods and methods[name] != settings["methods"][name]]
    if content["budget"] != settings["budget"] or changed or set(methods) - set(settings["methods"]):
        what = "budget" if content["budget"] != settings["budget"] else "methods"
        raise DataError(f"{file} holds attempts with other {what}: give another file with --out, or remove it")
    return [Attempt(**each) for each in content["attempts"]]


def read(file: Path) -> list[Attempt]:
    """The attempts of a file that `run` has written."""
    return [Attempt(**each) for each in json.loads(file.read_text("utf-8"))["attempts"]]


def square(attempts: Iterable[Attempt], task: str, method: str, steps: int) -> Square:
    """What came out at one length."""
    here = [each for each in attempts if (each.task, each.method, each.steps) == (task, method, steps)]
    solved = [each.updates for each in here if each.solved]
    return Square(solved=len(solved), attempts=len(here), updates=round(median(solved)) if solved else None)


def names(attempts: Sequence[Attempt], field: str) -> list[Any]:
    """The different values of a field in the order in which they first came."""
    return list(dict.fromkeys(getattr(each, field) for each in attempts))


def lines(attempts: Sequence[Attempt]) -> list[tuple[str, str, list[str]]]:
    """The table: task, method, and a square for each length, shortest first."""
    lengths = sorted(names(attempts, "steps"))
    return [
        (task, method, [square(attempts, task, method, steps).text for steps in lengths])
        for task in names(attempts, "task")
        for method in names(attempts, "method")
    ]


def markdown(attempts: Sequence[Attempt]) -> str:
    """The table as the documentation has it."""
    lengths = sorted(names(attempts, "steps"))
    rows = [["task", "method", *(f"T = {steps}" for steps in lengths)], ["---"] * (2 + len(lengths))]
    rows += [[task, method, *squares] for task, method, squares in lines(attempts)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def tasks_of(names: Sequence[str]) -> tuple[Task, ...]:
    """Tasks by name; raises DataError that names what there is."""
    for name in names:
        if name not in TASKS:
            raise DataError(f"no task {name!r}: choose of {', '.join(TASKS)}")
    return tuple(TASKS[name] for name in names)
