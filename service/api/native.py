"""The native routes: ``/v1/tag``, ``/v1/classify``, ``/v1/generate``, ``/v1/fill`` and ``/v1/models``."""

from datetime import UTC, datetime, time
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from models.manifest import ForecastSpec
from models.tasks import FilledGap
from models.tasks.fill import DEFAULT_WORDS, MOST_TARGETS
from service.api import schemas, sse
from service.api.fields import RequestModel, parameter
from service.api.pipeline import RequestContext
from service.api.problems import parameter_field, renamed_fields
from service.api.routes import READ, Docs, Route
from service.engine import Engine
from service.model_runtime import ModelRuntime


class FillParameters(RequestModel):
    """Scores are probabilities over all words, also with ``targets``."""

    top_k: Annotated[int, Field(ge=1, le=100_000)] | None = parameter(
        "words for each gap; the model has a limit", unset=f"{DEFAULT_WORDS}, or all targets"
    )
    targets: Annotated[list[str], Field(max_length=MOST_TARGETS, fail_fast=True)] | None = parameter(
        "score only these words, which the model must have", ()
    )


class FillRequest(schemas.NativeRequest):
    """Body of ``/v1/fill``. A gap is ``[MASK]`` or ``<mask>``."""

    inputs: schemas.StringOrStrings
    model: schemas.ModelName | None = None
    parameters: FillParameters | None = None


class FilledObject(TypedDict):
    """One word for a gap. ``token`` is its row in the vocabulary, and ``sequence`` the text with the word."""

    score: float
    token: int
    token_str: str
    sequence: str


# The words of the only gap of a text, or those of each gap.
FilledText = list[FilledObject] | list[list[FilledObject]]
_FILL_DEFAULTS = FillParameters()


class CardLimits(TypedDict):
    """``max_length``: the most words, characters, bases or frames in one input."""

    max_length: int


class CardPair(TypedDict):
    """The languages of one direction of a translator."""

    source: str
    target: str


class CardForecast(TypedDict):
    """What a forecaster answers. ``horizon``: the most values. ``frequency``: of the values, such as h."""

    horizon: int
    quantile_levels: list[float]
    frequency: str


