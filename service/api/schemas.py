"""The bodies of tag, classify and generate: what is accepted, and what is said about what is not.

Shapes as ``huggingface_hub.InferenceClient`` sends them. A field whose meaning is not honoured is refused by
name; one that asks for nothing (``stream: false``, ``do_sample: true``) is accepted. Knows no HTTP.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from service.errors import InvalidRequest, TooLarge, Value, shown
from service.generation import GenerateOptions
from service.inputs import are_one
from service.settings import Settings

# A list stops at its first bad element: a megabyte of them would otherwise make a megabyte of errors.
Strings = Annotated[list[str], Field(fail_fast=True)]
Texts = str | Strings
Tokenised = Annotated[list[Strings], Field(fail_fast=True)]
# A number that is not finite is the codec's affair: it can say which one it is.
Numbers = Annotated[list[Annotated[float, Field(allow_inf_nan=True)]], Field(fail_fast=True)]
Frames = Annotated[list[Numbers], Field(fail_fast=True)]
FrameLists = Annotated[list[Frames], Field(fail_fast=True)]
# The first that fits is taken: but for empty lists no two shapes fit the same, and text need not wait until numbers
# were tried.
AnyInputs = Annotated[Texts | Tokenised | Frames | FrameLists, Field(union_mode="left_to_right")]
WholeInputs = Annotated[Texts | Frames | FrameLists, Field(union_mode="left_to_right")]
PieceInputs = Annotated[str | Strings | Numbers | Frames, Field(union_mode="left_to_right")]
ModelName = Annotated[str, Field(min_length=1, max_length=128)]
ERRORS_READ = 64  # with more errors than this in one body, only their number is reported


def _no(value: bool) -> bool:
    if value:
        raise ValueError("is not offered: send false or leave it out")
    return value


# Literal[False] would take a 0 for it.
No = Annotated[bool, AfterValidator(_no), WithJsonSchema({"type": "boolean", "const": False})]


class Body(BaseModel):
    """An object in a request: no field that has no meaning, no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class StreamMessage(Body):
    """A message of ``/v1/stream``. The first that is good opens the stream, with inputs or without."""

    model: ModelName | None = None
    state: str | None = None
    inputs: PieceInputs | None = None
    return_state: bool | None = None


class TagParameters(Body):
    """``none``: an answer for every token; ``simple``: merged spans, where the bundle has them."""

    aggregation_strategy: Literal["none", "simple"] | None = None


class TagRequest(Body):
    """Body of ``/tag``."""

    inputs: AnyInputs
    model: ModelName | None = None
    parameters: TagParameters | None = None

    @property
    def aggregation(self) -> str | None:
        """The aggregation strategy that was asked for."""
        return self.parameters.aggregation_strategy if self.parameters else None


class ClassifyParameters(Body):
    """``top_k``: how many labels, all by default. Scores are always probabilities over all labels."""

    top_k: Annotated[int, Field(ge=1, le=100_000)] | None = None
    function_to_apply: Literal["softmax"] | None = None


class ClassifyRequest(Body):
    """Body of ``/classify``."""

    inputs: WholeInputs
    model: ModelName | None = None
    parameters: ClassifyParameters | None = None

    @property
    def top_k(self) -> int | None:
        """The number of labels that was asked for."""
        return self.parameters.top_k if self.parameters else None


class GenerateParameters(Body):
    """How to draw. ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 keep the whole vocabulary."""

    max_new_tokens: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="0, with return_state: read only"
    )
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=16)] | None = None
    return_full_text: bool | None = None
    details: bool | None = None
    do_sample: bool | None = Field(default=None, description="false: greedy, whatever the temperature")
    state: str | None = Field(default=None, description="of an earlier answer: the text that this one goes on with")
    return_state: bool | None = Field(default=None, description="true: the answer has a state to go on from")
    decoder_input_details: No | None = None
    watermark: No | None = None


class GenerateRequest(Body):
    """Body of ``/generate``."""

    inputs: Texts
    model: ModelName | None = None
    parameters: GenerateParameters | None = None
    stream: bool | None = Field(default=None, description="true: the answer of /v1/generate_stream, on /v1/ only")


NEW_TOKENS = 100  # max_new_tokens of a request that says nothing, as Text Generation Inference has it
_NOTHING_ASKED = GenerateParameters()


