"""One inference of the Open Inference Protocol V2, over HTTP or gRPC, and its tensors.

An input named ``text`` or ``json`` is answered as the routes of the tasks answer it. Any other inputs are the arrays
of the model's graph. The bytes of a tensor are little-endian numbers, or texts that each follow their length in four
bytes. N: inputs, K: labels, M: entities of all inputs.
"""

import math
import struct
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Annotated, Any, cast

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from models.tasks import LabelScore, TaggedInput
from service.api import body_errors, caption, fields, schemas, translate
from service.api.problems import parameter_field, renamed_fields
from service.api.schemas import entity_objects, generated_object, label_objects
from service.errors import Forbidden, InvalidRequest, shown
from service.model_runtime import ModelRuntime, TensorRuntime
from service.releases import Releases
from service.scheduling.job import InferenceRequest
from service.settings import Settings
from service.worker import LARGE_BYTES, Worker

BYTES = "BYTES"
DTYPES = {"FP32": np.dtype("<f4"), "INT32": np.dtype("<i4")}
DATATYPES = {"float32": "FP32", "int32": "INT32"}
SUPPORTED = f"{', '.join(DTYPES)} and {BYTES}"
MAX_DIMENSIONS, MAX_ELEMENTS = 8, 1 << 40  # a shape is multiplied out before anything else is checked
_LENGTH = struct.Struct("<I")
TEXT, JSON, PARAMETERS = "text", "json", "parameters"
# The outputs of each kind of answer. "text" labels the whole input of a bundle that also tags.
OUTPUTS: dict[str, tuple[str, ...]] = {
    "tag": ("label", "score", "word", "start", "end", "offsets"),
    "classify": ("label", "score"),
    "text": ("text_label", "text_score"),
    **dict.fromkeys(("generate", "translate", "caption"), ("text",)),
}
OUTPUT_DATATYPES = {"score": "FP32", "text_score": "FP32", "start": "INT32", "end": "INT32", "offsets": "INT32"}


