"""The report of a finished run: baselines, scores by label, and a confusion matrix."""

import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from training import metrics, plots
from training.baselines import baselines
from training.data.examples import Splits, merge_labels
from training.metrics import ExampleLabels
from training.objectives import Objective
from training.objectives.sequences import SequenceObjective
from training.recipe import Recipe

REPORT, CONFUSION = "report.json", "confusion.png"


def write(folder: Path, recipe: Recipe, examples: Splits[Any], objective: Objective, network: nn.Module) -> None:
    """Write confusion.png and report.json with "baselines", "macro_f1", and a row for each of "labels" and "spans"."""
    task, train = recipe.task, examples.train
    if recipe.merge:
        train = merge_labels(train, recipe.merge)
    # A resumed run has the same data, so its baselines are still right.
    before = read(folder).get("baselines")
    content: dict[str, Any] = {"baselines": before or baselines(task, train, examples.dev, codec=recipe.codec.kind)}
    if isinstance(objective, SequenceObjective):
        predicted, _ = objective.predict(network)
        expected = objective.expected
        if task != "classify":
            spans = metrics.span_reports([e.steps for e in expected], [p.steps for p in predicted])
            content["spans"] = [asdict(row) for row in spans]
        labels = [_flat(task, part) for part in (expected, predicted)]
        reports = metrics.label_reports(*labels)
        content["macro_f1"] = statistics.fmean(row.f1 for row in reports) if reports else 0.0
        content["labels"] = [asdict(row) for row in reports]
        plots.draw_confusion(metrics.confusion(*labels), folder / CONFUSION, folder.name)
    (folder / REPORT).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


def read(folder: Path) -> dict[str, Any]:
    """Return the content of report.json; {} if the run was interrupted before it."""
    path = folder / REPORT
    content: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return content


def _flat(task: str, answers: list[ExampleLabels]) -> list[str]:
    """Return the labels of all sequences, or of all steps."""
    if task in ("classify", "joint"):
        return [str(answer.text) for answer in answers]
    return [label for answer in answers for label in answer.steps]
