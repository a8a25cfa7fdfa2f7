"""Series from files: wide and long, gaps, time zones, and what is refused with its line or time."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from models.manifest import ForecastSpec, SeriesSpec
from training.data.examples import DataError, TimeSeries
from training.data.time_series import fit_sizes, hold_out_ends, read_series, season_of, windows

CODEC = SeriesSpec(segment=2, longest=8)
SPEC = ForecastSpec(horizon=4, quantile_levels=(0.1, 0.9))


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.csv"
    path.write_text(text, "utf-8")
    return path


def series(count: int, **more: Any) -> TimeSeries:
    values = tuple(float(number) for number in range(count))
    return TimeSeries(name="a", values=values, start="2026-01-01T00:00:00", frequency="h", **more)


def test_a_wide_file_has_a_series_in_each_column_of_numbers(tmp_path: Path) -> None:
    path = written(tmp_path, "time,load,note,price\n2026-01-01,1,x,5\n2026-01-02,2,y,\n2026-01-03,3,z,7\n")
    found = read_series(path)
    assert [(one.name, one.values, one.frequency) for one in found] == [
        ("load", (1.0, 2.0, 3.0), "D"),
        ("price", (5.0, None, 7.0), "D"),
    ]


def test_a_long_file_has_a_series_for_each_id(tmp_path: Path) -> None:
    path = written(
        tmp_path, "id,time,y\nb,2026-01-01 00:00,1\na,2026-01-01 01:00,3\nb,2026-01-01 01:00,2\na,2026-01-01 00:00,4\n"
    )
    assert {one.name: one.values for one in read_series(path, frequency="h")} == {"a": (4.0, 3.0), "b": (1.0, 2.0)}


def test_only_the_targets_are_read(tmp_path: Path) -> None:
    path = written(tmp_path, "when,load,price\n2026-01-01,1,5\n2026-01-02,2,6\n2026-01-03,3,7\n")
    assert [one.name for one in read_series(path, time="when", target="price")] == ["price"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_files_of_other_encodings_are_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "mine.csv").write_text("time,é\n2026-01-01,1\n2026-01-02,2\n", encoding)
    (one,) = read_series(tmp_path / "mine.csv", encoding="cp1252" if encoding == "cp1252" else "utf-8")
    assert (one.name, one.values) == ("é", (1.0, 2.0))


def test_a_missing_row_is_a_missing_value(tmp_path: Path) -> None:
    path = written(tmp_path, "time,y\n2026-01-01 00:00,1\n2026-01-01 01:00,2\n2026-01-01 03:00,4\n")
    (one,) = read_series(path)
    assert (one.values, one.frequency) == ((1.0, 2.0, None, 4.0), "h")


def test_times_with_offsets_are_compared_in_utc(tmp_path: Path) -> None:
    path = written(tmp_path, "time,y\n2026-10-25T02:00+02:00,1\n2026-10-25T02:00+01:00,2\n2026-10-25T03:00+01:00,3\n")
    (one,) = read_series(path)
    assert one.values == (1.0, 2.0, 3.0)


def test_parquet_is_read_like_csv(tmp_path: Path) -> None:
    frame = pd.DataFrame({"time": pd.date_range("2026-01-01", periods=3, freq="MS"), "y": [1.0, np.nan, 3.0]})
    frame.to_parquet(tmp_path / "mine.parquet")
    (one,) = read_series(tmp_path / "mine.parquet")
    assert (one.values, one.frequency) == ((1.0, None, 3.0), "MS")


@pytest.mark.parametrize(
    ("text", "options", "named"),
    [
        ("date,y\n2026-01-01,1\n2026-01-02,2\n", {}, "'time'"),
        ("time,y\n2026-01-01,1\n2026-01-02,2\n", {"target": "x"}, "'x'"),
        ("time,y\n2026-01-01,1\nsoon,2\n", {}, "line 3"),
        ("time,y\n2026-01-01,1\n2026-01-02,much\n", {"target": "y"}, "line 3"),
        ("time,y\n2026-01-01,1\n2026-01-01,2\n2026-01-02,2\n", {}, "2026-01-01T00:00:00"),
        ("time,y\n2026-01-01,1\n2026-01-02,2\n2026-01-02 12:00,2\n", {"frequency": "D"}, "2026-01-02T12:00:00"),
        ("time,y\n2026-01-01,1\n2026-01-02,2\n", {"frequency": "fortnight"}, "'fortnight'"),
        ("time,y\n2026-01-01,a\n2026-01-02,b\n", {}, "'time'"),
        ("time,y\n", {}, "no rows"),
        ("", {}, "empty"),
        ("time\n", {}, "mine.csv"),
        ("time,y\n2020,1\n2021,2\n2022,3\n", {}, "2020"),
        ("time,y\n2000-01-01 00:00:00,1\n2000-01-01 00:00:01,2\n2026-01-01 00:00:00,3\n", {}, "--freq"),
        ("time,y\n2026-01-01,1\n2026-01-02,2\n", {"frequency": "0D"}, "'0D'"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, text: str, options: dict[str, str], named: str) -> None:
    with pytest.raises(DataError) as caught:
        read_series(written(tmp_path, text), **options)
    assert named in str(caught.value)


@pytest.mark.parametrize(("frequency", "season"), [("h", 24), ("30min", 48), ("D", 7), ("W-SUN", 52), ("3h", 1)])
def test_the_season_follows_from_the_frequency(frequency: str, season: int) -> None:
    assert season_of(frequency) == season


@pytest.mark.parametrize(
    ("given", "fitted"),
    [
        ({}, (24, 240, 120)),
        ({"codec.segment": 7}, (7, 210, 119)),
        ({"codec.longest": 48}, (24, 48, 120)),
        ({"forecast.horizon": 5}, (24, 240, 5)),
    ],
)
def test_sizes_that_are_not_given_fit_the_series(given: dict[str, int], fitted: tuple[int, int, int]) -> None:
    sizes = fit_sizes([series(600)], segment=2, given=given)
    assert (sizes["codec.segment"], sizes["codec.longest"], sizes["forecast.horizon"]) == fitted
    assert sizes["forecast.frequency"] == "h"


def test_series_of_less_than_four_segments_are_refused() -> None:
    with pytest.raises(DataError):
        fit_sizes([series(95)], segment=2, given={})


def test_the_end_of_a_series_is_held_out() -> None:
    (train,), (dev,) = hold_out_ends([series(40)], dev_share=0.25, horizon=4)
    assert len(train.values) == dev.first == 30
    assert len(dev.values) == 40


def test_a_series_that_is_too_short_is_only_trained_on() -> None:
    train, dev = hold_out_ends([series(40), series(7)], dev_share=0.25, horizon=4)
    assert (len(train), len(dev)) == (2, 1)


def test_windows_forecast_only_what_is_held_out() -> None:
    train, dev = hold_out_ends([series(40)], dev_share=0.25, horizon=4)
    found = windows(train, dev, CODEC, SPEC)
    assert {len(window.history) for window in found} == {2, 4, 8}
    values = series(40).values
    for window in found:
        start = next(i for i in range(30, 39) if values[:i][-len(window.history) :] == window.history)
        assert window.future == values[start : start + 4]
    assert {window.unit for window in found} == {float(np.std(train[0].values))}
