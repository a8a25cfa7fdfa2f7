"""OpenAI's ``/v1/embeddings``: the pooled hidden state of an encoder for each text."""

import base64
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from service.api import schemas
from service.api.pipeline import RequestContext
from service.api.problems import OPENAI_ERROR, openai_field, renamed_fields
from service.api.routes import Docs, Route
from service.errors import InvalidRequest


class EmbeddingRequest(schemas.RequestModel):
    """Body of ``/v1/embeddings``. ``base64`` returns the numbers as little-endian float32."""

    input: schemas.StringOrStrings
    model: schemas.ModelName | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = Field(default=None, description="only the model's own width")
    user: str | None = Field(default=None, description="accepted and not used")


EMBEDDING: TypeAdapter[EmbeddingRequest] = TypeAdapter(EmbeddingRequest)


class EmbeddingObject(TypedDict):
    """The vector of one input, as numbers or as base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(TypedDict):
    """Tokens of all inputs: words, characters or bases."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(TypedDict):
    """One vector per input, in order."""

    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str | None
    usage: EmbeddingUsage


async def embed(context: RequestContext, body: bytes) -> Any:
    """Answer ``POST /v1/embeddings``."""
    worker = context.worker
    request = await schemas.PARSER.run(schemas.parse_body, EMBEDDING, body, worker.settings, size=len(body))
    context.model = request.model or worker.default_models.get("embed")
    single = isinstance(request.input, str)
    schemas.check_input_count(1 if single else len(request.input), worker.settings, field="input")
    with renamed_fields(openai_field("input", single=single)):
        vectors = await worker.engine.embed(request.input, model=request.model, request=context.request)
    width = len(vectors[0][0]) if vectors else request.dimensions
    if request.dimensions not in (None, width):
        message = f"{request.dimensions} is not available; {context.model} returns {width}; leave it out"
        raise InvalidRequest(message, field="dimensions", limit=width, value=request.dimensions)
    as_base64 = request.encoding_format == "base64"
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_base64 else vector.tolist(),
        }
        for index, (vector, _) in enumerate(vectors)
    ]
    tokens = sum(length for _, length in vectors)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": context.model, "usage": usage}


def _example(card: Any) -> Any:
    text = card["examples"][0]
    return {"model": card["id"], "input": text} if "embed" in card["tasks"] and isinstance(text, str) else None


DOCS = Docs(
    group="OpenAI",
    summary="Embed texts (OpenAI embeddings)",
    body=EmbeddingRequest,
    answer=EmbeddingList,
    example=_example,
)
ROUTES = (Route("/v1/embeddings", ("POST",), embed, task="embed", error_format=OPENAI_ERROR, docs=DOCS),)
