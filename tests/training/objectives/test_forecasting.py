"""The objective of forecasters: batches of random windows, missing values, and learning."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.support.tiny_files import series, write
from tests.support.tiny_runs import silent
from training import recipe as recipes
from training import report, run
from training.objectives.forecasting import ForecastObjective
from training.prepare import prepare
from training.recipe import Recipe

SIZES = {"codec.longest": 72, "forecast.horizon": 24, "data.freq": "h"}


def objective_of(tmp_path: Path, text: str | None = None) -> tuple[ForecastObjective, Recipe]:
    path = write(tmp_path, "mine.csv", series() if text is None else text)
    recipe = recipes.load("forecaster", **{"data.path": str(path), "architecture.hidden": 32, **SIZES})
    objective = prepare(recipe).objective(recipe)
    assert isinstance(objective, ForecastObjective)
    return objective, recipe


def test_a_batch_has_one_length_of_history_and_a_future_in_units_of_the_series(tmp_path: Path) -> None:
    objective, _ = objective_of(tmp_path)
    batches = [batch for batch in objective.batches(0) if batch is not None]
    assert all(len(batch.feeds["lengths"].unique()) == 1 for batch in batches)
    assert {len(batch.feeds["segments"]) for batch in batches} == {1, 2, 3}
    assert all(batch.future.nan_to_num().abs().max() < 5 for batch in batches)


def test_batches_repeat_for_the_same_epoch_and_differ_between_epochs(tmp_path: Path) -> None:
    objective, _ = objective_of(tmp_path)
    first, again, other = (next(iter(objective.batches(epoch))) for epoch in (0, 0, 1))
    assert first is not None
    assert again is not None
    assert other is not None
    assert torch.equal(first.feeds["segments"], again.feeds["segments"])
    assert not torch.equal(first.last, other.last)


def test_missing_values_of_the_future_do_not_count(tmp_path: Path) -> None:
    objective, _ = objective_of(tmp_path)
    batch = next(iter(objective.batches(0)))
    assert batch is not None
    before = objective.loss(batch), objective.weight(batch)
    batch.future[0] = torch.nan
    assert objective.loss(batch).isfinite()
    assert objective.weight(batch) < before[1]


def test_a_far_value_counts_by_its_distance_and_not_its_square(tmp_path: Path) -> None:
    objective, _ = objective_of(tmp_path)
    objective.network.eval()
    batch = next(iter(objective.batches(0)))
    assert batch is not None
    losses = [objective.loss(replace(batch, future=batch.future + distance)).item() for distance in (100, 200, 300)]
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-3)


def test_series_with_long_gaps_can_be_trained_on(tmp_path: Path) -> None:
    lines = series().splitlines()
    gaps = "\n".join(line for number, line in enumerate(lines) if number == 0 or number % 60 < 20)
    objective, _ = objective_of(tmp_path, gaps)
    assert all(objective.loss(batch).isfinite() for batch in objective.batches(0) if batch is not None)


def test_a_season_is_learned(tmp_path: Path) -> None:
    objective, _ = objective_of(tmp_path)
    torch.manual_seed(1)
    optimizer = torch.optim.AdamW(objective.network.parameters(), lr=5e-3)
    before = objective.evaluate(objective.network.eval())
    for batch in objective.batches(0):
        assert batch is not None
        optimizer.zero_grad()
        objective.loss(batch).backward()
        optimizer.step()
    after = objective.evaluate(objective.network.eval())
    assert after["mse"] < 0.5 * before["mse"]


def test_predicted_quantiles_are_in_order(tmp_path: Path) -> None:
    objective, _ = objective_of(tmp_path)
    for mean, quantiles in objective.predict(objective.network.eval()):
        assert len(mean) == len(quantiles)
        assert (np.diff(quantiles, axis=1) >= 0).all()


@pytest.mark.parametrize(
    ("field", "value"),
    [("architecture.bidirectional", True), ("forecast.quantile_levels", [0.9, 0.1]), ("codec.longest", 25)],
)
def test_a_recipe_that_cannot_forecast_is_refused(field: str, value: object) -> None:
    with pytest.raises(recipes.RecipeError):
        recipes.load("forecaster", **{field: value})


def test_the_recipe_learns_a_season_of_several_segments(tmp_path: Path) -> None:
    """A pattern of seven segments, such as a week of days, which only a history of more than seven of them shows."""
    segments = [3.0, 4.0, 5.0, 4.0, 3.0, 1.0, 0.5]
    noise = np.random.default_rng(1).normal(scale=0.1, size=16 * 28)
    values = [segments[n // 4 % 7] * (1 + n % 4) + noise[n] for n in range(len(noise))]
    times = pd.date_range("2026-01-01", periods=len(values), freq="6h")
    path = write(tmp_path, "mine.csv", "time,y\n" + "".join(f"{t},{y}\n" for t, y in zip(times, values, strict=True)))
    changes = {"data.path": str(path), "codec.segment": 4, "codec.longest": 84, "forecast.horizon": 28}
    done = run.fit(recipes.load("forecaster", **changes, **{"training.epochs": 6}), tmp_path / "run", silent)
    baselines = report.read(done.folder)["baselines"]
    assert done.best["mse"] < min(scores["mse"] for scores in baselines.values())