@dataclass(frozen=True, slots=True, kw_only=True)
class OIPTensor:
    """``data`` is an array of this shape or, for BYTES, the elements in row-major order."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: NDArray[Any] | Sequence[bytes]


def from_array(name: str, array: NDArray[Any]) -> OIPTensor:
    return OIPTensor(name=name, datatype=DATATYPES[array.dtype.name], shape=array.shape, data=array)


def from_texts(name: str, texts: Iterable[str | bytes], shape: tuple[int, ...] | None = None) -> OIPTensor:
    """Return a BYTES tensor, of one dimension unless a shape is given."""
    data = [text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text for text in texts]
    return OIPTensor(name=name, datatype=BYTES, shape=shape or (len(data),), data=data)


def element_count(field: str, datatype: str, shape: Sequence[int]) -> int:
    """Return the number of elements. Raises InvalidRequest for an unsupported datatype or shape."""
    if datatype != BYTES and datatype not in DTYPES:
        message = f"{shown(datatype)} is not supported; send {SUPPORTED}"
        raise InvalidRequest(message, field=f"{field}.datatype", value=datatype)
    elements = math.prod(shape) if len(shape) <= MAX_DIMENSIONS else -1
    if any(size < 0 for size in shape) or not 0 <= elements <= MAX_ELEMENTS:
        raise InvalidRequest(
            f"must be up to {MAX_DIMENSIONS} sizes of at least 0, with at most {MAX_ELEMENTS} elements",
            field=f"{field}.shape",
            value=list(shape),
        )
    return elements


def from_bytes(field: str, name: str, datatype: str, shape: Sequence[int], content: bytes | memoryview) -> OIPTensor:
    """Return the tensor in ``content``. Raises InvalidRequest."""
    elements = element_count(field, datatype, shape)
    if datatype == BYTES:
        return OIPTensor(name=name, datatype=BYTES, shape=tuple(shape), data=_split_texts(field, content, elements))
    expected = elements * DTYPES[datatype].itemsize
    if len(content) != expected:
        message = f"{len(content)} bytes, but its shape and datatype need {expected}"
        raise InvalidRequest(message, field=field, limit=expected, value=len(content))
    array = np.frombuffer(content, DTYPES[datatype]).reshape(tuple(shape))
    return OIPTensor(name=name, datatype=datatype, shape=tuple(shape), data=array)


def _split_texts(field: str, content: bytes | memoryview, elements: int) -> list[bytes]:
    texts: list[bytes] = []
    place, end = 0, len(content)
    while place < end and len(texts) < elements:
        first = place + _LENGTH.size
        place = first + _LENGTH.unpack_from(content, place)[0] if first <= end else end + 1
        if place > end:
            break
        texts.append(bytes(content[first:place]))
    if place != end or len(texts) != elements:
        message = f"the bytes must hold {elements} elements, as its shape says, each after its length in four bytes"
        raise InvalidRequest(message, field=field, limit=elements, value=len(texts))
    return texts


def to_bytes(tensor: OIPTensor) -> bytes:
    """Return the bytes that `from_bytes` reads."""
    if isinstance(tensor.data, np.ndarray):
        return tensor.data.astype(DTYPES[tensor.datatype], copy=False).tobytes()
    return b"".join(_LENGTH.pack(len(text)) + text for text in tensor.data)


def from_values(field: str, name: str, datatype: str, shape: Sequence[int], values: Any) -> OIPTensor:
    """Return the tensor in a JSON list, flat or nested as its shape. Raises InvalidRequest."""
    elements = element_count(field, datatype, shape)
    if not isinstance(values, list):
        raise InvalidRequest("must be a list of the tensor's elements", field=f"{field}.data")
    data: NDArray[Any] | list[bytes]
    if datatype == BYTES:
        texts = list(_flatten(field, values, len(shape), (str,), "strings"))
        _check_count(field, len(texts), elements)
        data = [text.encode("utf-8", "surrogatepass") for text in texts]
    else:
        types = (int,) if datatype == "INT32" else (int, float)
        # Checked one by one before numpy sees them: a few long texts among them would make it allocate gigabytes.
        numbers = list(_flatten(field, values, len(shape), types, f"{datatype} numbers"))
        _check_count(field, len(numbers), elements)
        data = _number_array(field, datatype, numbers).reshape(tuple(shape))
    return OIPTensor(name=name, datatype=datatype, shape=tuple(shape), data=data)


def _check_count(field: str, count: int, elements: int) -> None:
    if count != elements:
        message = f"{count} elements, but its shape has {elements}"
        raise InvalidRequest(message, field=f"{field}.data", limit=elements, value=count)


def _flatten(field: str, values: list[Any], depth: int, types: tuple[type, ...], what: str) -> Iterable[Any]:
    """Yield the elements of up to ``depth`` nested lists. Subtypes, such as bool of int, are rejected."""
    for value in values:
        if type(value) in types:
            yield value
        elif isinstance(value, list) and depth > 1:
            yield from _flatten(field, value, depth - 1, types, what)
        else:
            raise InvalidRequest(f"must be {what}, flat or nested as the shape", field=f"{field}.data", value=value)


def _number_array(field: str, datatype: str, numbers: list[Any]) -> NDArray[Any]:
    """Return an array of shape (N,). A number beyond float32 becomes infinite, which the graph's checks reject."""
    try:
        with np.errstate(over="ignore"):
            return np.array(numbers, DTYPES[datatype])
    except OverflowError:
        raise InvalidRequest(f"a number is out of the range of {datatype}", field=f"{field}.data") from None


def to_values(tensor: OIPTensor) -> Any:
    """Return the elements in row-major order. JSON has no infinity: the largest number replaces it."""
    if isinstance(tensor.data, np.ndarray):
        flat = np.ascontiguousarray(tensor.data).ravel()
        return np.nan_to_num(flat) if flat.dtype.kind == "f" else flat
    return [text.decode("utf-8", "replace") for text in tensor.data]


@dataclass(frozen=True, slots=True, kw_only=True)
class OIPInference:
    """``outputs``: the requested names, in their order; empty for all."""

    inputs: Mapping[str, OIPTensor]
    outputs: Sequence[str]
    parameters: Mapping[str, Any]


