"""The native routes: ``/v1/tag``, ``/v1/classify``, ``/v1/generate`` and ``/v1/models``."""

from typing import Any

from service.api import schemas, sse
from service.api.model_cards import ModelCard, ModelList, model_cards
from service.api.pipeline import RequestContext
from service.api.problems import parameter_field, renamed_fields
from service.api.routes import READ, Docs, Route
from service.errors import UnknownModel, shown


async def _tag(context: RequestContext, body: bytes) -> Any:
    request = await schemas.read_request(schemas.TAG, body, context.worker.settings)
    context.model = request.model or context.worker.default_models.get("tag")
    answer = await context.worker.engine.tag(
        request.inputs, model=request.model, aggregation=request.aggregation, request=context.request
    )
    return schemas.tag_answer(answer)


async def _classify(context: RequestContext, body: bytes) -> Any:
    request = await schemas.read_request(schemas.CLASSIFY, body, context.worker.settings)
    context.model = request.model or context.worker.default_models.get("classify")
    rows = await context.worker.engine.classify(
        request.inputs, model=request.model, top_k=request.top_k, request=context.request
    )
    return list(map(schemas.label_objects, rows))


async def _generate(context: RequestContext, body: bytes) -> Any:
    request = await schemas.read_request(schemas.GENERATE, body, context.worker.settings)
    if request.stream:  # clients of Text Generation Inference ask for a stream on any route
        return await sse.stream_text(context, request)
    return await generate(context, request)


async def generate(context: RequestContext, request: schemas.GenerateRequest) -> Any:
    """Answer a request for whole texts."""
    context.model = request.model or context.worker.default_models.get("generate")
    options = schemas.generation_parameters(request.parameters, limit=context.worker.settings.max_new_tokens)
    with renamed_fields(parameter_field):
        answer = await context.worker.engine.generate(
            request.inputs, model=request.model, options=options, request=context.request
        )
    if request.is_from_tgi_client and not isinstance(answer, list):
        return schemas.tgi_answer(answer)
    return schemas.generate_answer(answer, with_state=options.return_state)


async def _models(context: RequestContext, _: bytes) -> Any:
    return {"object": "list", "data": model_cards(context.worker.engine)}


async def _model(context: RequestContext, _: bytes) -> Any:
    name = context.path_params["id"]
    cards = {card["id"]: card for card in model_cards(context.worker.engine)}
    if name not in cards:
        message = f"there is no model {shown(name)!r}; the models are {', '.join(cards)}"
        raise UnknownModel(message, value=name, available=list(cards))
    context.model = name
    return cards[name]


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


MODELS_DOCS = Docs(group="Models", summary="List the models, defaults first", answer=ModelList)
MODEL_DOCS = Docs(group="Models", summary="Get one model", answer=ModelCard)
TAG = Route("/v1/tag", ("POST",), _tag, task="tag", docs=TAG_DOCS)
CLASSIFY = Route("/v1/classify", ("POST",), _classify, task="classify", docs=CLASSIFY_DOCS)
GENERATE = Route("/v1/generate", ("POST",), _generate, task="generate", docs=GENERATE_DOCS)
ROUTES = (
    TAG,
    CLASSIFY,
    GENERATE,
    Route("/v1/models", READ, _models, docs=MODELS_DOCS),
    Route("/v1/models/{id}", READ, _model, docs=MODEL_DOCS),
)
