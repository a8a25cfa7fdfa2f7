"""The texts of a V2 inference and what is asked about them, read from tensors and parameters.

Knows what the engine's tasks take. Knows neither HTTP nor gRPC, nor what is done with it.
"""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, cast

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from service.api import schemas
from service.api.oip_tensors import BYTES, Tensor
from service.errors import InvalidRequest, shown
from service.scheduling.job import InferenceRequest
from service.tensor_runtime import TensorRuntime

TEXT, JSON, PARAMETERS = "text", "json", "parameters"


def by_name(tensors: Iterable[Tensor]) -> dict[str, Tensor]:
    """The inputs of a request. Raises InvalidRequest if two of them have one name."""
    named: dict[str, Tensor] = {}
    for tensor in tensors:
        if tensor.name in named:
            raise InvalidRequest(f"inputs: two of them are called {shown(tensor.name)!r}", field="inputs")
        named[tensor.name] = tensor
    return named


def text_inputs(graph: TensorRuntime) -> list[str]:
    """The names of the inputs that a model takes instead of its graph's own."""
    return [TEXT, JSON] if graph.reads_text else [JSON]


def check_inputs(graph: TensorRuntime, inputs: Mapping[str, Tensor]) -> None:
    taken = text_inputs(graph)
    if TEXT in inputs and JSON in inputs:
        raise InvalidRequest("inputs: both text and json came; send one of them", field="inputs")
    for name, tensor in inputs.items():
        if name not in (*taken, PARAMETERS):
            raise InvalidRequest(
                f"inputs: {shown(name)!r} is not read beside text: {graph.name} takes {' or '.join(taken)}, and "
                f"{PARAMETERS} with it",
                field="inputs",
            )
        if tensor.datatype != BYTES or not (len(tensor.shape) == 1 or tensor.shape[1:] == (1,)):
            raise InvalidRequest(
                f"inputs: {name} is {tensor.datatype} {list(tensor.shape)}; send BYTES [N] or [N, 1]", field="inputs"
            )


_TOKENS_TOO: TypeAdapter[Any] = TypeAdapter(
    Annotated[schemas.Strings | schemas.Tokenised | schemas.FrameLists, Field(union_mode="left_to_right")]
)
_WHOLE: TypeAdapter[Any] = TypeAdapter(
    Annotated[schemas.Strings | schemas.FrameLists, Field(union_mode="left_to_right")]
)


def read_inputs(inputs: Mapping[str, Tensor], tasks: Collection[str]) -> list[Any]:
    """The inputs as the engine takes them. Raises InvalidRequest for bytes that are no text, or no input."""
    if TEXT in inputs:
        texts = cast(Sequence[bytes], inputs[TEXT].data)
        return [_decoded(text, place) for place, text in enumerate(texts)]
    documents = [_loaded(text, place) for place, text in enumerate(cast(Sequence[bytes], inputs[JSON].data))]
    adapter, tokens = (_TOKENS_TOO, ", a list of tokens") if tuple(tasks) == ("tag",) else (_WHOLE, "")
    try:
        return cast(list[Any], adapter.validate_python(documents, strict=True))
    except ValidationError:
        raise InvalidRequest(
            f"inputs: every element of json must be a string{tokens} or a list of frames, all of one kind",
            field="inputs",
        ) from None


def _decoded(text: bytes, place: int) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"inputs: element {place} is no UTF-8 from byte {error.start} on: send text", field="inputs"
        ) from None


def _loaded(text: bytes, place: int) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise InvalidRequest(f"inputs: element {place} of json is no JSON document", field="inputs") from None


class _Both(schemas.TagParameters, schemas.ClassifyParameters):
    """Of a bundle that does both."""


class _Asked(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class _AskedOfTag(_Asked):
    parameters: schemas.TagParameters


class _AskedOfClassify(_Asked):
    parameters: schemas.ClassifyParameters


class _AskedOfBoth(_Asked):
    parameters: _Both


class _AskedOfGenerate(_Asked):
    parameters: schemas.GenerateParameters


_ASKED: dict[tuple[str, ...], type[Any]] = {
    ("tag",): _AskedOfTag,
    ("classify",): _AskedOfClassify,
    ("tag", "classify"): _AskedOfBoth,
    ("generate",): _AskedOfGenerate,
}


def read_parameters(graph: TensorRuntime, more: Tensor | None, parameters: dict[str, Any]) -> Any:
    """The parameters of the tasks: those of the request, and those in the input of that name, one JSON object.

    The protocol's own parameters are single values: one string stands for a list of one.
    """
    if isinstance(parameters.get("stop"), str):
        parameters["stop"] = [parameters["stop"]]
    if more is not None:
        found = _loaded(more.data[0], 0) if len(more.data) == 1 else None
        if not isinstance(found, dict):
            raise InvalidRequest("inputs: parameters must be one JSON object, BYTES [1]", field="inputs")
        parameters |= found
    try:
        return _ASKED[graph.tasks](parameters=parameters).parameters
    except ValidationError as error:
        raise schemas.invalid(error) from None


def set_deadline(call: InferenceRequest, timeout_us: object) -> None:
    """Triton's parameter: how many microseconds the request may take. 0: it does not say."""
    if timeout_us is None or (isinstance(timeout_us, int) and timeout_us == 0):
        return
    if isinstance(timeout_us, bool) or not isinstance(timeout_us, int) or timeout_us < 0:
        raise InvalidRequest(
            "parameters.timeout must be a whole number of microseconds, at least 0",
            field="parameters.timeout",
            limit=0,
            value=timeout_us,
        )
    call.deadline_s = min(call.deadline_s, time.monotonic() + timeout_us / 1e6)
