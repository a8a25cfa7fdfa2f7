"""The Open Inference Protocol V2 over gRPC: one server in each worker process, on a port that the workers share.

It runs on the worker's event loop, with the same engine, keys, limits and deadlines as HTTP.
"""

import asyncio
import contextlib
import ipaddress
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import grpc
import numpy as np
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service import errors
from service.api import inference_pb2 as pb
from service.api import oip, oip_inference
from service.api.oip_inference import (
    BYTES,
    DTYPES,
    OIPInference,
    OIPTensor,
    by_name,
    element_count,
    find_runtime,
    from_bytes,
    to_bytes,
)
from service.api.pipeline import OK, RequestContext
from service.api.problems import GRPC_REMEDIES, TABLE, detail_of, kind_of, retry_after
from service.api.request_headers import RequestHeaders
from service.errors import InvalidRequest, ServiceError, TooLarge, shown
from service.model_runtime import ModelRuntime
from service.releases import Releases
from service.settings import Settings, authority
from service.worker import Worker

log = logging.getLogger(__name__)

SERVICE = "inference.GRPCInferenceService"
HEALTH_SERVICES = ("", SERVICE)  # the whole server, and the one service that it has
HEALTH_S = 1.0  # between two looks at the health that a client watches
MAX_WATCHERS = 64  # at once, because they need no key
GRACE_S = 1.0  # to send the last answers when the process ends
METADATA_BYTES = 16 * 1024  # of one call
# Calls at once on one connection; the client queues the rest. Messages take memory before a key is checked.
CONCURRENT_STREAMS = 64
IDLE_MS, AGE_MS = 300_000, 3_600_000  # of a connection: without a call, and in all
# When a server stops, its GOAWAY can cost calls that are on their way. The limit of a connection's age ends it without
# loss, but is fixed at the start. With a lame duck period, it is this share of the period. gRPC adds up to 10%.
LAME_DUCK_SHARE = 0.75
CONTENTS = {"FP32": "fp32_contents", "INT32": "int_contents", BYTES: "bytes_contents"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcMethod:
    """One method of the service. ``public``: needs no API key, for health probes."""

    name: str
    message: Any  # the type of the request
    handler: Callable[[RequestContext, Any], Awaitable[Any]]
    public: bool = False


async def _live(context: RequestContext, message: Any) -> Any:
    return pb.ServerLiveResponse(live=True)


async def _ready(context: RequestContext, message: Any) -> Any:
    return pb.ServerReadyResponse(ready=context.worker.ready)


async def _server(context: RequestContext, message: Any) -> Any:
    return ParseDict(dict(oip.server_metadata(oip.EXTENSIONS)), pb.ServerMetadataResponse())


async def _model_ready(context: RequestContext, message: Any) -> Any:
    runtime = find_runtime(context.worker, message.name, message.version)
    return pb.ModelReadyResponse(ready=runtime.ready)


async def _model(context: RequestContext, message: Any) -> Any:
    runtime = find_runtime(context.worker, message.name, message.version)
    return ParseDict(dict(oip.model_metadata(runtime.tensors)), pb.ModelMetadataResponse())


async def _config(context: RequestContext, message: Any) -> Any:
    runtime = find_runtime(context.worker, message.name, message.version)
    return ParseDict({"config": oip.model_config(runtime.tensors)}, pb.ModelConfigResponse())


async def _index(context: RequestContext, message: Any) -> Any:
    models = await oip.model_index(context.worker, only_ready=message.ready)
    return ParseDict({"models": models}, pb.RepositoryIndexResponse())


async def _load(context: RequestContext, message: Any) -> Any:
    await _release(context, message).load(message.model_name)
    return pb.RepositoryModelLoadResponse()


async def _unload(context: RequestContext, message: Any) -> Any:
    await _release(context, message).unload(message.model_name)
    return pb.RepositoryModelUnloadResponse()


def _release(context: RequestContext, message: Any) -> Releases:
    context.check_admin()
    for name in message.parameters:
        if name != "unload_dependents":
            raise InvalidRequest("unknown field; remove it", field=f"parameters.{shown(name)}")
    return oip_inference.find_releases(context.worker)


async def _infer(context: RequestContext, message: Any) -> Any:
    runtime = find_runtime(context.worker, message.model_name, message.model_version)
    worker = context.worker
    inference = await worker.parser.run(inference_of, message, worker.settings, size=message.ByteSize())
    tensors = await oip_inference.infer(worker, runtime, inference, context.request)
    return infer_response(runtime, message.id, tensors)


METHODS = (
    GrpcMethod(name="ServerLive", message=pb.ServerLiveRequest, handler=_live, public=True),
    GrpcMethod(name="ServerReady", message=pb.ServerReadyRequest, handler=_ready, public=True),
    GrpcMethod(name="ServerMetadata", message=pb.ServerMetadataRequest, handler=_server),
    GrpcMethod(name="ModelReady", message=pb.ModelReadyRequest, handler=_model_ready),
    GrpcMethod(name="ModelMetadata", message=pb.ModelMetadataRequest, handler=_model),
    GrpcMethod(name="ModelConfig", message=pb.ModelConfigRequest, handler=_config),
    GrpcMethod(name="RepositoryIndex", message=pb.RepositoryIndexRequest, handler=_index),
    GrpcMethod(name="RepositoryModelLoad", message=pb.RepositoryModelLoadRequest, handler=_load),
    GrpcMethod(name="RepositoryModelUnload", message=pb.RepositoryModelUnloadRequest, handler=_unload),
    GrpcMethod(name="ModelInfer", message=pb.ModelInferRequest, handler=_infer),
)


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """``grpc.health.v1``, for probes: whether the worker is ready. It needs no API key."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._stopping = asyncio.Event()
        self._watchers = 0
        worker.on_stop(self._stopping.set)
        worker.on_drain(self._stopping.set)

    async def Check(self, request: Any, call: Any) -> Any:
        if request.service not in HEALTH_SERVICES:
            await call.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {shown(request.service)!r}")
        return self._status()

    async def Watch(self, request: Any, call: Any) -> AsyncIterator[Any]:
        if self._watchers >= MAX_WATCHERS:
            await call.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{self._watchers} probes are watching; send Check instead"
            )
        self._watchers += 1
        try:
            sent = None
            while True:
                unknown = request.service not in HEALTH_SERVICES
                status = health_pb2.HealthCheckResponse(status="SERVICE_UNKNOWN") if unknown else self._status()
                if status != sent:
                    yield status
                    sent = status
                # The shutdown is announced immediately, and other changes within a second.
                wait = asyncio.sleep(HEALTH_S) if self._stopping.is_set() else self._stopping.wait()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(wait, HEALTH_S)
        finally:
            self._watchers -= 1

    def _status(self) -> Any:
        return health_pb2.HealthCheckResponse(status="SERVING" if self._worker.ready else "NOT_SERVING")


async def start(worker: Worker) -> tuple[Any, int]:
    """Start a server and return it with its port. Raises RuntimeError if the port is not available."""
    settings = worker.settings
    age_ms = int(settings.lame_duck_s * 1000 * LAME_DUCK_SHARE)
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 1),
            ("grpc.max_receive_message_length", settings.body_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.absolute_max_metadata_size", METADATA_BYTES),
            ("grpc.max_concurrent_streams", CONCURRENT_STREAMS),
            ("grpc.max_connection_idle_ms", IDLE_MS),
            ("grpc.max_connection_age_ms", min(age_ms, AGE_MS) if age_ms else AGE_MS),
            ("grpc.max_connection_age_grace_ms", int(settings.deadline_max_s * 1000)),
        ],
        maximum_concurrent_rpcs=settings.queue_requests,
    )
    handlers = {
        method.name: grpc.unary_unary_rpc_method_handler(
            _handler(worker, method),
            response_serializer=lambda message: message.SerializeToString(),
        )
        for method in METHODS
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    health_pb2_grpc.add_HealthServicer_to_server(Health(worker), server)
    port = server.add_insecure_port(authority(settings.grpc_host, settings.grpc_port))
    await server.start()
    log.info("gRPC listens on %s", authority(settings.grpc_host, port))
    return server, port


async def stop(server: Any) -> None:
    """Stop a server after its running calls. Call it once the engine has drained."""
    await server.stop(GRACE_S)


def _handler(worker: Worker, method: GrpcMethod) -> Callable[[bytes, Any], Awaitable[Any]]:
    """Return the pipeline of one method, from the bytes of a request to its response."""
    route = f"/{SERVICE}/{method.name}"

    async def answer(body: bytes, call: Any) -> Any:
        context = RequestContext(
            worker,
            route,
            _headers(call),
            client_address=lambda: peer_address(call.peer()),
            is_disconnected=call.done,
        )
        try:
            await context.begin(authenticate=not method.public, timeout_s=_timeout_s(worker, call))
            message = await worker.parser.run(_parse, method.message, body, size=len(body))
            context.model = getattr(message, "model_name", "") or getattr(message, "name", "")
            response = await method.handler(context, message)
            if (model := context.request.model) is not None:
                call.set_trailing_metadata((("x-model", model.label.decode()),))
            context.outcome = OK
            return response
        except asyncio.CancelledError:  # the client has canceled, or its deadline has passed
            context.outcome = TABLE[errors.ClientGone].slug
            raise
        except Exception as cause:
            error = context.fail(cause)
            trailing = [("x-request-id", context.request.request_id)]
            if (seconds := retry_after(error)) is not None:
                trailing.append(("retry-after", str(seconds)))
            await call.abort(status_of(error), detail_of(error, GRPC_REMEDIES), trailing_metadata=tuple(trailing))
        finally:
            context.finish()

    return answer


def _parse(message: Any, body: bytes) -> Any:
    """Return the message in ``body``. Raises InvalidRequest for bytes that are not a protobuf message."""
    try:
        return message.FromString(body)
    except DecodeError:
        raise InvalidRequest(f"the request is not a {message.DESCRIPTOR.name} message") from None


def status_of(error: ServiceError) -> grpc.StatusCode:
    return grpc.StatusCode[kind_of(error).grpc_status]


def _headers(call: Any) -> RequestHeaders:
    """Return the metadata of a call as request headers."""
    pairs = [(name, value) for name, value in call.invocation_metadata() or () if isinstance(value, str)]
    return RequestHeaders.of([(name.encode(), value.encode("utf-8", "replace")) for name, value in pairs])


def _timeout_s(worker: Worker, call: Any) -> float:
    left_s = call.time_remaining()
    return float(left_s) if left_s is not None and math.isfinite(left_s) else worker.settings.deadline_s


def peer_address(peer: str) -> str:
    """Return the address in ``ipv4:127.0.0.1:5000`` or ``ipv6:[::1]:5000``, "" for a socket without one."""
    kind, _, rest = peer.partition(":")
    host = rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")
    try:
        return str(ipaddress.ip_address(host)) if kind in ("ipv4", "ipv6") else ""
    except ValueError:
        return ""


def inference_of(message: pb.ModelInferRequest, settings: Settings) -> OIPInference:
    """Return the inference that a message requests. Raises InvalidRequest, and TooLarge for too many elements."""
    limit = oip.MAX_TENSORS
    if not 0 < len(message.inputs) <= limit or len(message.outputs) > limit:
        raise InvalidRequest(f"send 1 to {limit} inputs, and at most {limit} outputs", field="inputs", limit=limit)
    for place, output in enumerate(message.outputs):
        oip_inference.check_tensor_parameters(f"outputs[{place}]", _parameters(output.parameters))
    return OIPInference(
        inputs=by_name(_inputs(message, 4 * settings.request_tokens)),
        outputs=[output.name for output in message.outputs],
        parameters=_parameters(message.parameters),
    )


def _inputs(message: pb.ModelInferRequest, limit: int) -> Iterable[OIPTensor]:
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidRequest(
            f"{len(raw)} entries for {len(message.inputs)} inputs; send one for each input, or none",
            field="raw_input_contents",
            limit=len(message.inputs),
            value=len(raw),
        )
    for place, given in enumerate(message.inputs):
        field, shape = f"inputs[{place}]", list(given.shape)
        oip_inference.check_tensor_parameters(field, _parameters(given.parameters))
        if not raw:
            yield _from_contents(field, given, shape, limit)
        elif given.HasField("contents"):
            raise InvalidRequest("has contents and raw_input_contents; send one of them", field=field)
        else:
            yield from_bytes(field, given.name, given.datatype, shape, raw[place])


def _from_contents(field: str, given: pb.ModelInferRequest.InferInputTensor, shape: list[int], limit: int) -> OIPTensor:
    elements = element_count(field, given.datatype, shape)
    contents = CONTENTS[given.datatype]
    values = cast(Sequence[Any], getattr(given.contents, contents))
    if len(values) != elements:
        message = f"{len(values)} {contents}, but its shape has {elements} elements"
        raise InvalidRequest(message, field=f"{field}.contents", limit=elements, value=len(values))
    if elements > limit:  # each of them becomes a Python object
        message = f"{elements} elements; the limit is {limit}; send raw_input_contents, or several requests"
        raise TooLarge(message, field=f"{field}.contents", limit=limit, value=elements)
    numbers = given.datatype != BYTES
    data = np.array(values, DTYPES[given.datatype]).reshape(shape) if numbers else list(values)
    return OIPTensor(name=given.name, datatype=given.datatype, shape=tuple(shape), data=data)


def _parameters(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    """Return the parameters that have a value."""
    kinds = {name: parameter.WhichOneof("parameter_choice") for name, parameter in parameters.items()}
    return {name: getattr(parameters[name], kind) for name, kind in kinds.items() if kind is not None}


def infer_response(runtime: ModelRuntime, request_id: str, tensors: Sequence[OIPTensor]) -> pb.ModelInferResponse:
    """Return the message that holds the tensors as raw bytes."""
    response = pb.ModelInferResponse(model_name=runtime.name, model_version=runtime.version, id=request_id)
    for tensor in tensors:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        response.raw_output_contents.append(to_bytes(tensor))
    return response
