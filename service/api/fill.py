"""The route of gaps, ``/v1/fill``, in the shape of Hugging Face's fill-mask."""

from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from models.tasks import FilledGap
from models.tasks.fill import DEFAULT_WORDS, MOST_TARGETS
from service.api import schemas
from service.api.fields import RequestModel, parameter
from service.api.pipeline import RequestContext
from service.api.routes import Docs, Route


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
_DEFAULTS = FillParameters()


async def _fill(context: RequestContext, body: bytes) -> Any:
    request = await schemas.read_request(FillRequest, body, context.worker)
    parameters = request.parameters or _DEFAULTS
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


FILL_DOCS = Docs(
    group="Fill",
    summary="Fill the gaps of a text",
    about="In the shape of Hugging Face's fill-mask: a list of words, best first. A text with several gaps returns a"
    " list for each gap, and a list of texts returns a list with the answer to each.",
    body=FillRequest,
    answer=FilledText | list[FilledText],
    example=schemas.example("fill"),
)
FILL = Route("/v1/fill", ("POST",), _fill, task="fill", docs=FILL_DOCS)
ROUTES = (FILL,)
