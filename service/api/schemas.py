"""Request bodies and answers of the native routes, and the one function that parses every JSON body.

The shapes are those of ``huggingface_hub.InferenceClient``. A field that the service does not honor is rejected by
name, unless its value asks for nothing (``stream: false``, ``do_sample: true``).
"""

import codecs
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired, TypeVar

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from models.tasks import GenerationResult, LabelScore, TaggedInput
from service.errors import InvalidRequest, TooLarge, Value, shown
from service.generation import GenerationParameters
from service.inputs import are_one
from service.settings import Settings

T = TypeVar("T")
LARGE_BYTES = 1 << 16  # of a body that is checked for nesting, and whose errors do not repeat the value
# Possessive, so linear in time. An unterminated string reaches to the end.
JSON_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
ERRORS_LISTED = 64  # of a body with more errors than this, only their number is reported
DEFAULT_NEW_TOKENS = 100  # as in Text Generation Inference

# fail_fast: a list stops at its first bad element. A megabyte of bad elements would make a megabyte of errors.
Strings = Annotated[list[str], Field(fail_fast=True)]
StringOrStrings = str | Strings
TokenLists = Annotated[list[Strings], Field(fail_fast=True)]
# Numbers may be NaN or infinite here: the codec rejects them and can name the place.
Numbers = Annotated[list[Annotated[float, Field(allow_inf_nan=True)]], Field(fail_fast=True)]
Frames = Annotated[list[Numbers], Field(fail_fast=True)]
FrameLists = Annotated[list[Frames], Field(fail_fast=True)]
# left_to_right: only empty lists fit several shapes, and text is accepted without trying the numbers first.
TagInputs = Annotated[StringOrStrings | TokenLists | Frames | FrameLists, Field(union_mode="left_to_right")]
ClassifyInputs = Annotated[StringOrStrings | Frames | FrameLists, Field(union_mode="left_to_right")]
StreamInputs = Annotated[str | Strings | Numbers | Frames, Field(union_mode="left_to_right")]
ModelName = Annotated[str, Field(min_length=1, max_length=128)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]


def _reject_true(value: bool) -> bool:
    if value:
        raise ValueError("true is not supported; send false or leave it out")
    return value


def _reject_value(value: object) -> None:
    if value is not None:
        raise ValueError("not supported; leave it out")


# For fields that are not supported: the values that ask for nothing.
Null = Annotated[Any, AfterValidator(_reject_value), WithJsonSchema({"type": "null"})]
Zero = Annotated[float, Field(ge=0, le=0)]
One = Annotated[float, Field(ge=1, le=1)]
# Not Literal[False], which would accept a 0.
AlwaysFalse = Annotated[bool, AfterValidator(_reject_true), WithJsonSchema({"type": "boolean", "const": False})]


