"""The same recipe several times, by seed or by fold, and what the scores say together.

Knows run folders and scores. Does not know tasks; how a run is made is handed in.
"""

import json
import math
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scipy.stats import t

from training.data import DataError
from training.data.examples import Splits, label_of
from training.data.splitting import folds
from training.recipe import Recipe

SEEDS = "seeds.json"


@dataclass(frozen=True, kw_only=True)
class ScoreSummary:
    """Scores of repeats: mean, standard deviation, and the interval that holds the true mean in 95 of 100 cases."""

    scores: dict[str, float]  # by the name of the repeat
    mean: float
    deviation: float  # of the scores, with n - 1; nan for one
    low: float
    high: float

    def __str__(self) -> str:
        if len(self.scores) == 1:
            return f"{self.mean:.2f} (one run: no interval)"
        return (
            f"{self.mean:.2f}, standard deviation {self.deviation:.2f}, 95 % interval {self.low:.2f} to {self.high:.2f}"
        )


def summarise(scores: dict[str, float], weights: Sequence[float] | None = None) -> ScoreSummary:
    """Mean and interval by Student's t distribution (Student 1908), right for few repeats of about normal scores.

    `weights`, for folds of unequal size, weigh the mean; the interval is that of the plain mean around it.
    """
    values = list(scores.values())
    mean = statistics.fmean(values, weights)
    if len(values) == 1:
        return ScoreSummary(scores=scores, mean=mean, deviation=math.nan, low=math.nan, high=math.nan)
    deviation = statistics.stdev(values)
    half = float(t.ppf(0.975, len(values) - 1)) * deviation / math.sqrt(len(values))
    return ScoreSummary(scores=scores, mean=mean, deviation=deviation, low=mean - half, high=mean + half)


def parse_seeds(text: str) -> list[int]:
    """ "5" is 1 to 5; "1,7,9" are those."""
    try:
        seeds = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        seeds = []
    if len(seeds) == 1 and "," not in text:
        seeds = list(range(1, seeds[0] + 1))
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise DataError(
            f"--seeds {text!r}: give how many, e.g. --seeds 5, or different ones from 0, e.g. --seeds 1,2,3"
        )
    return seeds


def with_seed(recipe: Recipe, seed: int, **changes: int) -> Recipe:
    """The recipe with another seed and other numbers of [training]."""
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"seed": seed, **changes})})


def refuse_single(folder: Path) -> None:
    """A folder that holds one run is no place for several: its files would be replaced."""
    if (folder / "run.json").exists() and not (folder / SEEDS).exists():
        raise DataError(f"{folder} holds a single run: give another folder with --run, or remove it")


def fold(examples: Splits[Any], count: int, seed: int) -> list[Splits[Any]]:
    """Training and development data together, each part held out once, with its share of every label of a whole."""
    everything = [*examples.train, *examples.dev]
    labels = [found for example in everything if (found := label_of(example)) is not None]
    parts = folds(everything, count, seed, labels if len(labels) == len(everything) else None)
    return [Splits(train=train, dev=dev, source=examples.source) for train, dev in parts]


def write(path: Path, summary: ScoreSummary, **more: Any) -> None:
    """The scores and what they say together, as JSON."""
    path.write_text(json.dumps({**more, **asdict(summary)}, indent=1) + "\n", "utf-8")


def keep_best(folder: Path, summary: ScoreSummary, best: str) -> None:
    """Copy the files of the best run into `folder`, which then is that run, and say in seeds.json which it was."""
    for file in (folder / best).iterdir():
        if file.is_file():
            shutil.copy2(file, folder / file.name)
    write(folder / SEEDS, summary, best=best)
