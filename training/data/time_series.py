"""Time series from CSV and Parquet: one per column or one per id, on a regular grid, with gaps as missing values.

pandas reads the files, because it knows times, time zones and frequencies. It is imported on use.
"""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.files.tables import DELIMITERS
from models.files.text_files import DEFAULT_ENCODING, read_text
from models.manifest import ForecastSpec, SeriesSpec
from training.data.examples import DataError, FileLocation, ForecastWindow, TimeSeries

# Values in a season, by pandas' frequency.
SEASONS = {"min": 60, "15min": 96, "30min": 48, "h": 24, "D": 7, "B": 5, "W": 52, "MS": 12, "ME": 12, "QS": 4, "QE": 4}
NO_SEASON = 1
LONGER_SEASONS = {"min": 1440, "15min": 672, "30min": 336, "h": 168}  # that the history should have twice
SEGMENTS = {"W": 13, "QS": 4, "QE": 4}  # values in a segment where a season would be too long
SHORTEST_SEGMENT = 4
MOST_SEGMENTS = 30  # that a forecaster reads, and that it forecasts
HISTORY_SHARE, HORIZON_SHARE = 0.4, 0.2  # of a series: the longest history and forecast
WINDOWS = 256  # of all development data
MOST_STEPS = 100  # of the grid, per row of a file
HISTORIES = (4, 14, 30)  # lengths of the histories of these windows, of MOST_SEGMENTS


def season_of(frequency: str) -> int:
    """Return the values in a season of a frequency such as "h" or "30min"; 1 if none is known."""
    return SEASONS.get(frequency.split("-")[0], NO_SEASON)


def longer_season_of(frequency: str) -> int:
    """Return the values in the season after `season_of`, such as a week of hours; 0 if none is known."""
    return LONGER_SEASONS.get(frequency.split("-")[0], 0)


def read_series(
    path: Path,
    *,
    time: str = "time",
    target: str = "",
    series: str = "id",
    frequency: str = "",
    encoding: str = DEFAULT_ENCODING,
) -> list[TimeSeries]:
    """Read a wide file, with a column per series, or a long one, where the column `series` names the series of a row.

    `target` names the columns of values, separated by commas; the default is every column of numbers. `frequency` is
    one of pandas, such as "h"; the default is the most common distance of two rows. Rows may be in any order. Times
    with a time zone are compared in UTC. Raises DataError for a file that cannot be read, for numbers instead of times,
    for times that repeat or are between two steps, and for more than MOST_STEPS steps per row.
    """
    import pandas as pd

    frame = _read_frame(path, encoding)
    _check_column(path, frame, time, "--time")
    times = _times(path, frame, time)
    groups = list(frame.groupby(series, sort=True).indices.items()) if series in frame.columns else [("", None)]
    targets = [name.strip() for name in target.split(",")] if target else []
    for name in targets:
        _check_column(path, frame, name, "--target")
    targets = targets or [
        name for name in frame.columns if name not in (time, series) and pd.api.types.is_numeric_dtype(frame[name])
    ]
    if not targets:
        raise DataError(f"{path}: has no column of numbers in addition to {time!r}; name one with --target")
    found = []
    for group, rows in groups:
        own_times, own = (times, frame) if rows is None else (times[rows], frame.iloc[rows])
        grid, places, step = _grid(path, own_times, frequency, f" of series {group!r}" if group != "" else "")
        for name in targets:
            values = np.full(len(grid), math.nan)
            values[places] = _numbers(path, own, name)
            label = "/".join(part for part in (str(group), name if len(targets) > 1 or group == "" else "") if part)
            found.append(TimeSeries(name=label, values=as_values(values), start=grid[0].isoformat(), frequency=step))
    return found


def _read_frame(path: Path, encoding: str) -> Any:
    import pandas as pd

    suffix = path.suffix.lower()
    try:
        if suffix in (".parquet", ".pq"):
            frame = pd.read_parquet(path)
        else:
            text = io.StringIO(read_text(path, encoding=encoding))
            frame = pd.read_csv(text, sep=DELIMITERS.get(suffix), engine="python")
    except DataError:
        raise
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs pyarrow; pip install pyarrow, or give CSV") from None
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read: {str(error).splitlines()[0]}; give CSV or Parquet") from None
    if not len(frame):
        raise DataError(f"{path}: has no rows; give one row per time")
    return frame.rename(columns=str)