class RequestModel(BaseModel):
    """An object in a request body. It rejects unknown fields, unless they are null, and values of another type."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        json_schema_extra={"additionalProperties": {"type": "null"}},
    )


class TagParameters(RequestModel):
    """``none`` returns one entity per token; ``simple`` merges tokens into spans where the bundle has spans."""

    aggregation_strategy: Literal["none", "simple"] | None = None
    ignore_labels: Annotated[list[str], Field(max_length=0)] | None = None
    stride: Annotated[int, Field(ge=0, le=0)] | None = None


class TagRequest(RequestModel):
    """Body of ``/v1/tag``."""

    inputs: TagInputs
    model: ModelName | None = None
    parameters: TagParameters | None = None

    @property
    def aggregation(self) -> str | None:
        return self.parameters.aggregation_strategy if self.parameters else None


class ClassifyParameters(RequestModel):
    """``top_k`` limits the labels; the default is all. Scores are always probabilities over all labels."""

    top_k: Annotated[int, Field(ge=1, le=100_000)] | None = None
    function_to_apply: Literal["softmax"] | None = None


class ClassifyRequest(RequestModel):
    """Body of ``/v1/classify``."""

    inputs: ClassifyInputs
    model: ModelName | None = None
    parameters: ClassifyParameters | None = None

    @property
    def top_k(self) -> int | None:
        return self.parameters.top_k if self.parameters else None


class GenerateParameters(RequestModel):
    """Sampling. ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 keep the whole vocabulary."""

    max_new_tokens: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="0 with return_state: only read the prompt"
    )
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: Annotated[list[StopString], Field(max_length=16)] | None = None
    return_full_text: bool | None = None
    details: bool | None = None
    do_sample: bool | None = Field(default=None, description="false: greedy, whatever the temperature")
    state: str | None = Field(default=None, description="from an earlier answer: continue its text")
    return_state: bool | None = Field(default=None, description="true: return a state to continue from")
    decoder_input_details: AlwaysFalse | None = None
    watermark: AlwaysFalse | None = None
    best_of: One | None = None
    repetition_penalty: One | None = None
    frequency_penalty: Zero | None = None
    typical_p: One | None = None
    top_n_tokens: Zero | None = None
    truncate: Null = None
    grammar: Null = None
    adapter_id: Null = None

    @property
    def is_from_tgi_client(self) -> bool:
        """Whether these are exactly the fields of that client, which sends each of them, null or not."""
        return self.model_fields_set == TGI_CLIENT_FIELDS and self.details is True

    @property
    def is_greedy(self) -> bool:
        """Whether to take the most likely token. TGI's client sends ``do_sample: false`` unless it is set."""
        sampling = (self.temperature, self.top_k, self.top_p)
        return self.do_sample is False and not (self.is_from_tgi_client and any(sampling))


TGI_CLIENT_FIELDS = frozenset(GenerateParameters.model_fields) - {"adapter_id", "return_state", "state"}


class GenerateRequest(RequestModel):
    """Body of ``/v1/generate`` and ``/v1/generate_stream``."""

    inputs: StringOrStrings
    model: ModelName | None = None
    parameters: GenerateParameters | None = None
    stream: bool | None = Field(default=None, description="true: answer as /v1/generate_stream, under /v1/ only")

    @property
    def is_from_tgi_client(self) -> bool:
        """Whether the client package of Text Generation Inference sent this. It reads a list and other reasons."""
        return self.parameters is not None and self.parameters.is_from_tgi_client


class StreamMessage(RequestModel):
    """A message of ``WS /v1/stream``. The first valid message opens the stream, with or without inputs."""

    model: ModelName | None = None
    state: str | None = None
    inputs: StreamInputs | None = None
    return_state: bool | None = None


TGI_FINISH_REASONS = {"length": "length", "stop": "stop_sequence", "eos": "eos_token"}


class EntityObject(TypedDict):
    """One token (``entity``) or one span (``entity_group``). ``start`` and ``end`` are character offsets."""

    entity: NotRequired[str]
    entity_group: NotRequired[str]
    score: float
    word: str
    start: int
    end: int


class LabelObject(TypedDict):
    """One label and its probability."""

    label: str
    score: float


class GeneratedObject(TypedDict):
    """One generated text."""

    generated_text: str
    details: NotRequired[dict[str, Any]]
    state: NotRequired[str | None]


# The functions below name every field, because that is the fastest way: they run for every token.


def entity_objects(tagged: TaggedInput) -> list[EntityObject]:
    """Return the entities of one input."""
    if tagged.are_spans:
        return [
            {"entity_group": label, "score": score, "word": word, "start": start, "end": end}
            for label, score, word, start, end in tagged.rows()
        ]
    return [
        {"entity": label, "score": score, "word": word, "start": start, "end": end}
        for label, score, word, start, end in tagged.rows()
    ]


def tag_answer(answer: TaggedInput | list[TaggedInput]) -> list[EntityObject] | list[list[EntityObject]]:
    """Return the answer of `Engine.tag`: the entities of one input, or of each input of a list."""
    return entity_objects(answer) if isinstance(answer, TaggedInput) else list(map(entity_objects, answer))


def label_objects(labels: Sequence[LabelScore]) -> list[LabelObject]:
    """Return the labels of one input."""
    return [{"label": label, "score": score} for label, score in labels]