def find_runtime(worker: Worker, model: str, version: str) -> ModelRuntime:
    """Return a version of a model, its default if ``version`` is empty. Raises UnknownModel."""
    return worker.engine.catalog.find(f"{model}@{version}" if version else model)


def find_releases(worker: Worker) -> Releases:
    """Return what loads and unloads models. Raises Forbidden if the setting does not allow it."""
    if worker.releases is None or worker.settings.model_control != "explicit":
        mode = worker.settings.model_control
        follows = ", which loads what changes in their directories" if mode == "watch" else ""
        raise Forbidden(
            f"models are not loaded on request with SEQSERVE_MODEL_CONTROL={mode}{follows}; set it to explicit"
        )
    return worker.releases


def text_inputs(runtime: TensorRuntime) -> list[str]:
    """Return the names of the inputs that may replace those of the graph."""
    if runtime.tasks in (("forecast",), ("fill",)):
        return []  # only tensors
    return [TEXT, JSON] if runtime.reads_text else [JSON]


def text_outputs(runtime: TensorRuntime) -> list[str]:
    """Return the names of the outputs for these inputs."""
    if not text_inputs(runtime):
        return []
    return [*(name for task in runtime.tasks for name in OUTPUTS[_kind(runtime, task)]), JSON]


def output_shape(name: str, runtime: TensorRuntime) -> list[int]:
    """Return the shape of one of `text_outputs`; -1 is any size."""
    return [-1, -1] if "classify" in runtime.tasks and name in OUTPUTS[_kind(runtime, "classify")] else [-1]


def by_name(tensors: Iterable[OIPTensor]) -> dict[str, OIPTensor]:
    """Return the inputs by name. Raises InvalidRequest for a name that appears twice."""
    named: dict[str, OIPTensor] = {}
    for tensor in tensors:
        if tensor.name in named:
            raise InvalidRequest(f"two inputs are named {shown(tensor.name)!r}; send one", field="inputs")
        named[tensor.name] = tensor
    return named


# Parameters that clients send and that change no answer. Those of tensors are free-form, so any other is ignored there.
IGNORED = frozenset(("content_type", "headers"))
# Parameters of the protocol's extensions that request other behavior, unless their value is 0, false or "".
UNSUPPORTED = frozenset(
    (
        *("classification", "priority", "sequence_end", "sequence_id", "sequence_start"),
        *("shared_memory_byte_size", "shared_memory_offset", "shared_memory_region"),
    )
)


def check_tensor_parameters(field: str, parameters: Mapping[str, Any]) -> None:
    """Raise InvalidRequest for a parameter of the tensor ``field`` that would change the answer."""
    for name, value in parameters.items():
        if name in UNSUPPORTED and value:
            raise InvalidRequest("not supported; leave it out", field=f"{field}.parameters.{name}", value=value)
        if name == "content_type" and value == "base64":
            message = "base64 is not supported; send the text itself, with str"
            raise InvalidRequest(message, field=f"{field}.parameters.{name}", value=value)


async def infer(
    worker: Worker, runtime: ModelRuntime, inference: OIPInference, request: InferenceRequest
) -> list[OIPTensor]:
    """Return the requested tensors. Raises ServiceError."""
    parameters = {
        name: value
        for name, value in inference.parameters.items()
        if value is not None and name not in IGNORED and (value or name not in UNSUPPORTED)
    }
    _set_deadline(request, parameters.pop("timeout", None))
    if TEXT in inference.inputs or JSON in inference.inputs:
        tensors = await _infer_texts(worker, runtime, inference, parameters, request)
    else:
        if parameters:
            field = str(shown(f"parameters.{next(iter(parameters))}"))
            raise InvalidRequest("unknown field; remove it", field=field)
        _check_outputs(inference.outputs, [port.name for port in runtime.tensors.outputs])
        tensors = await _infer_arrays(worker, runtime, inference.inputs, request)
    named = {tensor.name: tensor for tensor in tensors}
    names = dict.fromkeys(inference.outputs) or [name for name in named if name != JSON]
    return [named[name] for name in names]


