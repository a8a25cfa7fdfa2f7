"""OpenAI's /v1/embeddings: the vector that a bundle makes of a text before it names it. Knows no HTTP and no model."""

import base64
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from service.api import schemas
from service.api.openai import OPENAI, named
from service.api.request_context import RequestContext
from service.api.routes import Docs, Route
from service.errors import InvalidRequest, TooLarge


class EmbeddingRequest(schemas.Body):
    """Body of ``/v1/embeddings``. ``base64``: the numbers as little-endian float32."""

    input: schemas.Texts
    model: schemas.ModelName | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = Field(default=None, description="only as many as there are")
    user: str | None = Field(default=None, description="accepted and not used")


EMBEDDING: TypeAdapter[EmbeddingRequest] = TypeAdapter(EmbeddingRequest)


class Embedding(TypedDict):
    """The vector of one input: numbers, or with ``base64`` their bytes."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(TypedDict):
    """Steps that were read: words, characters or bases."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingAnswer(TypedDict):
    """One vector an input, in their order."""

    object: Literal["list"]
    data: list[Embedding]
    model: str | None
    usage: EmbeddingUsage


async def _embed(exchange: RequestContext, body: bytes) -> Any:
    worker = exchange.worker
    asked: EmbeddingRequest = schemas.validated(EMBEDDING, body)
    exchange.model = asked.model or worker.default_model("embed")
    count, most = 1 if isinstance(asked.input, str) else len(asked.input), worker.settings.inputs_max
    if count > most:
        said = f"{count} inputs in one request; the limit is {most}: send several requests"
        raise TooLarge(said, field="input", limit=most, value=count)
    with named("input", alone=isinstance(asked.input, str)):
        found = await worker.engine.embed(asked.input, model=asked.model, request=exchange.call)
    width = len(found[0][0]) if found else asked.dimensions
    if asked.dimensions not in (None, width):
        said = f"dimensions is {asked.dimensions}, but {exchange.model} gives {width}: leave it out"
        raise InvalidRequest(said, field="dimensions", limit=width, value=asked.dimensions)
    coded = asked.encoding_format == "base64"
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode() if coded else vector.tolist(),
        }
        for index, (vector, _) in enumerate(found)
    ]
    steps = sum(steps for _, steps in found)
    usage = {"prompt_tokens": steps, "total_tokens": steps}
    return {"object": "list", "data": data, "model": exchange.model, "usage": usage}


def _example(card: Any) -> Any:
    text = card["examples"][0]
    return {"model": card["id"], "input": text} if "embed" in card["tasks"] and isinstance(text, str) else None


DOCS = Docs(
    group="OpenAI",
    summary="The vector of a text, as OpenAI's embeddings",
    body=EmbeddingRequest,
    answer=EmbeddingAnswer,
    example=_example,
)
ROUTES = (Route("/v1/embeddings", ("POST",), _embed, reads=True, task="embed", dialect=OPENAI, docs=DOCS),)
