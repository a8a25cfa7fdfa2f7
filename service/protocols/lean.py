"""The routes under /v1/: JSON in, engine, JSON out, with no framework in between.

A raw ASGI application: a framework's middleware costs several times what a small model needs for its answer.
Knows what the bodies are; knows nothing of how the engine answers.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson

from service.errors import NotFound, ServiceError, UnknownModel, shown
from service.protocols import schemas
from service.protocols.exchange import Exchange, Receive, Scope, Send
from service.worker import Worker


async def _tag(exchange: Exchange, body: bytes) -> Any:
    request = schemas.parse(schemas.TAG, body, exchange.worker.settings)
    exchange.model = request.model or exchange.worker.default_model("tag")
    return await exchange.worker.engine.tag(
        request.inputs, model=request.model, aggregation=request.aggregation, call=exchange.call
    )


async def _classify(exchange: Exchange, body: bytes) -> Any:
    request = schemas.parse(schemas.CLASSIFY, body, exchange.worker.settings)
    exchange.model = request.model or exchange.worker.default_model("classify")
    return await exchange.worker.engine.classify(
        request.inputs, model=request.model, top_k=request.top_k, call=exchange.call
    )


async def _generate(exchange: Exchange, body: bytes) -> Any:
    settings = exchange.worker.settings
    request = schemas.parse(schemas.GENERATE, body, settings)
    exchange.model = request.model or exchange.worker.default_model("generate")
    options = schemas.options(request.parameters, limit=settings.max_new_tokens)
    return await exchange.worker.engine.generate(
        request.inputs, model=request.model, options=options, call=exchange.call
    )


async def _models(exchange: Exchange, _: bytes) -> Any:
    return {"object": "list", "data": exchange.worker.engine.cards()}


async def _model(exchange: Exchange, _: bytes) -> Any:
    name = exchange.scope["path"].removeprefix(MODEL_PREFIX)
    cards = {card["id"]: card for card in exchange.worker.engine.cards()}
    if name not in cards:
        raise UnknownModel(
            f"there is no model {shown(name)!r}; there are {', '.join(cards)}", value=name, available=list(cards)
        )
    exchange.model = name
    return cards[name]


@dataclass(frozen=True, slots=True)
class Route:
    """A path, or a pattern of paths, and what answers it."""

    pattern: str
    methods: tuple[str, ...]
    run: Callable[[Exchange, bytes], Awaitable[Any]]
    reads: bool  # whether it has a body


READ = ("GET", "HEAD")
MODEL_PREFIX = "/v1/models/"
MODEL = Route("/v1/models/{id}", READ, _model, reads=False)
ROUTES = {
    route.pattern: route
    for route in (
        Route("/v1/tag", ("POST",), _tag, reads=True),
        Route("/v1/classify", ("POST",), _classify, reads=True),
        Route("/v1/generate", ("POST",), _generate, reads=True),
        Route("/v1/models", READ, _models, reads=False),
    )
}


async def _unknown(exchange: Exchange, _: bytes) -> Any:
    path = exchange.scope["path"]
    available = [*ROUTES, MODEL.pattern]
    raise NotFound(f"there is no route {shown(path)}", available=available)


UNKNOWN = Route("unknown", (), _unknown, reads=False)  # one label for all the paths that clients make up


class Lean:
    """The ASGI application. Also answers, with 404, every path that nobody else has."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        route = self._route(scope["path"])
        exchange = Exchange(self.worker, route.pattern, scope, receive, send)
        try:
            try:
                if route.methods:
                    exchange.check(route.methods, body=route.reads)
                body = await exchange.read() if route.reads else b""
                answer = orjson.dumps(await route.run(exchange, body))
            except ServiceError as error:
                await exchange.refuse(error)
            except Exception as error:
                await exchange.refuse(exchange.failed(error))
            else:
                await exchange.answer(answer)
        finally:
            exchange.close()

    def _route(self, path: str) -> Route:
        known = ROUTES.get(path)
        if known is not None:
            return known
        return MODEL if path.startswith(MODEL_PREFIX) and len(path) > len(MODEL_PREFIX) else UNKNOWN
