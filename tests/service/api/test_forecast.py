"""Forecasts over HTTP: the shapes of Chronos-2 and of Nixtla's client, and what is refused by name."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import zstandard
from nixtla import NixtlaClient
from nixtla.nixtla_client import ApiError

from models import load
from service.api.forecast import add_steps, step_of
from service.errors import InvalidRequest
from tests.support.uvicorn_thread import served_in_thread

TARGET = [5.8, 5.7, None, 6.1, 5.9]
HOURS = pd.date_range("2026-01-01", periods=30, freq="h")
FRAME = zstandard.compress(b"{}")
FREQUENCIES = ["s", "15min", "h", "3h", "D", "B", "2W", "MS", "ME", "QS", "QE", "YS", "YE"]


@pytest.fixture(scope="module")
def client(tiny_forecaster: Path) -> Iterator[httpx.Client]:
    with served_in_thread(tiny_forecaster) as address, httpx.Client(base_url=address) as client:
        yield client


def post(client: httpx.Client, target: Any = TARGET, **parameters: Any) -> httpx.Response:
    return client.post("/v1/forecast", json={"inputs": [{"target": target}], "parameters": parameters})


def test_one_series_is_forecast_as_in_process(client: httpx.Client, tiny_forecaster: Path) -> None:
    (prediction,) = post(client, prediction_length=3).json()["predictions"]
    forecast = load(tiny_forecaster)(TARGET, prediction_length=3)
    assert prediction == {"mean": forecast.mean, **forecast.quantiles}


def test_the_defaults_are_one_step_and_three_quantiles(client: httpx.Client) -> None:
    (prediction,) = post(client).json()["predictions"]
    assert {name: len(values) for name, values in prediction.items()} == {"mean": 1, "0.1": 1, "0.5": 1, "0.9": 1}


def test_each_dimension_is_forecast_like_a_series_of_its_own(client: httpx.Client) -> None:
    other = [1.0, 2.0, 4.0, 3.0, 2.0]
    (both,) = post(client, [TARGET, other], prediction_length=2).json()["predictions"]
    alone = [post(client, target, prediction_length=2).json()["predictions"][0] for target in (TARGET, other)]
    assert both == {name: [one[name] for one in alone] for name in alone[0]}


def test_the_answer_starts_after_the_last_value(client: httpx.Client) -> None:
    body = {
        "inputs": [{"target": [*TARGET, 6.0], "item_id": "a", "start": "2018-06-26T19:00:00"}],
        "parameters": {"freq": "h", "prediction_length": 2},
    }
    (prediction,) = client.post("/v1/forecast", json=body).json()["predictions"]
    assert (prediction["item_id"], prediction["start"]) == ("a", "2018-06-27T01:00:00")


def test_a_model_is_asked_by_its_own_url(client: httpx.Client) -> None:
    body = {"inputs": [{"target": TARGET}]}
    assert client.post("/models/tiny-forecast", json=body).json() == client.post("/v1/forecast", json=body).json()


def test_no_series_has_no_prediction(client: httpx.Client) -> None:
    assert client.post("/v1/forecast", json={"inputs": []}).json() == {"predictions": []}


@pytest.mark.parametrize(
    ("target", "field"),
    [
        ([None] * 5, "inputs[0].target"),
        ([1.0, 2.0], "inputs[0].target"),
        ([], "inputs[0].target"),
        ([[1.0] * 5, [1.0] * 4], "inputs[0].target[1]"),
        ([1.0, 2.0, 3.0, 1e39], "inputs[0].target"),
        ([1.0, 2.0, 3.0, True], "inputs[0].target"),
        ("1234", "inputs[0].target"),
    ],
)
def test_a_target_that_cannot_be_forecast_is_named(client: httpx.Client, target: Any, field: str) -> None:
    answer = post(client, target)
    assert (answer.status_code, answer.json()["field"]) == (422, field)


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [("prediction_length", 0, 1), ("prediction_length", 9, 8), ("quantile_levels", [0.01], None), ("freq", 5, None)],
)
def test_a_parameter_out_of_range_is_named(client: httpx.Client, name: str, value: Any, limit: Any) -> None:
    answer = post(client, **{name: value})
    assert answer.status_code == 422
    assert answer.json()["field"] == f"parameters.{name}"
    assert answer.json().get("limit") == limit


@pytest.mark.parametrize(
    ("more", "parameters", "field"),
    [
        ({"start": "2026-01-01"}, {}, "parameters.freq"),
        ({"start": "2026-01-01"}, {"freq": "fortnight"}, "parameters.freq"),
        ({"start": "soon"}, {"freq": "h"}, "inputs[0].start"),
        ({"start": "9999-12-31"}, {"freq": "999999YS"}, "parameters.freq"),
        ({"start": "2026-01-01"}, {"freq": "999999B"}, "parameters.freq"),
        ({}, {"freq": "fortnight"}, "parameters.freq"),
        ({"past_covariates": {"a": [1]}}, {}, "inputs[0].past_covariates"),
    ],
)
def test_a_start_needs_a_frequency_and_covariates_are_refused(
    client: httpx.Client, more: dict[str, Any], parameters: dict[str, Any], field: str
) -> None:
    body = {"inputs": [{"target": TARGET, **more}], "parameters": parameters}
    answer = client.post("/v1/forecast", json=body)
    assert (answer.status_code, answer.json()["field"]) == (422, field)


def test_an_answer_of_too_many_values_is_refused(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.engine.FORECAST_VALUES_MAX", 16)
    body = {"inputs": [{"target": TARGET}] * 2, "parameters": {"prediction_length": 2}}  # 2 · 2 · (1 + 3) values
    assert client.post("/v1/forecast", json=body).status_code == 200
    body["parameters"] = {"prediction_length": 3}
    answer = client.post("/v1/forecast", json=body)
    assert (answer.status_code, answer.json()["value"], answer.json()["limit"]) == (413, 24, 16)


def test_a_repeated_item_id_is_refused(client: httpx.Client) -> None:
    answer = client.post("/v1/forecast", json={"inputs": [{"target": TARGET, "item_id": "a"}] * 2})
    assert (answer.status_code, answer.json()["field"]) == (422, "inputs[1].item_id")


@pytest.mark.parametrize("frequency", FREQUENCIES)
@pytest.mark.parametrize("day", ["2024-01-01", "2023-12-31"])
def test_a_frequency_steps_as_in_pandas(frequency: str, day: str) -> None:
    expected = pd.date_range(day, periods=6, freq=frequency)
    assert add_steps(expected[0].to_pydatetime(), frequency, 5) == expected[5]


def test_a_frequency_that_pandas_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        add_steps(datetime(2026, 1, 1), "h2", 1)


@pytest.mark.parametrize(
    ("freq", "status"),
    [("h", 200), ("H", 200), ("60min", 200), (None, 200), ("15min", 422), ("2h", 422), ("D", 422), ("MS", 422)],
)
def test_another_step_than_that_of_the_model_is_refused(client: httpx.Client, freq: str | None, status: int) -> None:
    native = post(client, freq=freq)
    nixtla = client.post("/v2/forecast", json={"series": {"y": [1, 2, 3, 4], "sizes": [4]}, "h": 2, "freq": freq})
    assert (native.status_code, nixtla.status_code) == (status, status)
    if status == 422:
        assert [native.json()[name] for name in ("field", "value", "limit")] == ["parameters.freq", freq, "h"]
        assert nixtla.json()["field"] == "freq"


@pytest.mark.parametrize(
    ("one", "other"), [("D", "24h"), ("W-SUN", "7D"), ("ME", "MS"), ("QS-OCT", "3M"), ("T", "60s")]
)
def test_two_names_of_one_step_are_equal(one: str, other: str) -> None:
    assert step_of(one) == step_of(other) is not None


def long_frame(names: str, hours: pd.DatetimeIndex = HOURS) -> pd.DataFrame:
    waves = {name: np.sin(np.arange(len(hours)) / (3 + place)) for place, name in enumerate(names)}
    parts = [pd.DataFrame({"unique_id": name, "ds": hours, "y": values}) for name, values in waves.items()]
    return pd.concat(parts, ignore_index=True)


def test_nixtla_s_client_gets_the_numbers_of_the_native_route(client: httpx.Client) -> None:
    nixtla = NixtlaClient(base_url=str(client.base_url), api_key="-", max_retries=1)
    frame = long_frame("ab")
    answer = nixtla.forecast(frame, h=4, freq="h", model="tiny-forecast", level=[80])
    for name, rows in answer.groupby("unique_id"):
        values = frame.y[frame.unique_id == name].astype(np.float32).tolist()
        (native,) = post(client, values, prediction_length=4, quantile_levels=[0.1, 0.9]).json()["predictions"]
        found = [rows[column].tolist() for column in ("TimeGPT", "TimeGPT-lo-80", "TimeGPT-hi-80")]
        assert found == [native["mean"], native["0.1"], native["0.9"]]
        assert rows.ds.iloc[0] == HOURS[-1] + pd.Timedelta(hours=1)


def test_nixtla_s_client_learns_which_models_exist(client: httpx.Client) -> None:
    nixtla = NixtlaClient(base_url=str(client.base_url), api_key="-", max_retries=1)
    with pytest.raises(ApiError) as caught:
        nixtla.forecast(long_frame("a"), h=4, freq="h")
    assert caught.value.status_code == 404
    assert caught.value.body["available"] == ["tiny-forecast"]


def test_nixtla_s_client_sends_missing_values_but_no_missing_times(client: httpx.Client) -> None:
    nixtla = NixtlaClient(base_url=str(client.base_url), api_key="-", max_retries=1)
    frame = long_frame("a")
    frame.loc[3, "y"] = np.nan
    assert len(nixtla.forecast(frame, h=4, freq="h", model="tiny-forecast")) == 4
    with pytest.raises(ValueError, match="missing"):
        nixtla.forecast(frame.drop(index=5), h=4, freq="h", model="tiny-forecast")


def test_nixtla_bodies_are_read_with_zstd(client: httpx.Client) -> None:
    body = b'{"series": {"y": [1, 2, 3, 4, 5], "sizes": [5]}, "h": 2}'
    plain = client.post("/v2/forecast", content=body)
    compressed = client.post("/v2/forecast", content=zstandard.compress(body), headers={"content-encoding": "zstd"})
    assert plain.status_code == 200
    assert compressed.json() == plain.json()


@pytest.mark.parametrize("damage", [b"", FRAME[:4], FRAME[:-1], FRAME * 2])
def test_a_body_that_is_not_one_zstd_frame_is_refused(client: httpx.Client, damage: bytes) -> None:
    answer = client.post("/v2/forecast", content=damage, headers={"content-encoding": "zstd"})
    assert answer.status_code == 422


def test_a_zstd_bomb_is_too_large(client: httpx.Client) -> None:
    bomb = zstandard.compress(bytes(100_000_000))
    answer = client.post("/v2/forecast", content=bomb, headers={"content-encoding": "zstd"})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"series": {"y": [1, 2, 3, 4], "sizes": [3]}}, "series.sizes"),
        ({"h": 9}, "h"),
        ({"level": [99]}, "level"),
        ({"finetune_steps": 5}, "finetune_steps"),
        ({"multivariate": True}, "multivariate"),
    ],
)
def test_what_nixtla_has_and_a_bundle_has_not_is_refused(
    client: httpx.Client, change: dict[str, Any], field: str
) -> None:
    body = {"series": {"y": [1, 2, 3, 4], "sizes": [4]}, "h": 2, **change}
    answer = client.post("/v2/forecast", json=body)
    assert (answer.status_code, answer.json()["field"]) == (422, field)
