"""Routes for clients of Hugging Face: one model by URL, and the routes of text-embeddings-inference.

``/models/{id}`` and ``/models/{id}/{task}`` are what ``huggingface_hub`` calls as a custom endpoint::

    InferenceClient().text_classification("Who wrote Hamlet ?", model="http://localhost:3000/models/question-type")

Bodies and answers are those of the routes of the tasks. ``/embed``, ``/predict`` and ``/info`` serve clients of
text-embeddings-inference, which know one model; ``?model=`` chooses another.
"""

from dataclasses import replace
from typing import Annotated, Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from service import VERSION
from service.api import caption, forecast, native, schemas, sse, translate
from service.api.fields import AlwaysFalse, Null, Only, RequestModel, parameter
from service.api.pipeline import RequestContext
from service.api.request_headers import JSON, check_media
from service.api.routes import MODEL_QUERY, READ, Card, Docs, Route
from service.errors import InvalidRequest, UnknownModel
from service.model_runtime import ModelRuntime
from service.settings import Settings

GROUP, MODEL_GROUP = "Text embeddings inference", "One model"
TRUNCATE = "cut an input that is too long; otherwise it gets 413"
PredictInputs = Annotated[str | schemas.Strings | schemas.TokenLists, Field(union_mode="left_to_right")]
Right = Annotated[str, Only("right", "Right")]


class EmbedRequest(RequestModel):
    """Body of ``/embed``."""

    inputs: schemas.StringOrStrings
    model: schemas.ModelName | None = None
    normalize: bool | None = parameter("scale each vector to length 1", True)
    truncate: bool | None = parameter(TRUNCATE, False)
    dimensions: Annotated[int, Field(ge=1)] | None = parameter(
        "only the model's own width", unset="the width of the model"
    )
    truncation_direction: Right | None = None
    prompt_name: Null = None
    encoding_format: Annotated[str, Only("float")] | None = None


class PredictRequest(RequestModel):
    """Body of ``/predict``. A list of strings is one input, as in text-embeddings-inference."""

    inputs: PredictInputs
    model: schemas.ModelName | None = None
    truncate: bool | None = parameter(TRUNCATE, False)
    truncation_direction: Right | None = None
    raw_scores: AlwaysFalse | None = None


class LabelNames(TypedDict):
    """The labels of a classifier."""

    id2label: dict[str, str]
    label2id: dict[str, int]


class Info(TypedDict):
    """One model and the limits of the service. ``model_type`` has ``embedding``, ``classifier``, both, or neither."""

    model_id: str
    model_sha: str
    model_dtype: str
    served_model_name: str
    model_type: dict[str, LabelNames | dict[str, str]]
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    sha: str | None
    docker_label: str | None


async def embed(context: RequestContext, body: bytes) -> list[list[float]]:
    """Answer ``POST /embed``: one vector per input, also for a single one."""
    worker = context.worker
    request = await schemas.read_request(EmbedRequest, body, worker)
    model = context.choose_model(request.model, "embed")
    inputs = [request.inputs] if isinstance(request.inputs, str) else request.inputs
    vectors = await worker.engine.embed(inputs, model=model, truncate=bool(request.truncate), request=context.request)
    schemas.check_width(request.dimensions, len(vectors[0][0]) if vectors else None, model)
    prepare = _normalized if request.value_of("normalize") else np.asarray
    return [prepare(vector).tolist() for vector, _ in vectors]