def _check_column(path: Path, frame: Any, name: str, option: str) -> None:
    if name not in frame.columns:
        raise DataError(f"{path}: has no column {name!r}; choose one of {', '.join(frame.columns)} with {option}")


def _times(path: Path, frame: Any, time: str) -> Any:
    import pandas as pd

    column = frame[time]
    if pd.api.types.is_numeric_dtype(column):  # pandas would count nanoseconds from 1970
        first = f"{FileLocation(str(path), 2)}: {time!r} is the number {column.iloc[0]}"
        raise DataError(f"{first}; give a date or a time, such as 2026-01-31 or 2026-01-31T12:00")
    has_zone = column.astype(str).str.contains(r"(?:Z|[+-]\d\d:?\d\d)$").any()
    times = pd.to_datetime(column, errors="coerce", format="mixed", utc=bool(has_zone))
    if times.isna().any():
        row = int(np.flatnonzero(times.isna())[0])
        raise DataError(f"{FileLocation(str(path), row + 2)}: {time!r} is {column.iloc[row]!r}; give a date or a time")
    return pd.DatetimeIndex(times)


def _grid(path: Path, times: Any, frequency: str, where: str) -> tuple[Any, NDArray[np.int64], str]:
    """Return all times of a series, the place of each row among them, and the frequency."""
    import pandas as pd

    ordered = times.sort_values()
    if (repeated := ordered[ordered.duplicated()]).size:
        raise DataError(
            f"{path}: time {repeated[0].isoformat()}{where} is there twice; name the series with --series, or give "
            "times with their offset from UTC"
        )
    if not frequency:
        frequency = pd.infer_freq(ordered) if len(ordered) > 2 else None
        if frequency is None:
            steps = pd.Series(ordered).diff().dropna()
            if not len(steps):
                raise DataError(f"{path}: has one row{where}; give at least two")
            frequency = pd.tseries.frequencies.to_offset(steps.mode().iloc[0]).freqstr
    try:
        _check_steps(path, ordered, pd.tseries.frequencies.to_offset(frequency), where)
        grid = pd.date_range(ordered[0], ordered[-1], freq=frequency)
    except DataError:
        raise
    except (ValueError, ZeroDivisionError, OverflowError):
        raise DataError(
            f"{path}: frequency {frequency!r} is unknown; give one of pandas, such as h, D, W or MS"
        ) from None
    places = grid.get_indexer(times)
    if (places < 0).any():
        wrong = times[int(np.flatnonzero(places < 0)[0])]
        raise DataError(
            f"{path}: time {wrong.isoformat()}{where} is between two steps of frequency {frequency!r}; "
            "give the right one with --freq, or round the times"
        )
    return grid, places, str(frequency)


def _check_steps(path: Path, ordered: Any, offset: Any, where: str) -> None:
    """Check that a wrong time, or a step that is too short, does not fill the memory with missing values."""
    second = ordered[0] + offset  # the first time can be before an anchor, such as the start of a month
    steps = int((ordered[-1] - ordered[0]) / (second + offset - second))
    if steps > MOST_STEPS * len(ordered):
        raise DataError(
            f"{path}: {len(ordered):,} rows{where} from {ordered[0].isoformat()} to {ordered[-1].isoformat()} have "
            f"{steps:,} steps of {offset.freqstr!r}, over the limit of {MOST_STEPS} per row; give a longer step with "
            "--freq, or correct the times"
        )


def _numbers(path: Path, frame: Any, name: str) -> NDArray[np.float64]:
    import pandas as pd

    numbers = pd.to_numeric(frame[name], errors="coerce").to_numpy(np.float64)
    wrong = (np.isnan(numbers) & frame[name].notna().to_numpy()) | np.isinf(numbers)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        place = FileLocation(str(path), int(frame.index[row]) + 2)
        raise DataError(
            f"{place}: {name!r} is {frame[name].iloc[row]!r}; give a number, or nothing where it is missing"
        )
    return numbers


def as_values(array: NDArray[np.float64]) -> tuple[float | None, ...]:
    """Return an array with None for NaN."""
    return tuple(None if math.isnan(number) else number for number in array.tolist())


