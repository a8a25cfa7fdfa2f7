"""The Open Inference Protocol V2 (KServe, Triton): its messages, and its HTTP routes.

The body of an inference is JSON, or JSON followed by the bytes of its tensors (the binary tensor data extension).
gRPC answers with the same messages.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, NotRequired

import orjson
from pydantic import ConfigDict, Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from service import VERSION
from service.api import fields, oip_inference, schemas
from service.api.oip_inference import (
    BYTES,
    DATATYPES,
    OIPInference,
    OIPTensor,
    from_bytes,
    from_values,
    to_bytes,
    to_values,
)
from service.api.pipeline import RequestContext
from service.api.problems import OIP_ERROR
from service.api.request_headers import HEADER_LENGTH, JSON, OCTETS
from service.api.routes import READ, Card, Docs, Reply, Route
from service.errors import DeadlinePassed, Forbidden, InvalidRequest, LoadFailed, UnknownModel, shown
from service.model_runtime import ModelRuntime, TensorRuntime
from service.releases import Releases
from service.repository import versions_on_disk
from service.settings import Settings
from service.worker import Worker

PLATFORM = "onnxruntime_onnx"
HTTP_EXTENSIONS = ("binary_tensor_data",)
EXTENSIONS = ("model_configuration", "model_repository")
MAX_TENSORS = 64  # inputs or outputs of one request
CONFIG_TYPES = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32", "INT32": "TYPE_INT32"}
TensorName = Annotated[str, Field(min_length=1, max_length=128)]
Datatype = Literal["BYTES", "FP32", "INT32"]


class TensorParameters(fields.RequestModel):
    """Parameters of a tensor. Those that do not change the answer, such as ``content_type: str``, are ignored."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": True})


class InputParameters(TensorParameters):
    """``binary_data_size``: the elements are this many bytes after the JSON."""

    binary_data_size: Annotated[int, Field(ge=0)] | None = None


class InferInput(fields.RequestModel):
    """One tensor. ``data`` has its elements in row-major order, flat or nested as its shape."""

    name: TensorName
    shape: Annotated[list[int], Field(fail_fast=True)]
    datatype: str = Field(description="BYTES, FP32 or INT32")
    parameters: InputParameters | None = None
    data: list[Any] | None = None


class OutputParameters(TensorParameters):
    """``binary_data``: return this tensor as bytes after the JSON; overrides ``binary_data_output``."""

    binary_data: bool | None = None


class InferOutput(fields.RequestModel):
    """One requested tensor."""

    name: TensorName
    parameters: OutputParameters | None = None


class InferRequest(fields.RequestModel):
    """Texts, or the tensors of a graph. ``parameters``: those of the task, ``timeout`` and ``binary_data_output``."""

    id: Annotated[str, Field(max_length=256)] | None = None
    model_name: TensorName | None = Field(default=None, description="as in the path; KServe's client repeats it")
    model_version: Annotated[str, Field(max_length=128)] | None = Field(default=None, description="as in the path")
    parameters: dict[str, Any] | None = None
    inputs: Annotated[list[InferInput], Field(min_length=1, max_length=MAX_TENSORS, fail_fast=True)]
    outputs: Annotated[list[InferOutput], Field(max_length=MAX_TENSORS, fail_fast=True)] | None = None


class BinaryDataSize(TypedDict):
    """How many bytes after the JSON belong to this tensor."""

    binary_data_size: int


class InferredTensor(TypedDict):
    """One tensor. ``data`` is flat, in row-major order, and missing if the bytes follow the JSON."""

    name: str
    datatype: Datatype
    shape: list[int]
    data: NotRequired[list[Any]]
    parameters: NotRequired[BinaryDataSize]


class InferAnswer(TypedDict):
    """The requested tensors, all by default."""

    model_name: str
    model_version: str
    outputs: list[InferredTensor]
    id: NotRequired[str]


class ServerLive(TypedDict):
    """Whether the process runs."""

    live: bool


class ServerReady(TypedDict):
    """Whether the service takes requests."""

    ready: bool


class ModelReady(TypedDict):
    """Whether the model is served."""

    name: str
    ready: bool