def _set_deadline(request: InferenceRequest, timeout_us: object) -> None:
    """Apply Triton's ``timeout``, in microseconds. 0 means none."""
    if timeout_us is None or (isinstance(timeout_us, int) and timeout_us == 0):
        return
    if isinstance(timeout_us, bool) or not isinstance(timeout_us, int) or timeout_us < 0:
        message = f"{shown(timeout_us)} is not valid; send a whole number of microseconds, at least 0"
        raise InvalidRequest(message, field="parameters.timeout", limit=0, value=timeout_us)
    request.deadline_s = min(request.deadline_s, time.monotonic() + timeout_us / 1e6)


async def _infer_arrays(
    worker: Worker, runtime: ModelRuntime, inputs: Mapping[str, OIPTensor], request: InferenceRequest
) -> list[OIPTensor]:
    expected = {port.name: DATATYPES[port.dtype] for port in runtime.tensors.inputs}
    for name, tensor in inputs.items():
        if name in expected and tensor.datatype != expected[name]:
            message = f"{name} is {tensor.datatype}; the graph takes {expected[name]}"
            raise InvalidRequest(message, field="inputs", value=tensor.datatype)
        if tensor.datatype == BYTES:
            raise _unknown_input(runtime.tensors, name)
    arrays = {name: cast(np.ndarray[Any, Any], tensor.data) for name, tensor in inputs.items()}
    outputs = await worker.engine.run_tensors(arrays, runtime=runtime, request=request)
    return [from_array(name, array) for name, array in outputs.items()]


async def _infer_texts(
    worker: Worker,
    found: ModelRuntime,
    inference: OIPInference,
    parameters: dict[str, Any],
    request: InferenceRequest,
) -> list[OIPTensor]:
    runtime = found.tensors
    _check_text_inputs(runtime, inference.inputs)
    available = text_outputs(runtime)
    _check_outputs(inference.outputs, available)
    wanted = set(inference.outputs) or set(available)
    tasks = [task for task in runtime.tasks if JSON in wanted or wanted.intersection(OUTPUTS[_kind(runtime, task)])]
    texts = cast(Sequence[bytes], inference.inputs[TEXT if TEXT in inference.inputs else JSON].data)
    schemas.check_input_count(len(texts), worker.settings)
    read = _decode_texts if TEXT in inference.inputs else partial(_read_documents, runtime.tasks, worker.settings)
    inputs = await worker.parser.run(read, texts, size=sum(map(len, texts)))
    given = _read_parameters(runtime, inference.inputs.get(PARAMETERS), parameters)
    answers = await _ask(worker, found, tasks, inputs, given, request)
    tensors = [
        tensor
        for task, rows in answers.items()
        for tensor in _answer_tensors(_kind(runtime, task), rows, runtime.labels.get(task))
    ]
    if JSON in inference.outputs:
        tensors.append(_json_tensor(answers, with_state=bool(getattr(given, "return_state", False))))
    return tensors


async def _ask(
    worker: Worker,
    runtime: ModelRuntime,
    tasks: Sequence[str],
    inputs: list[Any],
    given: Any,
    request: InferenceRequest,
) -> dict[str, list[Any]]:
    """Return the answers of each task, one per input. Both tasks of a joint bundle share one run."""
    engine = worker.engine
    if len(tasks) > 1:
        tags, labels = await engine.tag_and_classify(
            inputs, model=runtime, aggregation=given.aggregation_strategy, top_k=given.top_k, request=request
        )
        return {"tag": tags, "classify": labels}
    (task,) = tasks
    answers: Any
    if task == "tag":
        strategy, rate = given.aggregation_strategy, given.frame_rate
        answers = await engine.tag(inputs, model=runtime, aggregation=strategy, frame_rate=rate, request=request)
    elif task == "classify":
        answers = await engine.classify(inputs, model=runtime, top_k=given.top_k, request=request)
    elif task in ("translate", "caption"):
        answers = await translate.ask(worker, task, inputs, given, model=runtime, request=request)
    else:
        options = schemas.generation_parameters(given, limit=worker.settings.max_new_tokens)
        with renamed_fields(parameter_field):
            answers = await engine.generate(inputs, model=runtime, options=options, request=request)
    return {task: answers}


