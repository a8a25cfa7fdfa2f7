"""The Open Inference Protocol V2 over gRPC: one server a worker process, on a port that the kernel shares among them.

On the event loop of the worker, over the same engine as HTTP, with the same keys, limits, deadlines and metrics. Knows
gRPC; what is in a message is rpc_messages.py's affair.
"""

import asyncio
import ipaddress
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc

from service import VERSION, errors
from service.api import inference_pb2 as pb
from service.api import oip_grpc_messages as messages
from service.api import oip_infer as v2_infer
from service.api.oip import EXTENSIONS
from service.api.problems import TABLE, kind_of
from service.api.rate_limit_headers import key_of
from service.api.request_context import CANCELLED, OK, mint_id
from service.api.request_headers import Head
from service.errors import InternalError, ServiceError
from service.scheduling.job import InferenceRequest
from service.worker import Worker

log = logging.getLogger(__name__)

SERVICE = "inference.GRPCInferenceService"
GRACE_S = 1.0  # to hand out what the engine has answered, when the process ends
HEADS_BYTES = 16 * 1024  # of a request's metadata
Code = grpc.StatusCode
CODES: dict[type[ServiceError], grpc.StatusCode] = {
    errors.InvalidRequest: Code.INVALID_ARGUMENT,
    errors.Malformed: Code.INVALID_ARGUMENT,
    errors.UnknownModel: Code.NOT_FOUND,
    errors.TooLarge: Code.OUT_OF_RANGE,
    errors.HeadTooLarge: Code.RESOURCE_EXHAUSTED,
    errors.HeadTooSlow: Code.DEADLINE_EXCEEDED,
    errors.Unauthorized: Code.UNAUTHENTICATED,
    errors.ForeignOrigin: Code.PERMISSION_DENIED,
    errors.NotFound: Code.UNIMPLEMENTED,
    errors.MethodNotAllowed: Code.UNIMPLEMENTED,
    errors.UnsupportedMedia: Code.INVALID_ARGUMENT,
    errors.Overloaded: Code.RESOURCE_EXHAUSTED,
    errors.RateLimited: Code.RESOURCE_EXHAUSTED,
    errors.DeadlinePassed: Code.DEADLINE_EXCEEDED,
    errors.Unavailable: Code.UNAVAILABLE,
    errors.ClientGone: Code.CANCELLED,
    errors.InternalError: Code.INTERNAL,
}