def generated_object(result: GenerationResult, *, with_state: bool) -> GeneratedObject:
    """Return one generated text. ``with_state``: include the state, null if there is none."""
    answer: GeneratedObject = {"generated_text": result.generated_text}
    if (details := result.details) is not None:
        answer["details"] = {**details._asdict(), "tokens": [token._asdict() for token in details.tokens]}
    if with_state:
        answer["state"] = result.state
    return answer


def tgi_answer(result: GenerationResult) -> list[GeneratedObject]:
    """Return one text as the client of Text Generation Inference reads it: a list of one, with details."""
    answer = generated_object(result, with_state=False)
    answer["details"]["finish_reason"] = TGI_FINISH_REASONS[answer["details"]["finish_reason"]]
    return [answer]


def generate_answer(
    answer: GenerationResult | Sequence[GenerationResult], *, with_state: bool
) -> GeneratedObject | list[GeneratedObject]:
    """Return the answer of `Engine.generate`: one text, or one for each prompt of a list."""
    if isinstance(answer, GenerationResult):
        return generated_object(answer, with_state=with_state)
    return [generated_object(each, with_state=with_state) for each in answer]


TAG: TypeAdapter[TagRequest] = TypeAdapter(TagRequest)
CLASSIFY: TypeAdapter[ClassifyRequest] = TypeAdapter(ClassifyRequest)
GENERATE: TypeAdapter[GenerateRequest] = TypeAdapter(GenerateRequest)
STREAM_MESSAGE: TypeAdapter[StreamMessage] = TypeAdapter(StreamMessage)


def parse_body(adapter: TypeAdapter[T], body: bytes, settings: Settings) -> T:
    """Return the request in a JSON body. Raises InvalidRequest, and TooLarge for too many lists and objects.

    A member that is null is as good as absent. Only a body that is invalid for a null pays for that.
    """
    large = len(body) > LARGE_BYTES
    if large:
        check_nesting(body, 2 * settings.request_tokens)  # a frame is one list, and one token
    validate: Callable[[bytes], T] = adapter.validator.validate_json  # TypeAdapter.validate_json takes twice as long
    try:
        try:
            return validate(body)
        except ValidationError as error:
            if not _fails_at_null(error):
                raise
            return validate(_without_nulls(body))
    except ValidationError as error:
        if problem := encoding_problem(body):
            raise InvalidRequest(f"the body {problem}") from None
        raise request_error(error, with_value=not large) from None


def _fails_at_null(error: ValidationError) -> bool:
    few = error.error_count() <= ERRORS_LISTED
    return few and any(each["input"] is None for each in error.errors(include_url=False))


def _without_nulls(body: bytes) -> bytes:
    """Return a JSON document without the members of objects that are null."""
    try:  # not orjson, which reads neither NaN nor large integers
        document = json.loads(body, object_pairs_hook=lambda pairs: {k: v for k, v in pairs if v is not None})
    except ValueError:  # an integer of thousands of digits
        return body
    return json.dumps(document).encode()


def encoding_problem(body: bytes) -> str | None:
    """Return what is wrong with the encoding of a JSON document, and the remedy. None if it is UTF-8."""
    if body.startswith(codecs.BOM_UTF8):
        return "begins with a byte order mark; send UTF-8 without one"
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or body[:2] in (b"{\0", b"\0{"):
        return "is UTF-16; send UTF-8"
    if body.startswith(b"\x1f\x8b"):
        return "is gzip; send it with the header 'Content-Encoding: gzip'"
    try:
        body.decode()
    except UnicodeDecodeError as error:
        found = f"is not UTF-8: it has the byte 0x{body[error.start]:02x} at position {error.start}"
        return f"{found}, as in latin-1 or windows-1252; send UTF-8"
    return None


def check_nesting(body: bytes, limit: int) -> None:
    """Raise TooLarge for over ``limit`` lists and objects: a megabyte of them takes 0.2 s to parse."""
    count = body.count(b"[") + body.count(b"{")
    if count > limit:
        outside_strings = JSON_STRING.sub(b"", body)
        count = outside_strings.count(b"[") + outside_strings.count(b"{")
    if count > limit:
        raise TooLarge(
            f"{count} lists and objects; the limit is {limit}; send several requests", limit=limit, value=count
        )


