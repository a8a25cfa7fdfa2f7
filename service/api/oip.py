"""The Open Inference Protocol V2 (KServe, Triton) over HTTP: health, metadata and inference.

JSON, or JSON followed by the bytes of the tensors (the binary tensor data extension). Knows HTTP bodies; what is done
with the tensors is v2_infer.py's affair.
"""

from collections.abc import Sequence
from typing import Any

import orjson
from pydantic import ValidationError

from service import VERSION
from service.api import oip_bodies as bodies
from service.api import oip_infer as v2_infer
from service.api import oip_inputs as v2_inputs
from service.api import schemas
from service.api.oip_tensors import BYTES, DATATYPES, Tensor, from_bytes, from_values, to_bytes, to_values
from service.api.problems import Dialect
from service.api.request_context import RequestContext
from service.api.request_headers import HEADER_LENGTH, JSON, OCTETS
from service.api.routes import READ, Card, Docs, Reply, Route
from service.errors import InvalidRequest, shown
from service.tensor_runtime import TensorRuntime

PLATFORM = "onnxruntime_onnx"
EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository"]
DIALECT = Dialect(
    media=JSON.encode(), body=lambda error, _: orjson.dumps({"error": error.message}), schema=bodies.Failed
)


async def _live(exchange: RequestContext, _: bytes) -> Any:
    return {"live": True}


async def _ready(exchange: RequestContext, _: bytes) -> Any:
    return {"ready": exchange.worker.engine.ready}


async def _server(exchange: RequestContext, _: bytes) -> Any:
    return {"name": "seqserve", "version": VERSION, "extensions": EXTENSIONS}


async def _index(exchange: RequestContext, _: bytes) -> Any:
    graphs = exchange.worker.engine.tensor_runtimes().values()
    return [{"name": graph.name, "version": graph.version, "state": "READY", "reason": ""} for graph in graphs]


async def _model(exchange: RequestContext, _: bytes) -> Any:
    graph = _graph(exchange)
    inputs, outputs = tensors(graph)
    return {
        "name": graph.name,
        "versions": [graph.version],
        "platform": PLATFORM,
        "inputs": [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in inputs],
        "outputs": [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in outputs],
    }


async def _model_ready(exchange: RequestContext, _: bytes) -> Any:
    graph = _graph(exchange)
    return {"name": graph.name, "ready": exchange.worker.engine.ready}


async def _config(exchange: RequestContext, _: bytes) -> Any:
    graph = _graph(exchange)
    parts = [
        [{"name": name, "data_type": CONFIG_TYPES[datatype], "dims": shape} for name, datatype, shape in side]
        for side in tensors(graph)
    ]
    return {
        "name": graph.name,
        "platform": PLATFORM,
        "backend": "onnxruntime",
        "max_batch_size": 0,
        "input": parts[0],
        "output": parts[1],
    }


CONFIG_TYPES = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32", "INT32": "TYPE_INT32"}
Described = list[tuple[str, str, list[int]]]  # name, datatype and shape; -1: of any size


def tensors(graph: TensorRuntime) -> tuple[Described, Described]:
    """The inputs and the outputs of a model: those of text first, then those of its graph."""
    inputs: Described = [(name, BYTES, [-1]) for name in v2_inputs.text_inputs(graph)]
    outputs = [(name, *v2_infer.described(name, graph)) for name in v2_infer.text_outputs(graph)]
    for side, ports in ((inputs, graph.inputs), (outputs, graph.outputs)):
        side += [(p.name, DATATYPES[p.dtype], [-1 if size is None else size for size in p.shape]) for p in ports]
    return inputs, outputs


def _graph(exchange: RequestContext) -> TensorRuntime:
    names = exchange.names
    graph = v2_infer.graph_of(exchange.worker, names["id"], names.get("version", ""))
    exchange.model = graph.name
    return graph


async def _infer(exchange: RequestContext, body: bytes) -> Reply:
    graph = _graph(exchange)
    asked, rest = _parse(body, exchange.head.fields.get(HEADER_LENGTH))
    for field, said, is_so in (
        ("model_name", asked.model_name, graph.name),
        ("model_version", asked.model_version, graph.version),
    ):
        if said not in (None, is_so):
            raise InvalidRequest(f"{field} is {shown(said)!r}, but the path says {is_so!r}", field=field, value=said)
    parameters = dict(asked.parameters)
    binary = parameters.pop("binary_data_output", False)
    if not isinstance(binary, bool):
        raise InvalidRequest(
            "parameters.binary_data_output must be true or false", field="parameters.binary_data_output", value=binary
        )
    request = v2_infer.Request(
        inputs=v2_inputs.by_name(_inputs(asked.inputs, rest)),
        outputs=[output.name for output in asked.outputs],
        parameters=parameters,
    )
    found = await v2_infer.infer(exchange.worker, graph, request, exchange.call)
    wanted = {output.name: output.parameters.binary_data for output in asked.outputs}
    own = {name: binary if asks is None else asks for name, asks in wanted.items()}
    return _reply(graph, asked.id, found, [tensor.name for tensor in found if own.get(tensor.name, binary)])


