"""The JSON of the Open Inference Protocol V2: what is read, checked, and what is answered, as types.

Knows names and types of fields. Knows no model and no HTTP.
"""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

Name = Annotated[str, Field(min_length=1, max_length=128)]
Datatype = Literal["BYTES", "FP32", "INT32"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class InputParameters(_Part):
    """``binary_data_size``: the elements are so many bytes after the JSON."""

    binary_data_size: Annotated[int, Field(ge=0)] | None = None


class InferInput(_Part):
    """One tensor. ``data``: its elements in row-major order, flat or nested as the shape is."""

    name: Name
    shape: Annotated[list[int], Field(fail_fast=True)]
    datatype: str = Field(description="BYTES, FP32 or INT32")
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = None


class OutputParameters(_Part):
    """``binary_data``: as bytes after the JSON, whatever the request says of all outputs."""

    binary_data: bool | None = None


class InferOutput(_Part):
    """One tensor that is wanted."""

    name: Name
    parameters: OutputParameters = OutputParameters()


class InferRequest(_Part):
    """Texts, or the tensors of a graph. ``parameters``: those of the task, ``timeout``, ``binary_data_output``."""

    id: Annotated[str, Field(max_length=256)] | None = None
    model_name: Name | None = Field(default=None, description="as in the path: KServe's client says it again")
    model_version: Annotated[str, Field(max_length=128)] | None = Field(default=None, description="as in the path")
    parameters: dict[str, Any] = {}
    inputs: Annotated[list[InferInput], Field(min_length=1, max_length=64, fail_fast=True)]
    outputs: Annotated[list[InferOutput], Field(max_length=64, fail_fast=True)] = []


INFER: TypeAdapter[InferRequest] = TypeAdapter(InferRequest)


class SizeOfBytes(TypedDict):
    """How many bytes after the JSON are this tensor's."""

    binary_data_size: int


class OutputTensor(TypedDict):
    """One tensor; ``data`` is flat, in row-major order, and missing where the bytes follow the JSON."""

    name: str
    datatype: Datatype
    shape: list[int]
    data: NotRequired[list[Any]]
    parameters: NotRequired[SizeOfBytes]


class InferAnswer(TypedDict):
    """The tensors that were asked for, all by default."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: NotRequired[str]


class Failed(TypedDict):
    """What is wrong, in one sentence."""

    error: str


class Live(TypedDict):
    """Whether the process runs."""

    live: bool


class Ready(TypedDict):
    """Whether requests are taken."""

    ready: bool


class ModelReady(TypedDict):
    """Whether a model is served."""

    name: str
    ready: bool


class Server(TypedDict):
    """Who answers, and what it can do beside the protocol itself."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(TypedDict):
    """An input or output; -1: of any size."""

    name: str
    datatype: Datatype
    shape: list[int]


class ModelMetadata(TypedDict):
    """The tensors of a model: those of text first, then those of its graph."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ConfigTensor(TypedDict):
    """As TensorMetadata, in the words of Triton's configuration."""

    name: str
    data_type: Literal["TYPE_STRING", "TYPE_FP32", "TYPE_INT32"]
    dims: list[int]


class ModelConfig(TypedDict):
    """What a Triton server's configuration would say."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[ConfigTensor]
    output: list[ConfigTensor]


class IndexedModel(TypedDict):
    """One model of the repository."""

    name: str
    version: str
    state: Literal["READY"]
    reason: str