def parse_request(adapter: TypeAdapter[T], body: bytes, settings: Settings) -> T:
    """As `parse_body`, for a request with ``inputs``. Raises TooLarge for more of them than the settings allow."""
    request = parse_body(adapter, body, settings)
    inputs = request.inputs  # type: ignore[attr-defined]
    if isinstance(inputs, list) and len(inputs) > settings.inputs_max and not are_one(inputs):
        check_input_count(len(inputs), settings)
    return request


def check_input_count(count: int, settings: Settings, field: str = "inputs") -> None:
    """Raise TooLarge for more inputs in one request than the settings allow."""
    limit = settings.inputs_max
    if count > limit:
        message = f"{count} inputs in one request; the limit is {limit}; send several requests"
        raise TooLarge(message, field=field, limit=limit, value=count)


def reject_stream(request: GenerateRequest) -> None:
    """Raise InvalidRequest if the request asks for a stream, for a route that has none."""
    if request.stream:
        raise InvalidRequest("this route does not stream; send false, or use /v1/generate_stream", field="stream")


def generation_parameters(parameters: GenerateParameters | None, *, limit: int) -> GenerationParameters:
    """Return the parameters for the engine. ``limit`` bounds max_new_tokens. Raises InvalidRequest."""
    given = parameters or _NO_PARAMETERS
    new_tokens = min(DEFAULT_NEW_TOKENS, limit) if given.max_new_tokens is None else given.max_new_tokens
    if new_tokens > limit or not (new_tokens or given.return_state):
        need = f"the limit is {limit}" if new_tokens else "send at least 1, or set return_state"
        raise InvalidRequest(
            f"{shown(new_tokens)} is out of range; {need}",
            field="parameters.max_new_tokens",
            limit=limit if new_tokens else 1,
            value=new_tokens,
        )
    temperature = 1.0 if given.temperature is None else given.temperature
    return GenerationParameters(
        max_new_tokens=new_tokens,
        temperature=0.0 if given.is_greedy else temperature,
        top_k=given.top_k or 0,
        top_p=1.0 if given.top_p is None else given.top_p,
        seed=given.seed,
        stop=tuple(given.stop or ()),
        return_full_text=bool(given.return_full_text),
        details=bool(given.details),
        state=given.state,
        return_state=bool(given.return_state),
    )


_NO_PARAMETERS = GenerateParameters()


def request_error(error: ValidationError, parent: str = "", *, with_value: bool = True) -> InvalidRequest:
    """Return pydantic's error as ours: the first invalid field (inside ``parent``), its value, and what is allowed."""
    if error.error_count() > ERRORS_LISTED:
        return InvalidRequest(f"the body has {error.error_count()} errors; see the schema in /docs.json")
    errors = error.errors(include_url=False, include_input=with_value)
    first = errors[0]
    kind, value, context = first["type"], first.get("input"), first.get("ctx", {})
    union = _UNIONS.get((error.title, str(first["loc"][0]))) if first["loc"] else None
    field = str(first["loc"][0]) if union else _path((parent, *first["loc"]))
    if kind == "json_invalid":  # the parser's message has a position, and never the text itself
        return InvalidRequest(f"the body is not valid JSON: {context['error']}")
    if kind == "extra_forbidden":
        return InvalidRequest("unknown field; remove it", field=field)
    if kind == "missing":
        return InvalidRequest("required, but missing", field=field)
    if union:
        place = _deepest([each["loc"] for each in errors if each["loc"][0] == field])
        where = f"; the value at {field}{place} fits none of these" if place else ""
        return InvalidRequest(f"must be {union}{where}", field=field, value=value)
    message = re.sub(r"^\w+ should", "must", first["msg"])  # "Input should be an object"
    if not field:
        return InvalidRequest(f"the body {message}", value=value)
    if kind == "value_error":  # of a validator above
        return InvalidRequest(str(context["error"]), field=field, value=value)
    given = _quoted(value) if with_value else "the value"
    return InvalidRequest(f"{given} is not valid: {message}", field=field, limit=_limit(context), value=value)