class ServerMetadata(TypedDict):
    """The server and its extensions of the protocol."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(TypedDict):
    """An input or output; a size of -1 is any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(TypedDict):
    """The tensors of a model: those for text first, then those of its graph."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ConfigTensor(TypedDict):
    """A TensorMetadata in the terms of Triton's configuration."""

    name: str
    data_type: Literal["TYPE_STRING", "TYPE_FP32", "TYPE_INT32"]
    dims: list[int]


class ModelConfig(TypedDict):
    """The model's configuration as a Triton server returns it."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[ConfigTensor]
    output: list[ConfigTensor]


class IndexedModel(TypedDict):
    """One version of a model. ``reason``: why it is not served."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class IndexRequest(fields.RequestModel):
    """``ready``: list only versions that are served."""

    ready: bool | None = None


class LoadParameters(fields.RequestModel):
    """What clients of Triton send. Models here have no dependents, and their configuration is in their directory."""

    not_offered = frozenset(("config",))

    unload_dependents: bool | None = None


class LoadRequest(fields.RequestModel):
    """Body of a load or unload request. It may be missing."""

    parameters: LoadParameters | None = None


def server_metadata(extensions: Iterable[str]) -> ServerMetadata:
    return {"name": "seqserve", "version": VERSION, "extensions": list(extensions)}


def model_metadata(runtime: TensorRuntime) -> ModelMetadata:
    inputs: list[TensorMetadata] = [
        {"name": name, "datatype": BYTES, "shape": [-1]} for name in oip_inference.text_inputs(runtime)
    ]
    outputs: list[TensorMetadata] = [
        {
            "name": name,
            "datatype": oip_inference.OUTPUT_DATATYPES.get(name, BYTES),
            "shape": oip_inference.output_shape(name, runtime),
        }
        for name in oip_inference.text_outputs(runtime)
    ]
    for side, ports in ((inputs, runtime.inputs), (outputs, runtime.outputs)):
        for port in ports:
            shape = [-1 if size is None else size for size in port.shape]
            side.append({"name": port.name, "datatype": DATATYPES[port.dtype], "shape": shape})
    return {
        "name": runtime.name,
        "versions": [runtime.version],
        "platform": PLATFORM,
        "inputs": inputs,
        "outputs": outputs,
    }


def model_config(runtime: TensorRuntime) -> dict[str, Any]:
    metadata = model_metadata(runtime)
    input_, output = (
        [{"name": each["name"], "data_type": CONFIG_TYPES[each["datatype"]], "dims": each["shape"]} for each in side]
        for side in (metadata["inputs"], metadata["outputs"])
    )
    return {
        "name": runtime.name,
        "platform": PLATFORM,
        "backend": "onnxruntime",
        "max_batch_size": 0,
        "input": input_,
        "output": output,
    }


async def model_index(worker: Worker, *, only_ready: bool) -> list[IndexedModel]:
    """Return the versions that are served and, where they can change, the others on disk."""
    models = worker.engine.catalog.models
    index: list[IndexedModel] = [
        {"name": name, "version": version, "state": "READY", "reason": ""}
        for name, model in models.items()
        for version in model.versions
    ]
    if only_ready or worker.releases is None:
        return index
    on_disk = await asyncio.to_thread(versions_on_disk, worker.settings, worker.releases.failures())
    index += [
        {"name": name, "version": version, "state": "UNAVAILABLE", "reason": failure or "not served"}
        for name, version, failure in on_disk
        if name not in models or version not in models[name].versions
    ]
    return index


async def _live(context: RequestContext, _: bytes) -> ServerLive:
    return {"live": True}


async def _ready(context: RequestContext, _: bytes) -> ServerReady:
    context.worker.check_ready()
    return {"ready": True}


async def _server(context: RequestContext, _: bytes) -> ServerMetadata:
    return server_metadata([*HTTP_EXTENSIONS, *EXTENSIONS])


async def _index(context: RequestContext, body: bytes) -> list[IndexedModel]:
    request = schemas.parse_body(IndexRequest, body or b"{}", context.worker.settings)
    return await model_index(context.worker, only_ready=bool(request.ready))


async def _load(context: RequestContext, body: bytes) -> Reply:
    await _release(context, body).load(context.path_params["id"])
    return Reply(body=b"")


async def _unload(context: RequestContext, body: bytes) -> Reply:
    await _release(context, body).unload(context.path_params["id"])
    return Reply(body=b"")


