"""Runs of one recipe with several seeds or folds, and the statistics of their scores."""

import json
import math
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from scipy.stats import t

from training.data.examples import DataError, Splits, label_of
from training.data.splitting import folds
from training.recipe import Recipe

SEEDS = "seeds.json"


@dataclass(frozen=True, kw_only=True)
class ScoreSummary:
    """Mean, standard deviation and 95 % confidence interval of the scores of several runs."""

    scores: dict[str, float]  # by the name of the run
    mean: float
    deviation: float  # sample standard deviation; nan for one run
    low: float
    high: float

    def __str__(self) -> str:
        if len(self.scores) == 1:
            return f"{self.mean:.2f} (one run: no interval)"
        interval = f"95 % interval {self.low:.2f} to {self.high:.2f}"
        return f"{self.mean:.2f}, standard deviation {self.deviation:.2f}, {interval}"


def summarize(scores: dict[str, float], weights: Sequence[float] | None = None) -> ScoreSummary:
    """Summarize scores with Student's t distribution (Student 1908), which holds for few, about normal scores.

    `weights`, for folds of unequal size, weigh the mean. The interval is that of the plain mean around it.
    """
    values = list(scores.values())
    mean = statistics.fmean(values, weights)
    if len(values) == 1:
        return ScoreSummary(scores=scores, mean=mean, deviation=math.nan, low=math.nan, high=math.nan)
    deviation = statistics.stdev(values)
    half = float(t.ppf(0.975, len(values) - 1)) * deviation / math.sqrt(len(values))
    return ScoreSummary(scores=scores, mean=mean, deviation=deviation, low=mean - half, high=mean + half)


def parse_seeds(text: str) -> list[int]:
    """Parse "5" as 1 to 5, and "1,7,9" as these seeds."""
    try:
        seeds = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        seeds = []
    if len(seeds) == 1 and "," not in text:
        seeds = list(range(1, seeds[0] + 1))
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise DataError(f"--seeds {text!r}: give a count (--seeds 5), or different seeds from 0 (--seeds 1,2,3)")
    return seeds


def with_seed(recipe: Recipe, seed: int, **changes: int) -> Recipe:
    """Return the recipe with another seed and other fields of [training]."""
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"seed": seed, **changes})})


def refuse_single_run(folder: Path) -> None:
    """Raise DataError if a folder holds a single run, whose files several runs would replace."""
    if (folder / "run.json").exists() and not (folder / SEEDS).exists():
        raise DataError(f"{folder} holds a single run; give another folder with --run, or remove it")


def make_folds(examples: Splits[Any], count: int, seed: int) -> list[Splits[Any]]:
    """Split training and development data into folds, stratified by the labels of whole sequences.

    The held-out part of a fold chooses its epoch and scores it.
    """
    rows = [*examples.train, *examples.choice, *examples.dev]
    labels = [label for example in rows if (label := label_of(example)) is not None]
    parts = folds(rows, count, seed, labels if len(labels) == len(rows) else None)
    return [replace(examples, train=train, dev=dev, choice=()) for train, dev in parts]


def write_summary(path: Path, summary: ScoreSummary, **more: Any) -> None:
    path.write_text(json.dumps({**more, **asdict(summary)}, indent=1) + "\n", "utf-8")


def keep_best(folder: Path, summary: ScoreSummary, best: str) -> None:
    """Copy the files of the best run into `folder`, and write seeds.json with its name."""
    for file in (folder / best).iterdir():
        if file.is_file():
            shutil.copy2(file, folder / file.name)
    write_summary(folder / SEEDS, summary, best=best)
