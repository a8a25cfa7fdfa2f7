"""Request bodies and answers of the native routes, and the one function that parses every JSON body.

The shapes are those of ``huggingface_hub.InferenceClient``. A field that the service does not honor is rejected by
name, unless its value has no effect (``stream: false``, ``do_sample: true``).
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired, TypeVar

import numpy as np
import orjson
from pydantic import Field, TypeAdapter, ValidationError, WithJsonSchema
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from models.inputs import are_one
from models.manifest import FrameRate
from models.tasks import GenerationResult, LabelScore, TaggedInput
from service.api.body_errors import ERRORS_LISTED, body_problem, request_error
from service.api.fields import AlwaysFalse, NoStrings, Null, One, RequestModel, Zero, parameter
from service.errors import InvalidRequest, TooLarge, shown
from service.generation import GenerationParameters
from service.settings import Settings
from service.worker import LARGE_BYTES, Worker

Body = TypeVar("Body", bound=RequestModel)
MEMBERS_MAX = 4096  # of all objects in a large body: objects take the longest to parse, and requests have few
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
ModelName = Annotated[str, Field(min_length=1, max_length=192)]  # with a digest
StopString = Annotated[str, Field(min_length=1, max_length=256)]


class AggregationParameters(RequestModel):
    """How to tag and classify in one request."""

    aggregation_strategy: Literal["none", "simple"] | None = parameter(
        "`none`: one entity per token. `simple`: merge tokens into spans, where the bundle has spans, "
        "and neighboring frames with equal labels",
        unset="`simple` where the bundle has spans, otherwise `none`",
    )
    ignore_labels: NoStrings | None = None
    stride: Zero | None = None


class TagParameters(AggregationParameters):
    """How to tag."""

    frame_rate: FrameRate | None = parameter(
        "frames per second, with `simple`: merged frames start and end at seconds",
        unset="that of the bundle; frames are counted if it has none",
    )


class NativeRequest(RequestModel):
    """What the bodies of the native routes have in common."""

    not_offered = frozenset(("options",))  # of Hugging Face's serverless API


class TagRequest(NativeRequest):
    """Body of ``/v1/tag``."""

    inputs: TagInputs
    model: ModelName | None = None
    parameters: TagParameters | None = None

    @property
    def aggregation(self) -> str | None:
        return self.parameters.aggregation_strategy if self.parameters else None

    @property
    def frame_rate(self) -> float | None:
        return self.parameters.frame_rate if self.parameters else None


class ClassifyParameters(RequestModel):
    """How to classify. Scores are always probabilities over all labels."""

    top_k: Annotated[int, Field(ge=1, le=100_000)] | None = parameter(
        "return only this many labels", unset="all labels"
    )
    function_to_apply: Literal["softmax"] | None = parameter("how scores are computed", "softmax")


class ClassifyRequest(NativeRequest):
    """Body of ``/v1/classify``."""

    inputs: ClassifyInputs
    model: ModelName | None = None
    parameters: ClassifyParameters | None = None

    @property
    def top_k(self) -> int | None:
        return self.parameters.top_k if self.parameters else None


class GenerateParameters(RequestModel):
    """How to generate a text."""

    not_offered = frozenset(
        (
            *("early_stopping", "epsilon_cutoff", "eta_cutoff", "logit_bias", "max_length", "min_length", "min_p"),
            *("min_new_tokens", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences"),
            *("penalty_alpha", "presence_penalty", "use_cache"),
        )
    )

    max_new_tokens: Annotated[int, Field(ge=0)] | None = parameter(
        "at most `SEQSERVE_MAX_NEW_TOKENS`; 0 with `return_state`: only read the prompt", unset=DEFAULT_NEW_TOKENS
    )
    temperature: Annotated[float, Field(ge=0, le=100)] | None = parameter("0: greedy decoding", 1.0)
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = parameter("0: the whole vocabulary", 0)
    top_p: Annotated[float, Field(gt=0, le=1)] | None = parameter("1: the whole vocabulary", 1.0)
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = parameter("the same seed gives the same text", unset="random")
    stop: Annotated[list[StopString], Field(max_length=16)] | None = parameter("strings that end the text", ())
    return_full_text: bool | None = parameter("begin the text with the prompt", False)
    details: bool | None = parameter("add the finish reason, the seed, and the tokens", False)
    do_sample: bool | None = parameter("false: greedy decoding, regardless of the temperature", True)
    state: str | None = parameter("from an earlier answer: continue its text", unset="a new text")
    return_state: bool | None = parameter("return a state to continue from", False)
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


class GenerateRequest(NativeRequest):
    """Body of ``/v1/generate`` and ``/v1/generate_stream``."""

    inputs: StringOrStrings
    model: ModelName | None = None
    parameters: GenerateParameters | None = None
    stream: bool | None = parameter("true: answer as `/v1/generate_stream`; not on `/generate`", False)

    @property
    def is_from_tgi_client(self) -> bool:
        """Whether the client package of Text Generation Inference sent this. It reads a list and other reasons."""
        return self.parameters is not None and self.parameters.is_from_tgi_client


class StreamMessage(RequestModel):
    """A message of ``WS /v1/stream``. The first valid message opens the stream, with or without inputs.

    ``end``: no inputs follow these.
    """

    model: ModelName | None = None
    state: str | None = None
    inputs: StreamInputs | None = None
    end: bool | None = None
    return_state: bool | None = None


TGI_FINISH_REASONS = {"length": "length", "stop": "stop_sequence", "eos": "eos_token"}


class EntityObject(TypedDict):
    """One token (``entity``) or one span (``entity_group``).

    ``start`` and ``end`` are offsets in Unicode code points, as in Python. JavaScript and Java count UTF-16 code units.
    For merged frames with a frame rate, they are seconds.
    """

    entity: NotRequired[str]
    entity_group: NotRequired[str]
    score: float
    word: str
    start: float
    end: float


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
    columns: Iterator[tuple[str, float, str, float, float]]
    columns = zip(tagged.labels, tagged.scores, tagged.words, tagged.starts, tagged.ends, strict=True)
    if tagged.frame_rate is not None:
        columns = tagged.rows()
    if tagged.are_spans:
        return [
            {"entity_group": label, "score": score, "word": word, "start": start, "end": end}
            for label, score, word, start, end in columns
        ]
    return [
        {"entity": label, "score": score, "word": word, "start": start, "end": end}
        for label, score, word, start, end in columns
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


async def read_request(model: type[Body], body: bytes, worker: Worker) -> Body:
    """Parse like `parse_request`, but a large body in a thread."""
    if len(body) <= LARGE_BYTES:
        return parse_request(model, body, worker.settings)
    return await worker.parser.run(parse_request, model, body, worker.settings, size=len(body))


def parse_body(model: type[Body], body: bytes, settings: Settings) -> Body:
    """Return the request in a JSON body. Raises InvalidRequest, and TooLarge for too many values.

    A null member counts as absent. Nulls are removed only if a body fails to parse, so other bodies do not pay for it.
    """
    if len(body) > LARGE_BYTES:
        return _parse_large(model, body, settings)
    validate: Callable[[bytes], Body] = model.__pydantic_validator__.validate_json  # model_validate_json takes longer
    try:
        try:
            return validate(body)
        except ValidationError as error:
            if not _fails_at_null(error):
                raise
            return validate(_without_nulls(body))
    except ValidationError as error:
        if problem := body_problem(body):
            raise InvalidRequest(f"the body {problem}") from None
        raise request_error(error, model) from None


def _parse_large(model: type[Body], body: bytes, settings: Settings) -> Body:
    """Parse all values first, then check their types. Otherwise like `parse_body`.

    pydantic alone takes up to ten times as long, because its errors hold the values around them. orjson reads no NaN.
    """
    check_structure(body, settings)
    validate: Callable[[Any], Body] = model.__pydantic_validator__.validate_python
    try:
        document = orjson.loads(body)
        try:
            return validate(document)
        except ValidationError as error:
            if not _fails_at_null(error):
                raise
            return validate(_drop_nulls(document))
    except ValidationError as error:
        raise request_error(error, model, with_value=False) from None
    except orjson.JSONDecodeError as error:  # the message never has the text itself
        problem = body_problem(body) or f"is not valid JSON: {error.msg} at line {error.lineno} column {error.colno}"
        raise InvalidRequest(f"the body {problem}") from None


def _drop_nulls(value: Any) -> Any:
    """Return a document without the members of objects that are null."""
    if isinstance(value, dict):
        return {name: _drop_nulls(each) for name, each in value.items() if each is not None}
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        return list(map(_drop_nulls, value))
    return value


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


def check_structure(body: bytes, settings: Settings) -> None:
    """Raise TooLarge for more values, lists or objects than a large body may have, before any of them is made.

    Within these limits, a body of 1 MB takes less than 50 ms to parse.
    """
    tokens = settings.request_tokens
    lists = tokens + settings.inputs_max + MEMBERS_MAX  # a frame is one list, and one token
    limits = ((lists, "lists and objects", b"[{"), (4 * tokens, "values", b","), (MEMBERS_MAX, "members", b":"))
    if all(sum(map(body.count, marks)) <= limit for limit, _, marks in limits):
        return
    counts = count_outside_strings(body)
    for limit, what, marks in limits:
        count = sum(counts[mark] for mark in marks)
        if count > limit:
            raise TooLarge(f"{count} {what}; the limit is {limit}; send several requests", limit=limit, value=count)


def count_outside_strings(body: bytes) -> list[int]:
    """Return how often each byte occurs outside of JSON strings, which may be unterminated. Linear in time."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    codes = np.frombuffer(body, np.uint8)
    in_string = np.bitwise_xor.accumulate(codes == ord('"'))
    counts: list[int] = np.bincount(codes[~in_string], minlength=256).tolist()
    return counts