def _release(context: RequestContext, body: bytes) -> Releases:
    context.check_admin()
    context.model = context.path_params["id"]
    schemas.parse_body(LoadRequest, body or b"{}", context.worker.settings)
    return oip_inference.find_releases(context.worker)


async def _model(context: RequestContext, _: bytes) -> ModelMetadata:
    return model_metadata(_runtime(context).tensors)


async def _model_ready(context: RequestContext, _: bytes) -> ModelReady:
    runtime = _runtime(context)
    runtime.check_ready()
    return {"name": runtime.name, "ready": True}


async def _config(context: RequestContext, _: bytes) -> dict[str, Any]:
    return model_config(_runtime(context).tensors)


def _runtime(context: RequestContext) -> ModelRuntime:
    path = context.path_params
    runtime = oip_inference.find_runtime(context.worker, path["id"], path.get("version", ""))
    context.model = runtime.name
    return runtime


async def _infer(context: RequestContext, body: bytes) -> Reply:
    runtime = _runtime(context)
    header_length, settings = context.headers.get(HEADER_LENGTH), context.worker.settings
    request, inputs = await context.worker.parser.run(_parse, body, header_length, settings, size=len(body))
    path = context.path_params
    for field, value, expected, in_path in (
        ("model_name", request.model_name, runtime.name, path["id"]),
        ("model_version", request.model_version, runtime.version, path.get("version")),
    ):
        if value not in (None, expected, in_path):
            raise InvalidRequest(f"{shown(value)!r} differs from the path, {expected!r}", field=field, value=value)
    parameters = dict(request.parameters or {})
    binary = parameters.pop("binary_data_output", None)
    if not isinstance(binary, bool | None):
        raise InvalidRequest("must be true or false", field="parameters.binary_data_output", value=binary)
    outputs = request.outputs or []
    for number, output in enumerate(outputs):
        if output.parameters is not None:
            oip_inference.check_tensor_parameters(f"outputs[{number}]", output.parameters.model_extra or {})
    inference = OIPInference(
        inputs=oip_inference.by_name(inputs),
        outputs=[output.name for output in outputs],
        parameters=parameters,
    )
    tensors = await oip_inference.infer(context.worker, runtime, inference, context.request)
    overrides = {output.name: output.parameters.binary_data for output in outputs if output.parameters is not None}
    as_bytes = {
        tensor.name for tensor in tensors if (binary if overrides.get(tensor.name) is None else overrides[tensor.name])
    }
    return _reply(runtime, request.id, tensors, as_bytes)


def _parse(body: bytes, header_length: bytes | None, settings: Settings) -> tuple[InferRequest, list[OIPTensor]]:
    """Return the request and its inputs, which are in its JSON or after it. Raises InvalidRequest."""
    length = len(body)
    if header_length is not None:
        length = int(header_length) if header_length.isdigit() and len(header_length) < 10 else -1
        if not 0 <= length <= len(body):
            raise InvalidRequest(
                f"must be 0 to {len(body)}, the bytes of the body",
                field="Inference-Header-Content-Length",
                limit=len(body),
                value=header_length.decode("latin-1"),
            )
    request = schemas.parse_body(InferRequest, body[:length], settings)
    return request, _inputs(request.inputs, memoryview(body)[length:])


def _inputs(inputs: Sequence[InferInput], rest: memoryview) -> list[OIPTensor]:
    """Return the inputs. The elements of each are in the JSON, or are the next bytes after it."""
    tensors, place = [], 0
    for number, given in enumerate(inputs):
        field, size = f"inputs[{number}]", None
        if given.parameters is not None:
            oip_inference.check_tensor_parameters(field, given.parameters.model_extra or {})
            size = given.parameters.binary_data_size
        if size is None:
            tensors.append(from_values(field, given.name, given.datatype, given.shape, given.data))
            continue
        if given.data is not None:
            raise InvalidRequest("has data and binary_data_size; send one of them", field=field)
        left = len(rest) - place
        if size > left:
            message = f"{size} is more than the {left} bytes left after the JSON"
            raise InvalidRequest(message, field=f"{field}.parameters.binary_data_size", limit=left, value=size)
        tensors.append(from_bytes(field, given.name, given.datatype, given.shape, rest[place : place + size]))
        place += size
    if place < len(rest):
        message = f"{len(rest) - place} bytes after the JSON belong to no input; send binary_data_size for each input"
        raise InvalidRequest(message, field="inputs")
    return tensors


