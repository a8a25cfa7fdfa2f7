"""The report of a run: baselines, scores of labels, wrong examples, and advice after a weak score."""

import csv
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from models import self_test
from models.bundle import Bundle
from training import forecasts, metrics, missing_words, score, translations
from training.baselines import baselines
from training.data import loading
from training.data.examples import (
    PairExample,
    SequenceExample,
    SeriesExample,
    Splits,
    TaggedSeries,
    inputs_of,
    merge_labels,
    where,
)
from training.data.time_series import longer_season_of
from training.metrics import ExampleLabels
from training.prepare import fit_codec
from training.recipe import Recipe

REPORT, ERRORS, TRANSLATIONS = "report.json", "errors.tsv", "translations.tsv"
TRANSLATION_COLUMNS = ("source", "target", "translation")
ERROR_COLUMNS = ("gold", "predicted", "score", "text")
SAMPLE = {"temperature": 0.7, "seed": 1, "max_new_tokens": 300}  # of a language model
PROMPT = 16  # characters, of a recipe without examples
LATE = 0.9  # share of the epochs after which the best epoch is late: longer training would help
WIDE = 5.0  # points of a 95% interval, from which other examples or seeds may change the score visibly
OVERFIT = 1.02  # the last development loss, relative to the lowest, from which a network has learned its data by heart

BaselineScores = dict[str, dict[str, float]]  # by the name of the baseline and the metric


def read(folder: Path) -> dict[str, Any]:
    """Return the content of report.json; {} if the run was interrupted before it."""
    path = folder / REPORT
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def write(folder: Path, content: dict[str, Any]) -> None:
    (folder / REPORT).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


def measure_baselines(recipe: Recipe, train: Any, dev: Any) -> BaselineScores:
    """Return the scores of the baselines of a recipe's task on `dev`, which has the labels of answers."""
    if recipe.forecast is not None:
        return forecasts.baselines(train, dev, recipe.forecast.horizon)
    if recipe.task in ("translate", "caption"):
        return translations.baselines(train, dev)
    if recipe.task == "fill":
        codec = fit_codec(recipe, train)
        texts = [[codec.encode(inputs_of(example)) for example in part] for part in (train, dev)]
        return missing_words.baselines(*texts, codec.table_rows)
    train = merge_labels(train, recipe.merge) if recipe.merge else train
    return baselines(recipe.task, train, dev, codec=recipe.codec.kind)


def label_scores(
    task: str, metric: str, expected: Sequence[ExampleLabels], predicted: Sequence[ExampleLabels]
) -> dict[str, Any]:
    """Return "macro_f1" of the labels, and a row for each of "labels" and, if the task has tags, of "spans".

    "interval" is the 95% interval of `metric`.
    """
    reports = metrics.report_labels(task, expected, predicted)
    labels = reports["labels"]
    rows = {kind: [asdict(row) for row in found] for kind, found in reports.items()}
    macro = statistics.fmean(row.f1 for row in labels) if labels else 0.0
    return {"macro_f1": macro, "interval": metrics.interval(metric, expected, predicted), **rows}


def describe_interval(metric: str, interval: Sequence[float], count: int) -> str:
    """Return a sentence about the 95% interval of a score on `count` examples, and for a wide one, what narrows it."""
    low, high = interval
    text = f"{metric}: 95% interval {low:.1f} to {high:.1f}, from {count:,} held-out examples"
    if high - low <= WIDE:
        return text
    return f"{text}. Another split may score differently: run seqserve cross-validate, with --folds and --seeds"


def measure_bundle(
    bundle: Bundle, recipe: Recipe, examples: Splits[Any], known: BaselineScores | None = None
) -> dict[str, Any]:
    """Return what a model card shows of the development data: baselines, and `label_scores` or a generated sample.

    For a tagger, "texts" is its score on texts, if the service cuts other tokens than the data has.

    For a forecaster: its scores by history and horizon, on test data where the literature scores them.

    `known` are the scores of the baselines, if they were measured on the same data before.
    """
    scores = known or measure_baselines(recipe, examples.train, examples.dev)
    if recipe.forecast is not None:
        train, scored, name = loading.scored_series(recipe)
        table = {"split": name, "table": score.forecast_table(bundle, train, scored)}
        return {"baselines": scores, "forecasts": table}
    if recipe.task in ("translate", "caption"):
        return {"baselines": scores, "signatures": translations.signatures([pair.target for pair in examples.dev])}
    if recipe.task == "fill":
        return {"baselines": scores}
    if recipe.task != "generate":
        expected, predicted = (
            [ExampleLabels.of(example) for example in examples.dev],
            score.predict(bundle, examples.dev),
        )
        rows = label_scores(recipe.task, bundle.manifest.metric, expected, predicted)
        return {"baselines": scores, "texts": score.score_texts(bundle, examples.dev), **rows}
    options = self_test.generate_options(SAMPLE)
    prompt = recipe.examples[0] if recipe.examples else examples.dev[:PROMPT]
    text = prompt + self_test.generate(bundle, prompt, options).generated_text
    return {"baselines": scores, "sample": {**SAMPLE, "prompt": prompt, "text": text}}


