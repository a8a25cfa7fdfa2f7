"""What a run folder says once the weights are found: baselines, scores by label, what is taken for what.

Knows an objective's answers and the reports made of them. Trains nothing.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from training import report
from training.baselines import baselines
from training.data.examples import Splits, merge_labels
from training.objectives import Objective
from training.objectives.sequences import SequenceObjective
from training.recipe import Recipe

REPORT, CONFUSION = "report.json", "confusion.png"


def write(folder: Path, recipe: Recipe, examples: Splits[Any], objective: Objective, network: nn.Module) -> None:
    """report.json: "baselines", scores by name; "macro_f1", "labels" and "spans", a row each; confusion.png."""
    task, train = recipe.task, examples.train
    if recipe.merge:
        train = merge_labels(train, recipe.merge)
    # A run that goes on has the data of before.
    before = read(folder).get("baselines")
    content: dict[str, Any] = {"baselines": before or baselines(task, train, examples.dev, codec=recipe.codec.kind)}
    if isinstance(objective, SequenceObjective):
        found, _ = objective.predict(network)
        expected = objective.expected
        if task != "classify":
            content["spans"] = [
                asdict(row) for row in report.per_kind([e.steps for e in expected], [f.steps for f in found])
            ]
        ours, theirs = (_flat(task, answers) for answers in (expected, found))
        content["macro_f1"] = report.macro_f1(ours, theirs)
        content["labels"] = [asdict(row) for row in report.per_label(ours, theirs)]
        report.draw(report.confusion(ours, theirs), folder / CONFUSION, folder.name)
    (folder / REPORT).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


def read(folder: Path) -> dict[str, Any]:
    """What `write` left in a run folder; nothing if it was interrupted before."""
    path = folder / REPORT
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found


def _flat(task: str, answers: list[Any]) -> list[str]:
    """The labels of all wholes, or of all steps."""
    if task in ("classify", "joint"):
        return [answer.text for answer in answers]
    return [label for answer in answers for label in answer.steps]
