"""The routes of forecasts: ``/v1/forecast`` in the shape of Chronos-2, and what ``nixtla.NixtlaClient`` sends.

https://github.com/amazon-science/chronos-forecasting and https://github.com/Nixtla/nixtla document these shapes.
"""

import itertools
import re
from calendar import monthrange
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Annotated, Any, NamedTuple, NotRequired

import numpy as np
from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from models.tasks import Forecast
from models.tasks.forecast import DEFAULT_LEVELS
from service.api import schemas
from service.api.fields import AlwaysFalse, Null, RequestModel, Zero, parameter
from service.api.pipeline import RequestContext
from service.api.routes import READ, Docs, Route
from service.api.schemas import ModelName
from service.errors import InvalidRequest, UnknownModel, shown

# Numbers may be NaN or infinite here: the codec rejects infinity and can name the place.
Values = Annotated[list[Annotated[float, Field(allow_inf_nan=True)] | None], Field(fail_fast=True)]
Channels = Annotated[list[Values], Field(fail_fast=True, min_length=1)]
Target = Annotated[Values | Channels, Field(union_mode="left_to_right")]
Level = Annotated[float, Field(gt=0, lt=1)]
FREQUENCY = re.compile(r"([1-9]\d{0,5})?([A-Za-z]+)(?:-[A-Z]{3})?")
# Frequencies as pandas spells them, old names included. A month or a longer period starts or ends with its last letter.
STEPS: Mapping[str, timedelta] = {
    "s": timedelta(seconds=1),
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
MONTHS: Mapping[str, int] = {"M": 1, "Q": 3, "Y": 12, "A": 12}
SECONDS, BUSINESS_DAYS, MONTH_UNIT = "s", "b", "M"
NO_TIME = datetime(2000, 1, 1)
MOST_LEVELS = 20


class Step(NamedTuple):
    """The time between two values: a count of seconds, business days or months."""

    unit: str
    size: int


class SeriesInput(RequestModel):
    """One series: a list of values, or one list per dimension. null is a missing value."""

    target: Target
    item_id: str | None = parameter("name of the series, repeated in the answer")
    start: str | None = parameter("ISO 8601 time of the first value; needs `freq`")
    past_covariates: Null = None
    future_covariates: Null = None


class ForecastParameters(RequestModel):
    """A quantile level between two that the model was trained on is interpolated."""

    prediction_length: Annotated[int, Field(ge=1)] | None = parameter("values to forecast", 1)
    quantile_levels: Annotated[list[Level], Field(min_length=1, max_length=MOST_LEVELS)] | None = parameter(
        "levels of the quantiles, within those of the model", list(DEFAULT_LEVELS)
    )
    freq: str | None = parameter(
        "time between two values, as pandas spells it: `h`, `15min`, `D`, `MS`; that of the model's training data",
        unset="no `start` in the answer",
    )
    batch_size: Null = None
    cross_learning: AlwaysFalse | None = None


class ForecastRequest(RequestModel):
    """Body of ``/v1/forecast``."""

    inputs: list[SeriesInput]
    model: ModelName | None = None
    parameters: ForecastParameters | None = None


# A prediction also has a key for each quantile level, such as "0.1", with as many values as "mean".
Prediction = TypedDict(
    "Prediction",
    {
        "mean": list[float] | list[list[float]],
        "0.1": NotRequired[list[float] | list[list[float]]],
        "0.5": NotRequired[list[float] | list[list[float]]],
        "0.9": NotRequired[list[float] | list[list[float]]],
        "item_id": NotRequired[str],
        "start": NotRequired[str],
    },
)


class Predictions(TypedDict):
    """One prediction per input, in order."""

    predictions: list[Prediction]


class NixtlaSeries(RequestModel):
    """Several series in one list of values: ``sizes`` has the length of each."""

    y: Values
    sizes: list[Annotated[int, Field(ge=0)]]
    X: Null = None
    X_future: Null = None
    start_datetime: list[str] | None = None
    categorical_exog: Null = None


class NixtlaRequest(RequestModel):
    """Body of ``/v2/forecast``."""

    series: NixtlaSeries
    model: ModelName | None = None
    h: Annotated[int, Field(ge=1)]
    freq: str | None = None
    level: Annotated[list[Annotated[float, Field(gt=0, lt=100)]], Field(max_length=MOST_LEVELS)] | None = None
    clean_ex_first: bool | None = None
    finetune_steps: Zero | None = None
    finetune_depth: int | None = None
    finetune_loss: str | None = None
    finetuned_model_id: Null = None
    feature_contributions: AlwaysFalse | None = None
    multivariate: AlwaysFalse | None = None
    model_parameters: Null = None


class NixtlaAnswer(TypedDict):
    """The values of all series in one list, and the bounds of each interval, such as ``lo-80`` and ``hi-80``."""

    mean: list[float]
    intervals: dict[str, list[float]] | None
    weights_x: None


class NixtlaSizes(TypedDict):
    """The longest history that is read, and the longest forecast."""

    input_size: int
    horizon: int


class NixtlaModel(TypedDict):
    """What the client asks for before it sends series."""

    detail: NixtlaSizes


_DEFAULTS = ForecastParameters()


async def _forecast(context: RequestContext, body: bytes) -> Any:
    request = await schemas.read_request(ForecastRequest, body, context.worker)
    parameters = request.parameters or _DEFAULTS
    starts = _forecast_starts(request.inputs, parameters.freq)
    channels = [_channels(one.target, index) for index, one in enumerate(request.inputs)]
    length = parameters.value_of("prediction_length")
    found = iter(
        await _run(
            context,
            request.model,
            [(f"inputs[{index}].target", each) for index, part in enumerate(channels) for each in part],
            length,
            tuple(parameters.value_of("quantile_levels")),
            parameters.freq,
            ("parameters.prediction_length", "parameters.quantile_levels", "parameters.freq"),
        )
    )
    predictions = []
    for one, part, start in zip(request.inputs, channels, starts, strict=True):
        forecasts = [next(found) for _ in part]
        prediction = _prediction(forecasts, single=not _has_dimensions(one.target))
        if one.item_id is not None:
            prediction["item_id"] = one.item_id
        if start is not None:
            prediction["start"] = start.isoformat()
        predictions.append(prediction)
    return {"predictions": predictions}


async def _run(
    context: RequestContext,
    model: str | None,
    series: Sequence[tuple[str, list[float | None]]],
    length: int,
    levels: Sequence[float],
    freq: str | None,
    fields: tuple[str, str, str],
) -> list[Forecast]:
    """Return the forecast of each series. `fields` are the names of `length`, `levels` and `freq` in the request."""
    schemas.check_input_count(len(series), context.worker.settings)
    chosen = context.choose_model(model, "forecast")
    _check_frequency(context, chosen, freq, fields[-1])
    return await context.worker.engine.forecast(
        [values for _, values in series],
        names=[name for name, _ in series],
        model=chosen,
        length=length,
        levels=levels,
        fields=fields[:2],
        request=context.request,
    )


def _has_dimensions(target: Any) -> bool:
    return bool(target) and isinstance(target[0], list)


def _steps(target: Any) -> int:
    return len(target[0] if _has_dimensions(target) else target)


def _channels(target: Any, index: int) -> list[list[float | None]]:
    """Return the values of each dimension. Raises InvalidRequest unless all have the same count."""
    if not _has_dimensions(target):
        return [target]
    for number, channel in enumerate(target):
        if len(channel) != len(target[0]):
            raise InvalidRequest(
                f"has {len(channel)} values, but the first dimension has {len(target[0])}; send equally many",
                field=f"inputs[{index}].target[{number}]",
                value=len(channel),
                limit=len(target[0]),
            )
    return list(target)


def _forecast_starts(inputs: Sequence[SeriesInput], freq: str | None) -> list[datetime | None]:
    """Return the time of the first forecast of each series with a ``start``.

    Raises InvalidRequest for a repeated ``item_id``, a time or a frequency that cannot be read, and a ``start`` without
    ``freq``.
    """
    seen: set[str] = set()
    starts: list[datetime | None] = []
    for index, one in enumerate(inputs):
        if one.item_id is not None and one.item_id in seen:
            raise InvalidRequest(
                f"{shown(one.item_id)!r} is there twice; give each series its own",
                field=f"inputs[{index}].item_id",
                value=one.item_id,
            )
        if one.item_id is not None:
            seen.add(one.item_id)
        if one.start is not None and freq is None:
            raise InvalidRequest(
                "missing, but a series has a start; send the time between two values, such as h or D",
                field="parameters.freq",
            )
        if one.start is not None and freq is not None:
            starts.append(add_steps(_time(one.start, f"inputs[{index}].start"), freq, _steps(one.target)))
        else:
            starts.append(None)
    if freq is not None:
        add_steps(NO_TIME, freq, 0)
    return starts


def _prediction(forecasts: Sequence[Forecast], *, single: bool) -> dict[str, Any]:
    parts = [{"mean": each.mean, **each.quantiles} for each in forecasts]
    return dict(parts[0]) if single else {name: [part[name] for part in parts] for name in parts[0]}


def _time(text: str, field: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(
            f"{shown(text)!r} is not a time; send ISO 8601, such as 2026-01-31T12:00:00", field=field, value=text
        ) from None


def step_of(freq: str) -> Step | None:
    """Return the step of a frequency as pandas spells it, or None if it has none.

    Anchors do not count: a month is the same step if it starts or ends the period.
    """
    match = FREQUENCY.fullmatch(freq)
    factor, unit = (int(match[1] or 1), match[2]) if match else (0, "")
    if (step := STEPS.get("min" if unit == "T" else unit.lower())) is not None:
        return Step(SECONDS, factor * int(step.total_seconds()))
    if unit.lower() == BUSINESS_DAYS:
        return Step(BUSINESS_DAYS, factor)
    if (months := MONTHS.get(unit[:1])) is not None and unit[1:] in ("", "S", "E"):
        return Step(MONTH_UNIT, months * factor)
    return None


def add_steps(start: datetime, freq: str, count: int) -> datetime:
    """Return the time `count` steps after `start`. Raises InvalidRequest for a frequency that pandas does not have."""
    if (step := step_of(freq)) is None:
        raise InvalidRequest(
            f"{shown(freq)!r} is not a frequency; send one of pandas, such as h, 15min, D, B, W, MS, QE or YS",
            field="parameters.freq",
            value=freq,
            available=["s", "min", "h", "D", "B", "W", "MS", "ME", "QS", "QE", "YS", "YE"],
        )
    try:
        if step.unit == SECONDS:
            return start + timedelta(seconds=step.size) * count
        if step.unit == MONTH_UNIT:
            return _add_months(start, step.size * count, to_end=not freq.split("-")[0].endswith("S"))
        day = np.busday_offset(start.date(), step.size * count, roll="forward").astype(object)
        if not isinstance(day, date):  # numpy returns a number past the year 9999
            raise OverflowError
        return datetime.combine(day, start.timetz())
    except (OverflowError, ValueError):
        message = f"{shown(freq)!r} leads past the year 9999; send a shorter one"
        raise InvalidRequest(message, field="parameters.freq", value=freq) from None


def _check_frequency(context: RequestContext, model: str | None, freq: str | None, field: str) -> None:
    """Raise InvalidRequest for another step than that of the model's training data, if both are known.

    A model knows the season of its own step only, and the clients show no warning.
    """
    runtime = context.worker.engine.runtime_for("forecast", model)
    spec = runtime.bundle.manifest.forecast
    assert spec is not None
    known, asked = step_of(spec.frequency), step_of(freq or "")
    if known is None or asked is None or known == asked:
        return
    raise InvalidRequest(
        f"{shown(freq)!r} is not the step of {runtime.name}, which was trained on {spec.frequency!r}; send values of "
        "that step, name another model, or train one on your data",
        field=field,
        value=freq,
        limit=spec.frequency,
    )


def _add_months(start: datetime, months: int, *, to_end: bool) -> datetime:
    year, month = divmod(12 * start.year + start.month - 1 + months, 12)
    last = monthrange(year, month + 1)[1]
    return start.replace(year=year, month=month + 1, day=last if to_end else min(start.day, last))


async def _nixtla(context: RequestContext, body: bytes) -> Any:
    request = await context.worker.parser.run(
        schemas.parse_body, NixtlaRequest, body, context.worker.settings, size=len(body)
    )
    y, sizes = request.series.y, request.series.sizes
    if sum(sizes) != len(y):
        raise InvalidRequest(
            f"the sizes add up to {sum(sizes)}, but y has {len(y)} values; send the size of each series",
            field="series.sizes",
            value=sum(sizes),
            limit=len(y),
        )
    ends = itertools.accumulate(sizes)
    cut = [y[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    series = [(f"series.y, series {index}", values) for index, values in enumerate(cut)]
    bounds = [(f"{level:g}", (0.5 - level / 200, 0.5 + level / 200)) for level in request.level or ()]
    levels = sorted({round(bound, 6) for _, pair in bounds for bound in pair}) or DEFAULT_LEVELS
    found = await _run(context, request.model, series, request.h, levels, request.freq, ("h", "level", "freq"))
    intervals: dict[str, list[float]] = {}
    for name, (low, high) in bounds:
        for side, bound in (("lo", low), ("hi", high)):
            key = f"{round(bound, 6):g}"
            intervals[f"{side}-{name}"] = [value for each in found for value in each.quantiles[key]]
    mean = [value for each in found for value in each.mean]
    return {"mean": mean, "intervals": intervals or None, "weights_x": None}


async def _model_params(context: RequestContext, _: bytes) -> Any:
    runtime = context.worker.engine.runtime_for("forecast", context.choose_model(None, "forecast"))
    spec, codec = runtime.bundle.manifest.forecast, runtime.bundle.manifest.codec
    assert spec is not None
    assert codec.kind == "series"
    return {"detail": {"input_size": codec.longest, "horizon": spec.horizon}}


FORECAST_DOCS = Docs(
    group="Forecast",
    summary="Forecast series of numbers",
    about="In the shape of Chronos-2. One prediction per input: the mean, and a list for each quantile level.",
    body=ForecastRequest,
    answer=Predictions,
    example=lambda card: (
        {"inputs": [{"target": card["examples"][0]}], "model": card["id"], "parameters": {"prediction_length": 3}}
        if "forecast" in card["tasks"]
        else None
    ),
)
NIXTLA_DOCS = Docs(
    group="Forecast",
    summary="Forecast series, for nixtla.NixtlaClient",
    about="All series are in one list. Intervals are returned for each `level` in percent.",
    body=NixtlaRequest,
    answer=NixtlaAnswer,
)
NIXTLA_MODEL_DOCS = Docs(
    group="Forecast",
    summary="Get the sizes of a forecaster, for nixtla.NixtlaClient",
    answer=NixtlaModel,
    errors=(UnknownModel,),
)
FORECAST_ROUTE = Route("/v1/forecast", ("POST",), _forecast, task="forecast", docs=FORECAST_DOCS)
ROUTES = (
    FORECAST_ROUTE,
    Route("/v2/forecast", ("POST",), _nixtla, task="forecast", docs=NIXTLA_DOCS),
    Route("/model_params", READ, _model_params, task="forecast", query=("model", "freq"), docs=NIXTLA_MODEL_DOCS),
)