def options(parameters: GenerateParameters | None, *, limit: int) -> GenerateOptions:
    """Return what the engine is asked for; ``limit`` is the highest max_new_tokens. Raises InvalidRequest."""
    asked = parameters or _NOTHING_ASKED
    new_tokens = min(NEW_TOKENS, limit) if asked.max_new_tokens is None else asked.max_new_tokens
    if new_tokens > limit:
        raise InvalidRequest(
            f"parameters.max_new_tokens is {shown(new_tokens)}; at most {limit} are generated for one request",
            field="parameters.max_new_tokens",
            limit=limit,
            value=new_tokens,
        )
    if not new_tokens and not asked.return_state:
        raise InvalidRequest(
            "parameters.max_new_tokens is 0, which only has an answer with return_state: ask for 1 at least",
            field="parameters.max_new_tokens",
            limit=1,
            value=0,
        )
    temperature = 1.0 if asked.temperature is None else asked.temperature
    return GenerateOptions(
        max_new_tokens=new_tokens,
        temperature=0.0 if asked.do_sample is False else temperature,
        top_k=asked.top_k or 0,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        seed=asked.seed,
        stop=tuple(asked.stop or ()),
        return_full_text=bool(asked.return_full_text),
        details=bool(asked.details),
        state=asked.state,
        return_state=bool(asked.return_state),
    )


class Entity(TypedDict):
    """One token (``entity``) or one span (``entity_group``); ``start``, ``end`` are character offsets."""

    entity: NotRequired[str]
    entity_group: NotRequired[str]
    score: float
    word: str
    start: int
    end: int


class LabelScore(TypedDict):
    """One label and its probability."""

    label: str
    score: float


class Generated(TypedDict):
    """One generated text."""

    generated_text: str
    details: NotRequired[dict[str, Any]]
    state: NotRequired[str | None]


TAG: TypeAdapter[TagRequest] = TypeAdapter(TagRequest)
CLASSIFY: TypeAdapter[ClassifyRequest] = TypeAdapter(ClassifyRequest)
GENERATE: TypeAdapter[GenerateRequest] = TypeAdapter(GenerateRequest)


Schema = dict[str, Any]