def _kind(runtime: TensorRuntime, task: str) -> str:
    """Return the key of OUTPUTS: labels of the whole input have their own names in a bundle that also tags."""
    return "text" if task == "classify" and len(runtime.tasks) > 1 else task


def _check_outputs(outputs: Collection[str], available: Sequence[str]) -> None:
    for place, name in enumerate(outputs):
        if name not in available:
            message = f"{shown(name)!r} is not an output for these inputs; the outputs are {', '.join(available)}"
            raise InvalidRequest(message, field=f"outputs[{place}].name", value=name)


def _check_text_inputs(runtime: TensorRuntime, inputs: Mapping[str, OIPTensor]) -> None:
    names = text_inputs(runtime)
    if not names:
        raise _unknown_input(runtime, TEXT if TEXT in inputs else JSON)
    if TEXT in inputs and JSON in inputs:
        raise InvalidRequest("both text and json were sent; send one of them", field="inputs")
    for name, tensor in inputs.items():
        if name not in (*names, PARAMETERS):
            message = f"{shown(name)!r} cannot be combined with text; {runtime.name} takes {' or '.join(names)}"
            raise InvalidRequest(f"{message}, and {PARAMETERS}", field="inputs")
        if tensor.datatype != BYTES or not (len(tensor.shape) == 1 or tensor.shape[1:] == (1,)):
            message = f"{name} is {tensor.datatype} {list(tensor.shape)}; send BYTES [N] or [N, 1]"
            raise InvalidRequest(message, field="inputs")


def _unknown_input(runtime: TensorRuntime, name: str) -> InvalidRequest:
    tensors = f"all of the tensors {', '.join(port.name for port in runtime.inputs)}" if runtime.inputs else ""
    remedy = ", or ".join(filter(None, (" or ".join(text_inputs(runtime)), tensors)))
    return InvalidRequest(f"{runtime.name} has no input {shown(name)!r}; send {remedy}", field="inputs")


_TAG_DOCUMENTS: TypeAdapter[Any] = TypeAdapter(
    Annotated[schemas.Strings | schemas.TokenLists | schemas.FrameLists, Field(union_mode="left_to_right")]
)
_DOCUMENTS: TypeAdapter[Any] = TypeAdapter(
    Annotated[schemas.Strings | schemas.FrameLists | caption.Pictures, Field(union_mode="left_to_right")]
)


def _decode_texts(texts: Sequence[bytes]) -> list[str]:
    """Return the elements of ``text``. Raises InvalidRequest for invalid UTF-8."""
    return [_decode(text, place) for place, text in enumerate(texts)]


def _read_documents(tasks: Collection[str], settings: Settings, texts: Sequence[bytes]) -> list[Any]:
    """Return the elements of ``json`` as the engine takes them. Raises InvalidRequest and TooLarge."""
    if sum(map(len, texts)) > LARGE_BYTES:
        schemas.check_structure(b",".join(texts), settings)
    documents = [_load(text, place) for place, text in enumerate(texts)]
    adapter, tokens = (_TAG_DOCUMENTS, ", a list of tokens") if tuple(tasks) == ("tag",) else (_DOCUMENTS, "")
    try:
        return cast(list[Any], adapter.validate_python(documents, strict=True))
    except ValidationError:
        message = f"every element of json must be a string{tokens}, a list of frames or rows of pixels, all of one kind"
        raise InvalidRequest(message, field="inputs") from None


def _decode(text: bytes, place: int) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        message = f"element {place} is not UTF-8 from byte {error.start}; send UTF-8"
        raise InvalidRequest(message, field="inputs") from None


def _load(text: bytes, place: int) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        problem = body_errors.body_problem(text) or "is not a JSON document"
        raise InvalidRequest(f"element {place} of json {problem}", field="inputs") from None


class TagAndClassifyParameters(schemas.AggregationParameters, schemas.ClassifyParameters):
    """Parameters of a bundle that tags and classifies."""


