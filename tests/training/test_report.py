"""Reports of runs: wrong examples, and advice for a score that does not beat the baselines."""

import csv
from pathlib import Path
from typing import Any

import pytest

from training import recipe, report
from training.data.examples import FileLocation, JointExample, LabeledExample, SeriesExample
from training.metrics import MSE, NATS, ExampleLabels


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / report.ERRORS).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_errors_have_labels_score_and_text_with_the_most_certain_first(tmp_path: Path) -> None:
    examples = [LabeledExample(text=text, label="good") for text in ("fine", "a\twarm\nfilm", "it is")]
    answers = [
        ExampleLabels(text=label, text_score=score) for label, score in (("good", 1), ("bad", 0.6), ("bad", 0.9))
    ]
    assert report.write_errors(tmp_path, examples, answers) == 2
    assert rows(tmp_path) == [
        {"gold": "good", "predicted": "bad", "score": "0.900", "text": "it is"},
        {"gold": "good", "predicted": "bad", "score": "0.600", "text": "a warm film"},
    ]


def test_wrong_step_is_marked_in_its_text(tmp_path: Path) -> None:
    example = JointExample(tokens=("to", "Rome"), tags=("O", "B-city"), label="travel")
    answer = ExampleLabels(steps=("O", "O"), text="travel", step_scores=(0.9, 0.7), text_score=0.8)
    report.write_errors(tmp_path, [example], [answer])
    assert rows(tmp_path) == [{"gold": "B-city", "predicted": "O", "score": "0.700", "text": "to [Rome]"}]


def test_wrong_series_is_named_by_its_line(tmp_path: Path) -> None:
    example = SeriesExample(frames=((1.0,),) * 500, label="a", place=FileLocation("mine.csv", 7))
    report.write_errors(tmp_path, [example], [ExampleLabels(text="b", text_score=0.5)])
    assert [row["text"] for row in rows(tmp_path)] == ["mine.csv, line 7"]


def history(losses: list[tuple[float, float]], scores: list[float], metric: str) -> list[dict[str, float]]:
    return [
        {"train_loss": train, "dev_loss": dev, metric: score}
        for (train, dev), score in zip(losses, scores, strict=True)
    ]


@pytest.mark.parametrize(
    ("losses", "scores", "best", "field"),
    [
        ([(2.0, 2.0), (1.0, 1.5)], [50, 60], 2, "training.epochs"),
        ([(2.0, 2.0), (0.5, 3.0)], [60, 50], 1, "architecture.dropout"),
        ([(2.0, 2.0), (2.0, 2.0)], [60, 60], 1, "training.learning_rate"),
    ],
)
def test_advice_names_the_field_to_change(
    losses: list[tuple[float, float]], scores: list[float], best: int, field: str
) -> None:
    settings = recipe.load("classifier", **{"data.path": "mine.csv", "training.epochs": 2})
    past = history(losses, scores, "accuracy")
    advice = report.advise(settings, "accuracy", past, best, {"majority": {"accuracy": 60.0}})
    assert field in advice
    assert report.advise(settings, "accuracy", past, best, {"majority": {"accuracy": 40.0}}) == ""


@pytest.mark.parametrize(
    ("longest", "scores", "field"),
    [
        (240, [0.9, 0.5, 0.4], "codec.longest"),
        (720, [0.9, 0.5, 0.25], "training.epochs"),
        (720, [0.45, 0.42, 0.4], "training.batch_tokens"),
    ],
)
def test_advice_for_a_forecaster_depends_on_its_history_and_its_trend(
    longest: int, scores: list[float], field: str
) -> None:
    given = {"codec.longest": longest, "forecast.frequency": "h", "forecast.horizon": 24, "training.epochs": 3}
    past = history([(1.0, score) for score in scores], scores, MSE)
    advice = report.advise(recipe.load("forecaster", **given), MSE, past, 3, {"linear regression": {MSE: 0.2}})
    assert field in advice


@pytest.mark.parametrize(
    ("metric", "score", "values", "unbeaten"),
    [
        ("accuracy", 70.0, {"a": 60.0, "b": 71.0}, ("b", 71.0)),
        ("accuracy", 70.0, {"a": 60.0}, None),
        ("accuracy", 60.0, {"a": 60.0}, ("a", 60.0)),
        ("accuracy", 100.0, {"a": 100.0}, None),
        (NATS, 1.7, {"a": 1.6}, ("a", 1.6)),
        (NATS, 1.5, {"a": 1.6}, None),
        ("f1", 1.5, {}, None),
    ],
)
def test_best_baseline_that_is_not_beaten(
    metric: str, score: float, values: dict[str, float], unbeaten: tuple[str, float] | None
) -> None:
    scores: dict[str, Any] = {name: {metric: value} for name, value in values.items()}
    assert report.unbeaten_baseline(metric, score, scores) == unbeaten