def _list_of(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _one_of(*schemas: Schema) -> WithJsonSchema:
    """Return the documentation of a union.

    BentoML's pages and client take ``anyOf``, pydantic's form, for its first member: they would document a
    list as a string, and its client would read a dictionary as a list.
    """
    return WithJsonSchema({"oneOf": list(schemas)})


_TEXT: Schema = {"type": "string"}
_ENTITY = TypeAdapter(Entity).json_schema()
_GENERATED = TypeAdapter(Generated).json_schema()
_FRAMES = _list_of(_list_of({"type": "number"}))
_FRAME_INPUTS = (_FRAMES, _list_of(_FRAMES))
TagInputs = Annotated[AnyInputs, _one_of(_TEXT, _list_of(_TEXT), _list_of(_list_of(_TEXT)), *_FRAME_INPUTS)]
ClassifyInputs = Annotated[WholeInputs, _one_of(_TEXT, _list_of(_TEXT), *_FRAME_INPUTS)]
TextInputs = Annotated[Texts, _one_of(_TEXT, _list_of(_TEXT))]
TagAnswer = Annotated[list[Entity] | list[list[Entity]], _one_of(_list_of(_ENTITY), _list_of(_list_of(_ENTITY)))]
GenerateAnswer = Annotated[Generated | list[Generated], _one_of(_GENERATED, _list_of(_GENERATED))]


def example(task: str) -> Callable[[Mapping[str, Any]], Any]:
    """Return what makes a request for ``task`` out of a bundle's card; None for a bundle of another task."""

    def of(card: Mapping[str, Any]) -> Any:
        if task not in card["tasks"]:
            return None
        return {"inputs": card["examples"][0], "model": card["id"]}

    return of


T = TypeVar("T", TagRequest, ClassifyRequest, GenerateRequest)


def validated(adapter: TypeAdapter[Any], body: bytes) -> Any:
    """Return what is in ``body``. Raises InvalidRequest."""
    try:
        return adapter.validator.validate_json(body)  # TypeAdapter.validate_json adds as much again
    except ValidationError as error:
        raise invalid(error) from None


def parse(adapter: TypeAdapter[T], body: bytes, settings: Settings) -> T:
    """Return the request in ``body``. Raises InvalidRequest, and TooLarge for too many inputs."""
    request: T = validated(adapter, body)
    inputs = request.inputs
    if isinstance(inputs, list) and len(inputs) > settings.inputs_max and not are_one(inputs):
        raise TooLarge(
            f"{len(inputs)} inputs in one request; the limit is {settings.inputs_max}: send several requests",
            field="inputs",
            limit=settings.inputs_max,
            value=len(inputs),
        )
    return request


def check_whole(request: BaseModel) -> None:
    """Raise InvalidRequest if a stream is asked for, where there is none."""
    if isinstance(request, GenerateRequest) and request.stream:
        raise InvalidRequest(
            "stream: this route does not stream: send false, or post to /v1/generate_stream", field="stream"
        )


def invalid(error: ValidationError) -> InvalidRequest:
    """Return pydantic's error in our words: the first field at fault, what it may be and what it was."""
    if error.error_count() > ERRORS_READ:
        return InvalidRequest(f"the body has {error.error_count()} errors, more than are worth listing; see the schema")
    errors = error.errors(include_url=False)
    first = errors[0]
    kind, given, context = first["type"], first["input"], first.get("ctx", {})
    field = _field(first["loc"], whole=(error.title, "".join(map(str, first["loc"][:1]))) in _ALLOWED)
    if kind == "json_invalid":
        # The parser's own words (position included) never hold the text itself.
        return InvalidRequest(f"the body is not valid JSON: {context['error']}")
    if kind == "extra_forbidden":
        return InvalidRequest(f"{field}: unknown field; remove it", field=field)
    if kind == "missing":
        return InvalidRequest(f"{field}: required, but missing", field=field)
    if allowed := _ALLOWED.get((error.title, field)):
        place = _deepest([each["loc"] for each in errors if each["loc"][0] == field])
        where = f"; what is at {field}{place} fits none of these" if place else ""
        return InvalidRequest(f"{field} must be {allowed}{where}", field=field, value=given)
    said = first["msg"].removeprefix("Input ")
    return InvalidRequest(f"{field or 'the body'} {said}", field=field or None, limit=_limit(context), value=given)


def _field(location: Sequence[int | str], *, whole: bool) -> str:
    """Return the path of a field, its first part where that is ``whole``: a union, whose members pydantic names.

    The names in it may be the client's own: as any value, they are shown cut short.
    """
    if whole:
        return str(location[0])
    return "".join(f"[{part}]" if isinstance(part, int) else f".{shown(part)}" for part in location).lstrip(".")


def _deepest(locations: Sequence[Sequence[int | str]]) -> str:
    """Return how far into ``inputs`` the member of the union got that got farthest, such as ``[0][3]``."""
    places = [tuple(part for part in location if isinstance(part, int)) for location in locations]
    return "".join(f"[{part}]" for part in max(places, key=lambda place: (len(place), place)))


_FRAMES_TOO = "frames (a list of lists of numbers, all of one length) or a list of frames"
_STRINGS = "a string or a list of strings"
_ALLOWED = {
    ("TagRequest", "inputs"): f"a string, a list of strings, a list of lists of strings (tokens), {_FRAMES_TOO}",
    ("ClassifyRequest", "inputs"): f"a string, a list of strings, {_FRAMES_TOO}",
    ("StreamMessage", "inputs"): "a string, a list of strings (steps), a frame (a list of numbers) or a list of frames",
    ("GenerateRequest", "inputs"): _STRINGS,
    ("CompletionRequest", "prompt"): f"{_STRINGS} (token ids are not read here)",
    ("CompletionRequest", "stop"): "a string or a list of up to 4 strings, none of them empty",
    ("EmbeddingRequest", "input"): f"{_STRINGS} (token ids are not read here)",
}


def _limit(context: dict[str, Any]) -> Value:
    """Return the bound that was crossed, as pydantic names it for numbers, lengths and choices."""
    for name in ("ge", "gt", "le", "lt", "min_length", "max_length", "expected"):
        if name in context:
            return shown(context[name])
    return None