def parse_request(model: type[Body], body: bytes, settings: Settings) -> Body:
    """Parse a request with ``inputs``, like `parse_body`. Raises TooLarge for more of them than the settings allow."""
    request = parse_body(model, body, settings)
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


def check_width(requested: int | None, width: int | None, model: str | None) -> None:
    """Raise InvalidRequest if the request wants vectors of another width. ``width``: None without any vector."""
    if None not in (requested, width) and requested != width:
        message = f"{requested} is not available; {model} returns {width}; leave it out"
        raise InvalidRequest(message, field="dimensions", limit=width, value=requested)


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
    return GenerationParameters(
        max_new_tokens=new_tokens,
        temperature=0.0 if given.is_greedy else given.value_of("temperature"),
        top_k=given.value_of("top_k"),
        top_p=given.value_of("top_p"),
        seed=given.seed,
        stop=tuple(given.stop or ()),
        return_full_text=bool(given.return_full_text),
        details=bool(given.details),
        state=given.state,
        return_state=bool(given.return_state),
    )


_NO_PARAMETERS = GenerateParameters()


def example(task: str) -> Callable[[Mapping[str, Any]], Any]:
    """Return a function from a model card to an example request for ``task``, None for a bundle of another task."""

    def of(card: Mapping[str, Any]) -> Any:
        return {"inputs": card["examples"][0], "model": card["id"]} if task in card["tasks"] else None

    return of


def _one_of(*schemas: dict[str, Any]) -> WithJsonSchema:
    """Return the JSON Schema of a union.

    Pydantic writes ``anyOf``, but BentoML's pages and client use only its first member: the client would read a
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