def _reply(runtime: ModelRuntime, request_id: str | None, tensors: Sequence[OIPTensor], as_bytes: set[str]) -> Reply:
    outputs: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for tensor in tensors:
        described = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if tensor.name in as_bytes:
            parts.append(to_bytes(tensor))
            outputs.append({**described, "parameters": {"binary_data_size": len(parts[-1])}})
        else:
            outputs.append({**described, "data": to_values(tensor)})
    answer = {"model_name": runtime.name, "model_version": runtime.version, "outputs": outputs}
    if request_id is not None:
        answer["id"] = request_id
    head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    if not parts:
        return Reply(body=head)
    headers = [(HEADER_LENGTH, b"%d" % len(head))]
    return Reply(body=b"".join((head, *parts)), media=OCTETS.encode(), headers=headers)


def example(card: Card) -> Any:
    """Return the body of an inference with the bundle's own example, as JSON; None if it takes only tensors."""
    if {"forecast", "fill"}.intersection(card["tasks"]):
        return None
    document = orjson.dumps(card["examples"][0]).decode()
    return {"inputs": [{"name": oip_inference.JSON, "datatype": BYTES, "shape": [1], "data": [document]}]}


def _docs(summary: str, answer: Any, **more: Any) -> Docs:
    return Docs(group="Open Inference Protocol V2", summary=summary, answer=answer, **more)


def _server_route(path: str, handler: Any, docs: Docs, *, public: bool = False) -> Route:
    return Route(path, READ, handler, error_format=OIP_ERROR, public=public, docs=docs)


def _model_routes(end: str, methods: tuple[str, ...], run: Any, docs: Docs, **more: Any) -> tuple[Route, ...]:
    """Return a route of a model, and the same of one version of it."""
    starts = ("/v2/models/{id}", "/v2/models/{id}/versions/{version}")
    return tuple(Route(start + end, methods, run, error_format=OIP_ERROR, docs=docs, **more) for start in starts)


INFER_DOCS = _docs(
    "Infer from texts, or from the tensors of a graph",
    InferAnswer,
    about="An input `text` or `json` is answered as `/v1` answers it. Any other inputs are those of the graph. Tensors"
    " may follow the JSON as bytes, in both directions. `Inference-Header-Content-Length` is then the length of the"
    " JSON.",
    body=InferRequest,
    example=example,
    infers=True,
)
INDEX_DOCS = _docs("List the versions of the models", list[IndexedModel], body=IndexRequest, example=lambda _: {})
LOAD_DOCS = _docs(
    "Serve what the directory of a model says",
    None,
    about="Answered once all workers serve it. If one of them cannot load a version, nothing changes. Needs"
    " `SEQSERVE_MODEL_CONTROL=explicit` and, where there are API keys, one with the role admin.",
    body=LoadRequest,
    errors=(Forbidden, LoadFailed, UnknownModel, DeadlinePassed),
)
UNLOAD_DOCS = _docs(
    "Stop serving a model",
    None,
    about="As for `load`. Requests and streams in progress are answered.",
    body=LoadRequest,
    errors=(Forbidden, UnknownModel, DeadlinePassed),
)
ROUTES = (
    _server_route("/v2", _server, _docs("Get the server and its extensions", ServerMetadata)),
    _server_route("/v2/health/live", _live, _docs("Check whether the process runs", ServerLive), public=True),
    _server_route("/v2/health/ready", _ready, _docs("Check whether requests are taken", ServerReady), public=True),
    Route("/v2/repository/index", ("POST",), _index, error_format=OIP_ERROR, docs=INDEX_DOCS),
    Route("/v2/repository/models/{id}/load", ("POST",), _load, error_format=OIP_ERROR, docs=LOAD_DOCS),
    Route("/v2/repository/models/{id}/unload", ("POST",), _unload, error_format=OIP_ERROR, docs=UNLOAD_DOCS),
    *_model_routes("", READ, _model, _docs("Get the tensors of a model", ModelMetadata)),
    *_model_routes("/ready", READ, _model_ready, _docs("Check whether a model is served", ModelReady)),
    *_model_routes("/config", READ, _config, _docs("Get a model's configuration", ModelConfig)),
    *_model_routes("/infer", ("POST",), _infer, INFER_DOCS, media=(JSON, OCTETS)),
)