def _normalized(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.linalg.norm(vector)
    return vector / length if length else vector


async def predict(context: RequestContext, body: bytes) -> Any:
    """Answer ``POST /predict``: the labels of one input, or a list of them for a batch."""
    worker = context.worker
    request = await schemas.read_request(PredictRequest, body, worker)
    model = context.choose_model(request.model, "classify")
    texts, is_batch = _texts(request.inputs)
    rows = await worker.engine.classify(texts, model=model, truncate=bool(request.truncate), request=context.request)
    answers = list(map(schemas.label_objects, rows))
    return answers if is_batch else answers[0]


def _texts(inputs: str | list[str] | list[list[str]]) -> tuple[list[str], bool]:
    """Return the texts, and whether they are a batch. Raises InvalidRequest for a pair of texts."""
    if isinstance(inputs, str):
        return [inputs], False
    is_batch = not inputs or isinstance(inputs[0], list)
    rows = cast(list[list[str]], inputs if is_batch else [inputs])
    for index, row in enumerate(rows):
        if len(row) != 1:
            message = f"{len(row)} texts are one input here; pairs are not offered; send a batch as [[text], [text]]"
            field = f"inputs[{index}]" if is_batch else "inputs"
            raise InvalidRequest(message, field=field, limit=1, value=len(row))
    return [text for (text,) in rows], is_batch


async def info(context: RequestContext, _: bytes) -> Info:
    """Answer ``GET /info``: the model of the query, else the one of ``/embed``, of ``/predict``, or the first."""
    worker = context.worker
    catalog, defaults = worker.engine.catalog, worker.default_models
    name = context.model_in_url or defaults.get("embed") or defaults.get("classify") or next(iter(catalog.runtimes))
    context.model = name
    return model_info(catalog.find(name), worker.settings)


def model_info(runtime: ModelRuntime, settings: Settings) -> Info:
    bundle, manifest = runtime.bundle, runtime.bundle.manifest
    labels = manifest.text_labels or manifest.labels
    names: LabelNames = {
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }
    kinds: dict[str, tuple[str, LabelNames | dict[str, str]]] = {
        "embed": ("embedding", {}),
        "classify": ("classifier", names),
    }
    return {
        "model_id": manifest.name,
        "model_sha": bundle.digest,
        "model_dtype": bundle.variant,
        "served_model_name": manifest.name,
        "model_type": dict(kinds[task] for task in kinds if task in runtime.tasks),
        "max_concurrent_requests": settings.queue_requests,
        "max_input_length": manifest.max_length,
        "max_batch_tokens": settings.batch_tokens,
        "max_batch_requests": settings.batch_rows,
        "max_client_batch_size": settings.inputs_max,
        "auto_truncate": False,
        "tokenization_workers": 1,
        "version": VERSION,
        "sha": None,
        "docker_label": None,
    }


def _example(card: Card, task: str) -> Any:
    text = card["examples"][0]
    return {"inputs": text, "model": card["id"]} if task in card["tasks"] and isinstance(text, str) else None


EMBED_DOCS = Docs(
    group=GROUP,
    summary="Embed texts",
    about="Returns a list of vectors, also for one text.",
    body=EmbedRequest,
    answer=list[list[float]],
    example=lambda card: _example(card, "embed"),
)
PREDICT_DOCS = Docs(
    group=GROUP,
    summary="Classify texts",
    about="A string returns a list of labels, and a batch `[[text], [text]]` a list of lists, best label first.",
    body=PredictRequest,
    answer=list[schemas.LabelObject] | list[list[schemas.LabelObject]],
    example=lambda card: _example(card, "classify"),
)
INFO_DOCS = Docs(group=GROUP, summary="Get one model and the limits", answer=Info, errors=(UnknownModel,))
EMBED = Route("/embed", ("POST",), embed, task="embed", docs=EMBED_DOCS)
TASK_ROUTES = (
    *(native.TAG, native.CLASSIFY, native.GENERATE, forecast.FORECAST_ROUTE),
    *(translate.TRANSLATE_ROUTE, caption.CAPTION, native.FILL, EMBED),
)
BY_TASK = {route.task: route for route in TASK_ROUTES}


async def _first_task(context: RequestContext, body: bytes) -> Any:
    """Answer with the first task of the model."""
    runtime = context.worker.engine.catalog.find(context.path_params["id"])
    route = BY_TASK[runtime.tasks[0]]
    check_media(context.headers, route.media)
    return await route.handler(context, body)


def _first_task_example(card: Card) -> Any:
    docs = BY_TASK[card["tasks"][0]].docs
    return docs.example(card) if docs is not None else None


def _with_model(route: Route) -> Route:
    """Return the route of one task for the model in the path."""
    assert route.docs is not None
    docs = replace(
        route.docs,
        group=MODEL_GROUP,
        about=f"As `{route.pattern}`, for the model in the path.",
        example=route.docs.example,
    )
    return replace(route, pattern=f"/models/{{id}}/{route.task}", docs=docs)


FIRST_TASK_DOCS = Docs(
    group=MODEL_GROUP,
    summary="Run the first task of a model",
    about="`InferenceClient` of `huggingface_hub` takes this URL as its `model`. The body and the answer are those of"
    " the model's first task: see `/v1/models`.",
    body=schemas.TagRequest
    | schemas.ClassifyRequest
    | schemas.GenerateRequest
    | forecast.ForecastRequest
    | translate.TranslateRequest
    | caption.CaptionRequest
    | native.FillRequest,
    answer=list[schemas.EntityObject]
    | list[list[schemas.EntityObject]]
    | list[list[schemas.LabelObject]]
    | schemas.GeneratedObject
    | list[schemas.GeneratedObject]
    | forecast.Predictions
    | list[translate.TranslationObject]
    | list[list[translate.TranslationObject]]
    | list[caption.CaptionObject]
    | list[list[caption.CaptionObject]]
    | native.FilledText
    | list[native.FilledText],
    event=sse.TokenEvent,
    example=_first_task_example,
    infers=True,
)
ROUTES = (
    Route(
        "/models/{id}",
        ("POST",),
        _first_task,
        media=(JSON, *caption.PICTURES),
        query=MODEL_QUERY,
        docs=FIRST_TASK_DOCS,
    ),
    *map(_with_model, BY_TASK.values()),
    EMBED,
    Route("/predict", ("POST",), predict, task="classify", docs=PREDICT_DOCS),
    Route("/info", READ, info, query=MODEL_QUERY, docs=INFO_DOCS),
)
