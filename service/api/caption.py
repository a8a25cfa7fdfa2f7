"""The routes of captions, in the shape of Hugging Face: of pictures, or of vectors from the client's own network.

``InferenceClient.image_to_text`` sends the file of a picture as the body. JSON has files in base64, pixels or vectors.
"""

from dataclasses import replace
from functools import partial
from typing import Annotated, Any, NamedTuple, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from models.inputs import PICTURE_DEPTH, first_value
from service.api import schemas
from service.api.pipeline import RequestContext
from service.api.request_headers import JPEG, JSON, PNG, media_of
from service.api.routes import Docs, EventStream, Route
from service.api.translate import (
    GROUP,
    STREAM_DOCS,
    CaptionParameters,
    DetailsObject,
    answer,
    ask,
    stream_text,
    text_objects,
)
from service.errors import InvalidRequest
from service.model_runtime import ModelRuntime

PICTURES = (PNG, JPEG)
SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")  # first bytes of PNG and JPEG, which need no media type
Pictures = Annotated[list[schemas.FrameLists], Field(fail_fast=True)]
# left_to_right: only empty lists fit several shapes.
CaptionInputs = Annotated[
    schemas.StringOrStrings | schemas.Numbers | schemas.Frames | schemas.FrameLists | Pictures,
    Field(union_mode="left_to_right"),
]


class CaptionRequest(schemas.NativeRequest):
    """Body of ``/v1/caption``.

    For a model of pictures: a file in base64, the rows of its pixels, or a list of pictures. For one of vectors: one
    vector, the vectors of one input, or a list of such inputs.
    """

    inputs: CaptionInputs
    model: schemas.ModelName | None = None
    parameters: CaptionParameters | None = None


class CaptionObject(TypedDict):
    """One caption."""

    generated_text: str
    details: NotRequired[DetailsObject]


_NO_PARAMETERS = CaptionParameters()
caption_objects = partial(text_objects, "generated_text")


class Asked(NamedTuple):
    """A request: one input, or several, with the parameters and the model."""

    inputs: Any
    single: bool
    given: CaptionParameters
    runtime: ModelRuntime


async def _caption(context: RequestContext, body: bytes) -> Any:
    inputs, single, given, runtime = await _read(context, body)
    found = await ask(
        context.worker,
        "caption",
        [inputs] if single else inputs,
        given,
        model=runtime,
        single=single,
        request=context.request,
    )
    return answer(found, caption_objects, given.generate_parameters, single=single)


async def _caption_stream(context: RequestContext, body: bytes) -> EventStream:
    inputs, single, given, runtime = await _read(context, body)
    if not single:
        raise InvalidRequest("a stream has one input; send one, and one request per input", field="inputs")
    return await stream_text(context, "caption", inputs, given, model=runtime)


async def _read(context: RequestContext, body: bytes) -> Asked:
    """Read a file or JSON. Raises InvalidRequest for a picture if the model reads vectors."""
    worker = context.worker
    if _is_file(context, body):
        inputs: Any = body
        named, given = None, _NO_PARAMETERS
    else:
        request = await worker.parser.run(schemas.parse_body, CaptionRequest, body, worker.settings, size=len(body))
        inputs, named, given = request.inputs, request.model, request.parameters or _NO_PARAMETERS
    runtime = worker.engine.runtime_for("caption", context.choose_model(named, "caption"))
    reads = runtime.reads.kind
    if reads != "image" and isinstance(inputs, str | bytes):
        raise InvalidRequest(
            f"{runtime.name} reads vectors, not pictures; send a list of numbers, or name a model of pictures",
            field="inputs",
        )
    single = _is_one(inputs, PICTURE_DEPTH if reads == "image" else PICTURE_DEPTH - 1)
    return Asked(inputs, single, given, runtime)


def _is_file(context: RequestContext, body: bytes) -> bool:
    """Return whether the body is the file of a picture, by its media type or, without one, by its first bytes."""
    media = media_of(context.headers)
    return media in PICTURES or (not media and body.startswith(SIGNATURES))


def _is_one(inputs: Any, depth: int) -> bool:
    """Return whether this is one input: a file, or numbers in lists of at most this depth."""
    if not isinstance(inputs, list):
        return True
    value, found = first_value(inputs)
    return not isinstance(value, str) and 0 < found <= depth


CAPTION = Route(
    "/v1/caption",
    ("POST",),
    _caption,
    task="caption",
    media=(JSON, *PICTURES),
    docs=Docs(
        group=GROUP,
        summary="Describe pictures or vectors",
        about="The body can also be the file of one picture, in PNG or JPEG. One input returns a list of one caption.",
        body=CaptionRequest,
        answer=list[CaptionObject] | list[list[CaptionObject]],
        example=schemas.example("caption"),
    ),
)
STREAM = replace(
    CAPTION,
    pattern="/v1/caption_stream",
    handler=_caption_stream,
    docs=replace(
        STREAM_DOCS,
        summary="Describe a picture or vectors, with one event per token",
        body=CaptionRequest,
        example=schemas.example("caption"),
    ),
)
ROUTES = (CAPTION, STREAM)
