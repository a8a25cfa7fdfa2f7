"""One model by URL: ``/models/{id}`` and ``/models/{id}/{task}``, as ``huggingface_hub`` calls a custom endpoint.

For example::

    InferenceClient().text_classification("Who wrote Hamlet ?", model="http://localhost:3000/models/question-type")

Bodies and answers are those of the routes of the tasks.
"""

from dataclasses import replace
from typing import Any

from service.api import forecast, native, schemas, sse, tei
from service.api.pipeline import RequestContext
from service.api.routes import MODEL_QUERY, Card, Docs, Route
from service.errors import UnknownModel

GROUP = "One model"
BY_TASK = {
    route.task: route for route in (native.TAG, native.CLASSIFY, native.GENERATE, forecast.FORECAST_ROUTE, tei.EMBED)
}


async def _first_task(context: RequestContext, body: bytes) -> Any:
    """Answer with the first task of the model."""
    name, runtimes = context.path_params["id"], context.worker.engine.runtimes
    if name not in runtimes:
        raise UnknownModel.named(name, runtimes)
    return await BY_TASK[runtimes[name].tasks[0]].handler(context, body)


def _example(card: Card) -> Any:
    return {"inputs": card["examples"][0]}


def _with_model(route: Route) -> Route:
    """Return the route of one task for the model in the path."""
    assert route.docs is not None
    docs = replace(
        route.docs,
        group=GROUP,
        about=f"As `{route.pattern}`, for the model in the path.",
        example=lambda card: _example(card) if route.task in card["tasks"] else None,
    )
    return replace(route, pattern=f"/models/{{id}}/{route.task}", docs=docs)


FIRST_TASK_DOCS = Docs(
    group=GROUP,
    summary="Run the first task of a model",
    about="`InferenceClient` of `huggingface_hub` takes this URL as its `model`. The body and the answer are those of"
    " the model's first task: see `/v1/models`.",
    body=schemas.TagRequest | schemas.ClassifyRequest | schemas.GenerateRequest | forecast.ForecastRequest,
    answer=list[schemas.EntityObject]
    | list[list[schemas.EntityObject]]
    | list[list[schemas.LabelObject]]
    | schemas.GeneratedObject
    | list[schemas.GeneratedObject]
    | forecast.Predictions,
    event=sse.TokenEvent,
    example=_example,
)
ROUTES = (
    Route("/models/{id}", ("POST",), _first_task, query=MODEL_QUERY, docs=FIRST_TASK_DOCS),
    *map(_with_model, BY_TASK.values()),
)