def write_translations(folder: Path, examples: Sequence[PairExample], predicted: Sequence[str]) -> None:
    """Write translations.tsv: the source of each example, its target, and the translation."""
    with (folder / TRANSLATIONS).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
        writer.writerow(TRANSLATION_COLUMNS)
        for example, translation in zip(examples, predicted, strict=True):
            source = example.source if isinstance(example.source, str) else where(example)
            writer.writerow((source, example.target, translation))


def write_errors(folder: Path, examples: Sequence[SequenceExample], predicted: Sequence[ExampleLabels]) -> int:
    """Write errors.tsv with the wrong labels of `examples`, the most certain first; return their number.

    `score` is the probability of the predicted label. In a row for a step, square brackets mark the step in the text.
    Series have their file and line instead of a text.
    """
    rows = [row for example, answer in zip(examples, predicted, strict=True) for row in _errors(example, answer)]
    rows.sort(key=lambda row: -row[2])
    with (folder / ERRORS).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
        writer.writerow(ERROR_COLUMNS)
        writer.writerows((gold, found, f"{certainty:.3f}", text) for gold, found, certainty, text in rows)
    return len(rows)


def _errors(example: SequenceExample, answer: ExampleLabels) -> Iterator[tuple[str, str, float, str]]:
    """Yield (gold, predicted, score, text) for each wrong label of one example."""
    expected, inputs = ExampleLabels.of(example), inputs_of(example)
    if expected.text != answer.text:
        text = where(example) if isinstance(example, SeriesExample) else _as_text(inputs)
        yield str(expected.text), str(answer.text), answer.text_score, text
    for step, (gold, found) in enumerate(zip(expected.steps, answer.steps, strict=True)):
        if gold != found:
            marked = where(example, step)
            if not isinstance(example, TaggedSeries):
                marked = " ".join([*inputs[:step], f"[{inputs[step]}]", *inputs[step + 1 :]])
            yield gold, found, answer.step_scores[step], marked


def _as_text(inputs: Any) -> str:
    return " ".join(inputs.split() if isinstance(inputs, str) else inputs)


def unbeaten_baseline(metric: str, own: float, scores: BaselineScores) -> tuple[str, float] | None:
    """Return the name and the score of the best baseline, or None if the `own` score is better or perfect."""
    best = best_baseline(metric, scores)
    if best is None or metrics.better(metric, own, best[1]) or own == metrics.PERFECT.get(metric):
        return None
    return best


def best_baseline(metric: str, scores: BaselineScores) -> tuple[str, float] | None:
    """Return the name and the score of the best baseline; None without baselines for this metric."""
    values = {name: each[metric] for name, each in scores.items() if metric in each}
    if not values:
        return None
    choose = max if metrics.higher_is_better(metric) else min
    name = choose(values, key=lambda each: values[each])
    return name, values[name]


def advise(recipe: Recipe, metric: str, history: Sequence[dict[str, float]], best_epoch: int, scores: Any) -> str:
    """Return a sentence about a run that does not beat its baselines, with what to change; "" if it does."""
    best = history[best_epoch - 1][metric]
    if (unbeaten := unbeaten_baseline(metric, best, scores)) is None:
        return ""
    architecture, training = recipe.architecture, recipe.training
    last, lowest = history[-1], min(entry["dev_loss"] for entry in history)
    before = history[max(0, best_epoch - 1 - max(1, best_epoch // 3))][metric]
    gain, gap = abs(best - before), abs(best - unbeaten[1])  # of the last third, and to the baseline
    size = "streams" if recipe.task == "generate" else "batch_tokens"
    if recipe.forecast is not None and 2 * longer_season_of(recipe.forecast.frequency) > recipe.codec.longest:
        season = longer_season_of(recipe.forecast.frequency)
        remedy = (
            f"the network reads {recipe.codec.longest} values, less than two seasons of {season}, so give longer series"
            f", or raise codec.longest (now {recipe.codec.longest})"
        )
    elif best_epoch > LATE * training.epochs and gain >= gap:
        remedy = f"the score was still improving, so raise training.epochs (now {training.epochs})"
    elif best_epoch > LATE * training.epochs:
        remedy = (
            f"the score was improving too slowly, by {gain:.3f} in the last third of the epochs, so raise "
            f"training.learning_rate (now {training.learning_rate:g}; find-lr suggests one), or make more and smaller "
            f"batches with training.{size} (now {getattr(training, size)})"
        )
    elif last["dev_loss"] > OVERFIT * lowest and last["train_loss"] < lowest:
        remedy = (
            f"the development loss rises while the training loss falls, so use more data, raise architecture.dropout "
            f"(now {architecture.dropout:g}), or lower architecture.hidden (now {architecture.hidden})"
        )
    else:
        remedy = (
            f"try another training.learning_rate (now {training.learning_rate:g}; find-lr suggests one), use more "
            f"data, or raise training.patience (now {training.patience})"
        )
    return f"{metric} {best:.3f} does not beat {unbeaten[1]:.3f} of the baseline ({unbeaten[0]}): {remedy}"