def _parse(body: bytes, header_length: bytes | None) -> tuple[bodies.InferRequest, memoryview]:
    """The JSON and the bytes after it. Raises InvalidRequest."""
    length = len(body)
    if header_length is not None:
        length = int(header_length) if header_length.isdigit() and len(header_length) < 10 else -1
        if not 0 <= length <= len(body):
            raise InvalidRequest(
                f"Inference-Header-Content-Length must be 0 to {len(body)}, the bytes of the body",
                field="Inference-Header-Content-Length",
                limit=len(body),
                value=header_length.decode("latin-1"),
            )
    try:
        return bodies.INFER.validate_json(body[:length]), memoryview(body)[length:]
    except ValidationError as error:
        raise schemas.invalid(error) from None


def _inputs(inputs: Sequence[bodies.InferInput], rest: memoryview) -> list[Tensor]:
    """Every input: its elements are in the JSON, or are the next bytes after it."""
    found, place = [], 0
    for number, given in enumerate(inputs):
        field, size = f"inputs[{number}]", given.parameters.binary_data_size
        if size is None:
            found.append(from_values(field, given.name, given.datatype, given.shape, given.data))
            continue
        if given.data is not None:
            raise InvalidRequest(f"{field} has data and binary_data_size; send one of them", field=field)
        if place + size > len(rest):
            raise InvalidRequest(
                f"{field}.parameters.binary_data_size is {size}, but {len(rest) - place} bytes are left after the JSON",
                field=f"{field}.parameters.binary_data_size",
                limit=len(rest) - place,
                value=size,
            )
        found.append(from_bytes(field, given.name, given.datatype, given.shape, rest[place : place + size]))
        place += size
    if place < len(rest):
        raise InvalidRequest(
            f"{len(rest) - place} bytes after the JSON belong to no input: give each its binary_data_size",
            field="inputs",
        )
    return found


def _reply(graph: TensorRuntime, request_id: str | None, found: Sequence[Tensor], binary: Sequence[str]) -> Reply:
    outputs: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for tensor in found:
        described = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if tensor.name in binary:
            parts.append(to_bytes(tensor))
            outputs.append({**described, "parameters": {"binary_data_size": len(parts[-1])}})
        else:
            outputs.append({**described, "data": to_values(tensor)})
    answer = {"model_name": graph.name, "model_version": graph.version, "outputs": outputs}
    if request_id is not None:
        answer["id"] = request_id
    head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    if not parts:
        return Reply(body=head)
    headers = [(HEADER_LENGTH, b"%d" % len(head))]
    return Reply(body=b"".join((head, *parts)), media=OCTETS.encode(), headers=headers)


def example(card: Card) -> Any:
    """The body of an inference: the bundle's own example, as a JSON document."""
    document = orjson.dumps(card["examples"][0]).decode()
    return {"inputs": [{"name": v2_inputs.JSON, "datatype": BYTES, "shape": [1], "data": [document]}]}


GROUP = "Open Inference Protocol V2"


def _docs(summary: str, answer: Any, **more: Any) -> Docs:
    return Docs(group=GROUP, summary=summary, answer=answer, **more)


def _of_server(path: str, run: Any, docs: Docs, *, methods: tuple[str, ...] = READ, open: bool = False) -> Route:
    return Route(path, methods, run, reads=False, dialect=DIALECT, open=open, docs=docs)


def _of_model(end: str, methods: tuple[str, ...], run: Any, docs: Docs, **more: Any) -> tuple[Route, ...]:
    """A route of a model, and the same of one version of it."""
    starts = ("/v2/models/{id}", "/v2/models/{id}/versions/{version}")
    return tuple(Route(start + end, methods, run, dialect=DIALECT, docs=docs, **more) for start in starts)


INFER_DOCS = _docs(
    "Texts or the tensors of a graph in, tensors out",
    bodies.InferAnswer,
    about="An input `text` or `json` is answered as `/v1` answers it; any other inputs are those of the graph. Tensors"
    " may follow the JSON as bytes, either way: then `Inference-Header-Content-Length` is the length of the JSON.",
    body=bodies.InferRequest,
    example=example,
)
ROUTES = (
    _of_server("/v2", _server, _docs("The server and its extensions", bodies.Server)),
    _of_server("/v2/health/live", _live, _docs("Whether the process runs", bodies.Live), open=True),
    _of_server("/v2/health/ready", _ready, _docs("Whether requests are taken", bodies.Ready), open=True),
    _of_server("/v2/repository/index", _index, _docs("The models", list[bodies.IndexedModel]), methods=("POST",)),
    *_of_model("", READ, _model, _docs("The tensors of a model", bodies.ModelMetadata), reads=False),
    *_of_model("/ready", READ, _model_ready, _docs("Whether a model is served", bodies.ModelReady), reads=False),
    *_of_model("/config", READ, _config, _docs("The configuration of a model", bodies.ModelConfig), reads=False),
    *_of_model("/infer", ("POST",), _infer, INFER_DOCS, reads=True, media=(JSON, OCTETS)),
)