def as_array(values: Sequence[float | None]) -> NDArray[np.float64]:
    """Return values with NaN for None."""
    return np.array([math.nan if number is None else number for number in values], np.float64)


def fit_sizes(series: Sequence[TimeSeries], *, segment: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a recipe that fit the series, by name, with those that are `given` unchanged.

    A segment is one season, or has `segment` values if none is known. The history and the horizon are as long as the
    series allow. Raises DataError for series that are too short for four segments.
    """
    frequency = series[0].frequency
    season = SEGMENTS.get(frequency.split("-")[0], season_of(frequency))
    segment = given.get("codec.segment", season if season >= SHORTEST_SEGMENT else segment)
    if not isinstance(segment, int) or segment < 1:
        return dict(given)  # the check of the recipe refuses it
    longest = max(len(one.values) for one in series)
    if longest < 4 * segment:
        raise DataError(
            f"the longest series has {longest} values, but {4 * segment} are needed, four segments of {segment}; give "
            "longer series, or shorter segments with --set codec.segment=N"
        )
    history, horizon = (
        segment * max(1, min(MOST_SEGMENTS, int(longest * share) // segment))
        for share in (HISTORY_SHARE, HORIZON_SHARE)
    )
    fitted = {"codec.segment": segment, "codec.longest": history}
    fitted |= {"forecast.horizon": horizon, "forecast.frequency": frequency}
    return {**given, **{name: value for name, value in fitted.items() if name not in given}}


def hold_out_ends(
    series: Sequence[TimeSeries], *, dev_share: float, horizon: int
) -> tuple[list[TimeSeries], list[TimeSeries]]:
    """Return the series without their ends, and whole series with `first` at the start of the end.

    An end is `dev_share` of a series, at least `horizon` values. A series that is too short for it is only trained on.
    Raises DataError if all are too short.
    """
    train, dev = [], []
    for one in series:
        cut = len(one.values) - max(round(dev_share * len(one.values)), horizon)
        if cut < horizon:
            train.append(one)
            continue
        train.append(one.until(cut))
        dev.append(one.starting_at(cut))
    if not dev:
        raise DataError(
            f"no series has {2 * horizon} values, so that none can be held out; give longer series, or forecast fewer "
            "values with --set forecast.horizon=N"
        )
    return train, dev


def windows(
    train: Sequence[TimeSeries], dev: Sequence[TimeSeries], codec: SeriesSpec, spec: ForecastSpec
) -> list[ForecastWindow]:
    """Return about WINDOWS evenly spaced windows of the development data, with histories of several lengths.

    Raises DataError if no window has a history of one segment and a number to forecast.
    """
    units = {one.name: deviation(one) for one in train}
    found: list[ForecastWindow] = []
    segments = codec.longest // codec.segment
    histories = [codec.segment * max(1, round(part * segments / MOST_SEGMENTS)) for part in HISTORIES]
    for one in dev:
        last = len(one.values) - codec.segment  # a window has at least one segment to forecast
        count = max(1, WINDOWS // len(dev))
        starts = np.unique(np.linspace(one.first, max(one.first, last), count).astype(int)).tolist()
        for number, start in enumerate(starts):
            history = one.values[max(0, start - histories[number % len(histories)]) : start]
            if len(history) < codec.segment or all(value is None for value in history):
                continue
            future = one.values[start : start + spec.horizon]
            if all(value is None for value in future):
                continue
            found.append(ForecastWindow(series=one.name, history=history, future=future, unit=units.get(one.name, 1.0)))
    if not found:
        raise DataError("no window of the development data has a history and a value to forecast; give longer series")
    return found


def deviation(series: TimeSeries) -> float:
    """Return the standard deviation of a series, the unit of its errors; 1 for a constant one."""
    values = as_array(series.values)
    return float(np.nanstd(values)) or 1.0 if not np.isnan(values).all() else 1.0


def rolling_windows(
    series: Sequence[TimeSeries], history: int, horizon: int, stride: int
) -> Iterator[tuple[str, Any, Any]]:
    """Yield the name, history and future of the windows that lie in a series from `first` on, as arrays."""
    for one in series:
        values = as_array(one.values)
        for start in range(max(one.first, history), len(values) - horizon + 1, stride):
            yield one.name, values[start - history : start], values[start : start + horizon]