class ModelCard(TypedDict):
    """The default version of a model, or the version that the path names.

    ``versions``: those that are loaded. ``aliases``: the version of each alias.
    ``streams``: whether ``WS /v1/stream`` accepts it. ``delay``: how many frames later a stream labels a frame.
    ``frame_rate``: frames per second, null if not known. ``embeddings``: the width of its vectors, 0 for none.
    ``scores``: those of each variant. ``metric``: the main one of them.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    task: str
    tasks: list[str]
    description: str
    languages: list[str]
    pairs: list[CardPair]
    codec: str
    labels: list[str]
    text_labels: list[str]
    limits: CardLimits
    forecast: CardForecast | None
    version: str
    versions: list[str]
    aliases: dict[str, str]
    digest: str
    variant: str
    streams: bool
    delay: int
    frame_rate: float | None
    embeddings: int
    metric: str
    scores: dict[str, dict[str, float]]
    examples: list[Any]


class ModelList(TypedDict):
    """The bundles in the order of the settings. The first that can do a task is its default."""

    object: Literal["list"]
    data: list[ModelCard]


def model_cards(engine: Engine) -> list[ModelCard]:
    """Return the card of every loaded bundle, in the order of the settings."""
    return [model_card(engine, runtime) for runtime in engine.runtimes.values()]


def model_card(engine: Engine, runtime: ModelRuntime) -> ModelCard:
    served = engine.catalog.models[runtime.name]
    bundle, manifest = runtime.bundle, runtime.bundle.manifest
    created = datetime.combine(manifest.provenance.created, time(), tzinfo=UTC)
    return {
        "id": manifest.name,
        "object": "model",
        "created": int(created.timestamp()),
        "owned_by": "seqserve",
        "task": manifest.task,
        "tasks": list(runtime.tasks),
        "description": manifest.description,
        "languages": list(manifest.languages),
        "pairs": [{"source": pair.source, "target": pair.target} for pair in manifest.pairs],
        "codec": manifest.reads.kind,
        "labels": list(manifest.labels),
        "text_labels": list(manifest.text_labels),
        "streams": manifest.streams,
        "delay": getattr(manifest.codec, "delay", 0),
        "frame_rate": getattr(manifest.codec, "frame_rate", None),
        "embeddings": manifest.embedding_width,
        "limits": {"max_length": manifest.max_length},
        "forecast": _forecast(manifest.forecast),
        "version": manifest.version,
        "versions": list(served.versions),
        "aliases": dict(served.aliases),
        "digest": bundle.digest,
        "variant": bundle.variant,
        "metric": manifest.metric,
        "scores": {name: variant.scores for name, variant in manifest.variants.items()},
        "examples": [example.inputs for example in manifest.examples],
    }


def _forecast(spec: ForecastSpec | None) -> CardForecast | None:
    if spec is None:
        return None
    return {"horizon": spec.horizon, "quantile_levels": list(spec.quantile_levels), "frequency": spec.frequency}


async def _tag(context: RequestContext, body: bytes) -> Any:
    request = await schemas.read_request(schemas.TagRequest, body, context.worker)
    model = context.choose_model(request.model, "tag")
    answer = await context.worker.engine.tag(
        request.inputs,
        model=model,
        aggregation=request.aggregation,
        frame_rate=request.frame_rate,
        request=context.request,
    )
    return schemas.tag_answer(answer)


async def _classify(context: RequestContext, body: bytes) -> Any:
    request = await schemas.read_request(schemas.ClassifyRequest, body, context.worker)
    model = context.choose_model(request.model, "classify")
    rows = await context.worker.engine.classify(
        request.inputs, model=model, top_k=request.top_k, request=context.request
    )
    return list(map(schemas.label_objects, rows))


async def _generate(context: RequestContext, body: bytes) -> Any:
    request = await schemas.read_request(schemas.GenerateRequest, body, context.worker)
    if request.stream:  # clients of Text Generation Inference ask for a stream on any route
        return await sse.stream_text(context, request)
    return await generate(context, request)


async def generate(context: RequestContext, request: schemas.GenerateRequest) -> Any:
    """Answer a request for whole texts."""
    model = context.choose_model(request.model, "generate")
    options = schemas.generation_parameters(request.parameters, limit=context.worker.settings.max_new_tokens)
    with renamed_fields(parameter_field):
        answer = await context.worker.engine.generate(
            request.inputs, model=model, options=options, request=context.request
        )
    if request.is_from_tgi_client and not isinstance(answer, list):
        return schemas.tgi_answer(answer)
    return schemas.generate_answer(answer, with_state=options.return_state)


async def _fill(context: RequestContext, body: bytes) -> Any:
    request = await schemas.read_request(FillRequest, body, context.worker)
    parameters = request.parameters or _FILL_DEFAULTS
    found = await context.worker.engine.fill(
        request.inputs,
        model=context.choose_model(request.model, "fill"),
        top_k=parameters.top_k,
        targets=parameters.value_of("targets"),
        fields=("parameters.top_k", "parameters.targets"),
        request=context.request,
    )
    return _objects(found)


def _objects(answer: Any) -> Any:
    """Return an answer, or a list of answers, with an object for each word."""
    return answer._asdict() if isinstance(answer, FilledGap) else list(map(_objects, answer))


async def _models(context: RequestContext, _: bytes) -> Any:
    return {"object": "list", "data": model_cards(context.worker.engine)}


async def _model(context: RequestContext, _: bytes) -> Any:
    context.model = context.path_params["id"]
    engine = context.worker.engine
    return model_card(engine, engine.catalog.find(context.model))


TAG_DOCS = Docs(
    group="Tag, classify, generate",
    summary="Label every word, character, base or frame",
    about="One input returns a list; a list of inputs returns a list of lists, in order.",
    body=schemas.TagRequest,
    answer=list[schemas.EntityObject] | list[list[schemas.EntityObject]],
    example=schemas.example("tag"),
)
CLASSIFY_DOCS = Docs(
    group="Tag, classify, generate",
    summary="Score the labels of a whole input",
    about="Returns one list of labels per input, best first.",
    body=schemas.ClassifyRequest,
    answer=list[list[schemas.LabelObject]],
    example=schemas.example("classify"),
)
GENERATE_DOCS = Docs(
    group="Tag, classify, generate",
    summary="Continue a text",
    about="A list of prompts returns a list of texts, in order.",
    body=schemas.GenerateRequest,
    answer=schemas.GeneratedObject | list[schemas.GeneratedObject],
    event=sse.TokenEvent,
    example=schemas.example("generate"),
)
FILL_DOCS = Docs(
    group="Fill",
    summary="Fill the gaps of a text",
    about="In the shape of Hugging Face's fill-mask: a list of words, best first. A text with several gaps returns a"
    " list for each gap, and a list of texts returns a list with the answer to each.",
    body=FillRequest,
    answer=FilledText | list[FilledText],
    example=schemas.example("fill"),
)

MODELS_DOCS = Docs(group="Models", summary="List the models, defaults first", answer=ModelList)
MODEL_DOCS = Docs(group="Models", summary="Get one model", answer=ModelCard)
TAG = Route("/v1/tag", ("POST",), _tag, task="tag", docs=TAG_DOCS)
CLASSIFY = Route("/v1/classify", ("POST",), _classify, task="classify", docs=CLASSIFY_DOCS)
GENERATE = Route("/v1/generate", ("POST",), _generate, task="generate", docs=GENERATE_DOCS)
FILL = Route("/v1/fill", ("POST",), _fill, task="fill", docs=FILL_DOCS)
ROUTES = (
    TAG,
    CLASSIFY,
    GENERATE,
    FILL,
    Route("/v1/models", READ, _models, docs=MODELS_DOCS),
    Route("/v1/models/{id}", READ, _model, docs=MODEL_DOCS),
)
