"""The routes that no framework serves, those of every dialect: JSON in, engine, JSON out, with nothing in between.

A framework's middleware costs several times what a small model needs for its answer. Knows what the bodies are;
knows nothing of how the engine answers, nor of how bytes come and go.
"""

from dataclasses import replace
from typing import Any

import orjson

from service.api import answers, oip, openai_completions, openai_embeddings, openapi, schemas, sse
from service.api.asgi import AsgiLink, Receive, Scope, Send, head_of
from service.api.model_cards import ModelCard, ModelList
from service.api.problems import OIP_ERROR
from service.api.request_context import Link, RequestContext
from service.api.request_headers import Head
from service.api.routes import READ, Docs, EventStream, Reply, Route, Routes
from service.errors import NotFound, ServiceError, UnknownModel, shown
from service.worker import Worker


async def _tag(context: RequestContext, body: bytes) -> Any:
    request = schemas.parse_request(schemas.TAG, body, context.worker.settings)
    context.model = request.model or context.worker.default_model("tag")
    answer = await context.worker.engine.tag(
        request.inputs, model=request.model, aggregation=request.aggregation, request=context.request
    )
    return answers.tag_answer(answer)


async def _classify(context: RequestContext, body: bytes) -> Any:
    request = schemas.parse_request(schemas.CLASSIFY, body, context.worker.settings)
    context.model = request.model or context.worker.default_model("classify")
    rows = await context.worker.engine.classify(
        request.inputs, model=request.model, top_k=request.top_k, request=context.request
    )
    return list(map(answers.label_objects, rows))


async def _generate(context: RequestContext, body: bytes) -> Any:
    settings = context.worker.settings
    request = schemas.parse_request(schemas.GENERATE, body, settings)
    if request.stream:  # as clients of Text Generation Inference ask for it, whatever the route
        return await sse.stream_text(context, request)
    context.model = request.model or context.worker.default_model("generate")
    options = schemas.generate_options(request.parameters, limit=settings.max_new_tokens)
    answer = await context.worker.engine.generate(
        request.inputs, model=request.model, options=options, request=context.request
    )
    return answers.generate_answer(answer, with_state=options.return_state)


async def _models(context: RequestContext, _: bytes) -> Any:
    return {"object": "list", "data": context.worker.engine.cards()}


async def _model(context: RequestContext, _: bytes) -> Any:
    name = context.path_params["id"]
    cards = {card["id"]: card for card in context.worker.engine.cards()}
    if name not in cards:
        raise UnknownModel(
            f"there is no model {shown(name)!r}; there are {', '.join(cards)}", value=name, available=list(cards)
        )
    context.model = name
    return cards[name]


async def _unknown(context: RequestContext, _: bytes) -> Any:
    available = [route.pattern for route in ROUTES.all]
    raise NotFound(f"there is no route {shown(context.path)}", available=available)


TAG_DOCS = Docs(
    group="Tag, classify, generate",
    summary="Label every step: word, letter, base or frame",
    about="One input gives a list; a list of inputs gives a list of lists, in its order.",
    body=schemas.TagRequest,
    answer=list[answers.EntityObject] | list[list[answers.EntityObject]],
    example=schemas.example("tag"),
)
CLASSIFY_DOCS = Docs(
    group="Tag, classify, generate",
    summary="Score every label of the whole",
    about="One list of labels an input, best first.",
    body=schemas.ClassifyRequest,
    answer=list[list[answers.LabelObject]],
    example=schemas.example("classify"),
)
GENERATE_DOCS = Docs(
    group="Tag, classify, generate",
    summary="Continue a text",
    about="A list of prompts gives a list of texts, in its order.",
    body=schemas.GenerateRequest,
    answer=answers.GeneratedObject | list[answers.GeneratedObject],
    event=sse.TokenEvent,
    example=schemas.example("generate"),
)


async def _document(context: RequestContext, _: bytes) -> Any:
    gate = context.worker.gate
    keys = gate is not None and gate.wants_keys
    return Reply(body=orjson.dumps(openapi.document(DOCUMENTED, context.worker.engine.cards(), keys=keys)))


MODELS_DOCS = Docs(group="Models", summary="The bundles that are served, defaults first", answer=ModelList)
MODEL_DOCS = Docs(group="Models", summary="One bundle", answer=ModelCard)
DOCUMENT_DOCS = Docs(group=openapi.PAGES_GROUP, summary="This document", answer=dict[str, Any])

ROUTES = Routes(
    (
        Route("/v1/tag", ("POST",), _tag, task="tag", docs=TAG_DOCS),
        Route("/v1/classify", ("POST",), _classify, task="classify", docs=CLASSIFY_DOCS),
        Route("/v1/generate", ("POST",), _generate, task="generate", docs=GENERATE_DOCS),
        *sse.ROUTES,
        Route("/v1/models", READ, _models, docs=MODELS_DOCS),
        Route("/v1/models/{id}", READ, _model, docs=MODEL_DOCS),
        *openai_completions.ROUTES,
        *openai_embeddings.ROUTES,
        *oip.ROUTES,
        Route("/docs.json", READ, _document, docs=DOCUMENT_DOCS),
    )
)
# As the document lists them: those that BentoML's API machinery answers take and answer the same.
DOCUMENTED = (
    *ROUTES.all,
    *(replace(ROUTES.literal[f"/v1/{task}"], pattern=f"/{task}") for task in ("tag", "classify", "generate")),
)
# One label for all the paths that clients make up, in the dialect of those who read the answer.
UNKNOWN = Route("unknown", (), _unknown)
UNKNOWN_V2 = Route("unknown", (), _unknown, dialect=OIP_ERROR)


class Lean:
    """Answers every request under /v1/ and /v2/, and with 404 every path that nobody else has."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request as an ASGI application."""
        link = AsgiLink(receive, send)
        try:
            await self.answer(head_of(scope), link)
        finally:
            link.close()

    async def answer(self, head: Head, link: Link) -> None:
        """Answer one HTTP request. Raises nothing but what the link raises."""
        found, names = ROUTES.find(head.path)
        route = found or (UNKNOWN_V2 if head.path.startswith("/v2/") else UNKNOWN)
        context = RequestContext(self.worker, route.pattern, head, link, path_params=names, dialect=route.dialect)
        try:
            try:
                if route.methods:
                    context.check(route.methods, media=route.media if route.reads_body else (), key=not route.public)
                if route.task:
                    self.worker.engine.check_room(route.task)
                body = await context.read() if route.reads_body else b""
                answer = await route.handler(context, body)
                if isinstance(answer, EventStream):
                    await context.stream(answer.media, answer.chunks, answer.on_error)
                    return
                reply = answer if isinstance(answer, Reply) else Reply(body=orjson.dumps(answer))
            except ServiceError as error:
                await context.refuse(error)
            except Exception as error:
                await context.refuse(context.failed(error))
            else:
                await context.answer(reply.body, reply.media, reply.headers)
        finally:
            context.close()