_PARAMETERS: dict[tuple[str, ...], type[fields.RequestModel]] = {
    ("tag",): schemas.TagParameters,
    ("classify",): schemas.ClassifyParameters,
    ("tag", "classify"): TagAndClassifyParameters,
    ("generate",): schemas.GenerateParameters,
    ("translate",): translate.TranslateParameters,
    ("caption",): translate.CaptionParameters,
}


def _read_parameters(runtime: TensorRuntime, document: OIPTensor | None, parameters: dict[str, Any]) -> Any:
    """Return the parameters of the tasks: those of the request, and those in the input ``parameters``, a JSON object.

    The protocol's own parameters are single values, so one string means a list of one string.
    """
    if isinstance(parameters.get("stop"), str):
        parameters["stop"] = [parameters["stop"]]
    if document is not None:
        more = _load(cast(bytes, document.data[0]), 0) if len(document.data) == 1 else None
        if not isinstance(more, dict):
            raise InvalidRequest("parameters must be one JSON object, BYTES [1]", field="inputs")
        parameters |= {name: value for name, value in more.items() if value is not None}
    model = _PARAMETERS[runtime.tasks]
    try:
        return model.model_validate(parameters)
    except ValidationError as error:
        raise body_errors.request_error(error, model, parent="parameters") from None


def _answer_tensors(kind: str, rows: Sequence[Any], labels: int | None) -> list[OIPTensor]:
    """Return the outputs of one kind. ``rows``: the engine's answers; ``labels``: how many the task has."""
    if kind == "tag":
        return _entity_tensors(rows)
    if kind == "generate":
        return [from_texts("text", [row.generated_text for row in rows])]
    if kind in ("translate", "caption"):
        return [from_texts("text", [row.translation_text for row in rows])]
    return _label_tensors(rows, labels or 0, *OUTPUTS[kind])


def _entity_tensors(rows: Sequence[TaggedInput]) -> list[OIPTensor]:
    """Return the entities of all inputs, each (M,). Those of input i are at [offsets[i], offsets[i + 1]).

    The start and the end of merged frames count frames, also if their rate is known.
    """
    return [
        from_texts("label", [label for row in rows for label in row.labels]),
        from_array("score", np.array([score for row in rows for score in row.scores], np.float32)),
        from_texts("word", [word for row in rows for word in row.words]),
        from_array("start", np.array([start for row in rows for start in row.starts], np.int32)),
        from_array("end", np.array([end for row in rows for end in row.ends], np.int32)),
        from_array("offsets", np.array([0, *accumulate(map(len, rows))], np.int32)),
    ]


def _label_tensors(rows: Sequence[Sequence[LabelScore]], labels: int, label: str, score: str) -> list[OIPTensor]:
    """Return labels and scores, each (N, K), best first. The row of an empty input is padded with "" and 0."""
    width = max(map(len, rows), default=labels) or labels
    padded = [[*row, *[LabelScore("", 0.0)] * (width - len(row))] for row in rows]
    shape = (len(rows), width)
    scores = np.array([each.score for row in padded for each in row], np.float32)
    return [
        from_texts(label, [each.label for row in padded for each in row], shape),
        from_array(score, scores.reshape(shape)),
    ]


def _json_tensor(answers: Mapping[str, list[Any]], *, with_state: bool) -> OIPTensor:
    """Return each input's whole answer as JSON; the answers of two tasks under two names."""
    encoders: dict[str, Callable[[Any], Any]] = {
        "tag": entity_objects,
        "classify": label_objects,
        "generate": partial(generated_object, with_state=with_state),
        "translate": translate.translation_objects,
        "caption": caption.caption_objects,
    }
    encoded = {task: list(map(encoders[task], rows)) for task, rows in answers.items()}
    if len(encoded) == 1:
        (objects,) = encoded.values()
    else:
        pairs = zip(encoded["tag"], encoded["classify"], strict=True)
        objects = [{"tags": tags, "labels": names} for tags, names in pairs]
    return from_texts(JSON, [orjson.dumps(each) for each in objects])