_FRAMES = "frames (a list of lists of numbers, all of one length) or a list of frames"
_STRINGS = "a string or a list of strings"
_UNIONS = {  # pydantic reports one error for each member of a union; these replace them
    ("TagRequest", "inputs"): f"a string, a list of strings, a list of lists of strings (tokens), {_FRAMES}",
    ("ClassifyRequest", "inputs"): f"a string, a list of strings, {_FRAMES}",
    ("GenerateRequest", "inputs"): _STRINGS,
    (
        "StreamMessage",
        "inputs",
    ): "a string, a list of strings (tokens), a list of numbers (a frame), or frames",
    ("CompletionRequest", "prompt"): f"{_STRINGS} (token ids are not supported)",
    ("CompletionRequest", "stop"): "a string or a list of up to 4 strings, none of them empty",
    ("EmbeddingRequest", "input"): f"{_STRINGS} (token ids are not supported; in LangChain, set"
    " check_embedding_ctx_length=False)",
}


def _quoted(value: object) -> str:
    """Return a value as JSON, and a list or object as its type and size."""
    text = shown(value)
    return str(text) if isinstance(value, list | dict) else orjson.dumps(text).decode()


def _path(location: Sequence[int | str]) -> str:
    """Return the dotted path of a field. The client may have chosen the names, so long ones are cut."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{shown(part)}" for part in location).lstrip(".")


def _deepest(locations: Sequence[Sequence[int | str]]) -> str:
    """Return the place, such as ``[0][3]``, that the best-fitting member of a union reached."""
    places = [tuple(part for part in location if isinstance(part, int)) for location in locations]
    return "".join(f"[{part}]" for part in max(places, key=lambda place: (len(place), place)))


def _limit(context: Mapping[str, Any]) -> Value:
    """Return the bound that was crossed, as pydantic names it for numbers, lengths and choices."""
    for name in ("ge", "gt", "le", "lt", "min_length", "max_length", "expected"):
        if name in context:
            return shown(context[name])
    return None


def example(task: str) -> Callable[[Mapping[str, Any]], Any]:
    """Return a function from a model card to an example request for ``task``, None for a bundle of another task."""

    def of(card: Mapping[str, Any]) -> Any:
        return {"inputs": card["examples"][0], "model": card["id"]} if task in card["tasks"] else None

    return of


def _one_of(*schemas: dict[str, Any]) -> WithJsonSchema:
    """Return the JSON Schema of a union.

    Pydantic writes ``anyOf``, of which BentoML's pages and client read only the first member: its client would read a
    dictionary as a list.
    """
    return WithJsonSchema({"oneOf": list(schemas)})


def _list_of(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_TEXT: dict[str, Any] = {"type": "string"}
_ENTITY = TypeAdapter(EntityObject).json_schema()
_GENERATED = TypeAdapter(GeneratedObject).json_schema()
_FRAME = _list_of(_list_of({"type": "number"}))
_FRAME_INPUTS = (_FRAME, _list_of(_FRAME))
# For BentoML's routes: the same types, documented with oneOf.
BentoTagInputs = Annotated[TagInputs, _one_of(_TEXT, _list_of(_TEXT), _list_of(_list_of(_TEXT)), *_FRAME_INPUTS)]
BentoClassifyInputs = Annotated[ClassifyInputs, _one_of(_TEXT, _list_of(_TEXT), *_FRAME_INPUTS)]
BentoTextInputs = Annotated[StringOrStrings, _one_of(_TEXT, _list_of(_TEXT))]
BentoTagAnswer = Annotated[
    list[EntityObject] | list[list[EntityObject]], _one_of(_list_of(_ENTITY), _list_of(_list_of(_ENTITY)))
]
BentoGenerateAnswer = Annotated[GeneratedObject | list[GeneratedObject], _one_of(_GENERATED, _list_of(_GENERATED))]