Run = Callable[[Worker, Any, InferenceRequest], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method of the service. `open`: without a key, as whoever probes has none."""

    name: str
    takes: Any
    run: Run
    open: bool = False


async def _live(worker: Worker, request: Any, call: InferenceRequest) -> Any:
    return pb.ServerLiveResponse(live=True)


async def _ready(worker: Worker, request: Any, call: InferenceRequest) -> Any:
    return pb.ServerReadyResponse(ready=worker.ready)


async def _server(worker: Worker, request: Any, call: InferenceRequest) -> Any:
    return pb.ServerMetadataResponse(name="seqserve", version=VERSION, extensions=EXTENSIONS[1:])


async def _model_ready(worker: Worker, request: Any, call: InferenceRequest) -> Any:
    v2_infer.graph_of(worker, request.name, request.version)
    return pb.ModelReadyResponse(ready=True)


async def _model(worker: Worker, request: Any, call: InferenceRequest) -> Any:
    return messages.metadata_of(v2_infer.graph_of(worker, request.name, request.version))


async def _config(worker: Worker, request: Any, call: InferenceRequest) -> Any:
    return messages.config_of(v2_infer.graph_of(worker, request.name, request.version))


async def _index(worker: Worker, request: Any, call: InferenceRequest) -> Any:
    return messages.index_of(worker.engine.tensor_runtimes().values())


async def _infer(worker: Worker, request: Any, call: InferenceRequest) -> Any:
    graph = v2_infer.graph_of(worker, request.model_name, request.model_version)
    found = await v2_infer.infer(worker, graph, messages.request_of(request), call)
    return messages.answer_of(graph, request.id, found)


STREAMS = 64  # calls at once on one connection, more wait at the client
IDLE_MS, AGE_MS = 300_000, 3_600_000  # of a connection: without a call, and at all; its calls end in peace

METHODS = (
    Method(name="ServerLive", takes=pb.ServerLiveRequest, run=_live, open=True),
    Method(name="ServerReady", takes=pb.ServerReadyRequest, run=_ready, open=True),
    Method(name="ServerMetadata", takes=pb.ServerMetadataRequest, run=_server),
    Method(name="ModelReady", takes=pb.ModelReadyRequest, run=_model_ready),
    Method(name="ModelMetadata", takes=pb.ModelMetadataRequest, run=_model),
    Method(name="ModelConfig", takes=pb.ModelConfigRequest, run=_config),
    Method(name="RepositoryIndex", takes=pb.RepositoryIndexRequest, run=_index),
    Method(name="ModelInfer", takes=pb.ModelInferRequest, run=_infer),
)


async def start(worker: Worker) -> tuple[Any, int]:
    """Return a server that answers, and its port. Raises RuntimeError if the port cannot be had."""
    settings = worker.settings
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 1),
            ("grpc.max_receive_message_length", settings.body_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.absolute_max_metadata_size", HEADS_BYTES),
            # A message is held while it comes, before a key is looked at and a deadline begins: few at a time, then.
            ("grpc.max_concurrent_streams", STREAMS),
            ("grpc.max_connection_idle_ms", IDLE_MS),
            ("grpc.max_connection_age_ms", AGE_MS),
            ("grpc.max_connection_age_grace_ms", int(settings.deadline_max_s * 1000)),
        ],
        maximum_concurrent_rpcs=settings.queue_requests,
    )
    handlers = {
        method.name: grpc.unary_unary_rpc_method_handler(
            _answering(worker, method),
            request_deserializer=method.takes.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
        for method in METHODS
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    port = server.add_insecure_port(f"{settings.grpc_host}:{settings.grpc_port}")
    await server.start()
    log.info("gRPC on %s:%d", settings.grpc_host, port)
    return server, port


async def stop(server: Any) -> None:
    """End a server after what is under way. To be called once the engine has drained."""
    await server.stop(GRACE_S)


def _answering(worker: Worker, method: Method) -> Callable[[Any, Any], Awaitable[Any]]:
    """A method as grpc wants it: what it raises becomes a status, and every call is counted."""
    route = f"/{SERVICE}/{method.name}"

    async def answer(request: Any, context: Any) -> Any:
        began_s, outcome = time.monotonic(), CANCELLED
        head = _head(route, context)
        request_id = mint_id(head).decode()
        try:
            try:
                call = InferenceRequest(
                    request_id=request_id,
                    route=route,
                    deadline_s=_deadline_s(worker, context),
                    is_disconnected=context.done,
                )
                if not method.open:
                    _enter(worker, head, context)
                answered = await method.run(worker, request, call)
                outcome = OK
                return answered
            except asyncio.CancelledError:  # the client has cancelled, or its deadline is over
                outcome = TABLE[errors.ClientGone].slug
                raise
            except ServiceError as cause:
                error = cause
            except Exception as cause:
                log.error("request %s on %s failed", request_id, route, exc_info=cause)
                error = InternalError()
            outcome = kind_of(error).slug
            if not isinstance(error, errors.ClientGone | InternalError):
                worker.telemetry.rejected(outcome)
            await context.abort(code_of(error), error.message, trailing_metadata=_trailing(error, request_id))
        finally:
            model = getattr(request, "model_name", "") or getattr(request, "name", "")
            worker.telemetry.request(route, model, outcome, time.monotonic() - began_s)

    return answer


def code_of(error: ServiceError) -> grpc.StatusCode:
    """Return the status of an error; a subclass that the table does not name has that of its base."""
    return next(CODES[cls] for cls in type(error).__mro__ if cls in CODES)


def _head(route: str, context: Any) -> Head:
    """The metadata of a call as the head of a request."""
    pairs = [(name, value) for name, value in context.invocation_metadata() or () if isinstance(value, str)]
    return Head.of("POST", route, [(name.encode(), value.encode("utf-8", "replace")) for name, value in pairs])


def _deadline_s(worker: Worker, context: Any) -> float:
    left_s = context.time_remaining()
    given = left_s is not None and math.isfinite(left_s)
    seconds = min(left_s, worker.settings.deadline_max_s) if given else worker.settings.deadline_s
    return time.monotonic() + float(seconds)


def _enter(worker: Worker, head: Head, context: Any) -> None:
    """Let the client in, or raise Unauthorized or RateLimited."""
    gate = worker.gate
    if gate is None:
        return
    guest = gate.enter(key_of(head) if gate.wants_keys else None, lambda: _address(context.peer()))
    refused = guest.meter.take() if guest.meter is not None else None
    if refused is not None:
        raise refused


def _address(peer: str) -> str:
    """The address in ``ipv4:127.0.0.1:5000`` or ``ipv6:[::1]:5000``; of a socket that has none, "::"."""
    kind, _, rest = peer.partition(":")
    host = rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")
    try:
        return str(ipaddress.ip_address(host)) if kind in ("ipv4", "ipv6") else "::"
    except ValueError:
        return "::"


def _trailing(error: ServiceError, request_id: str) -> tuple[tuple[str, str], ...]:
    after_s = error.details.get("retry_after_s")
    retry = (("retry-after", str(max(1, math.ceil(after_s)))),) if isinstance(after_s, int | float) else ()
    return (("x-request-id", request_id), *retry)
