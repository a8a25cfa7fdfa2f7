"""The messages of GRPCInferenceService from and to what HTTP's inference takes and gives.

Knows fields of messages. Knows no server and no engine.
"""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np

from service.api import inference_pb2 as pb
from service.api.oip import CONFIG_TYPES, PLATFORM, tensors
from service.api.oip_infer import Request
from service.api.oip_inputs import by_name
from service.api.oip_tensors import BYTES, DTYPES, Tensor, count, from_bytes, to_bytes
from service.errors import InvalidRequest, shown
from service.tensor_runtime import TensorRuntime

INPUTS_MOST = 64  # as over HTTP
CONTENTS = {"FP32": "fp32_contents", "INT32": "int_contents", BYTES: "bytes_contents"}


def request_of(message: pb.ModelInferRequest) -> Request:
    """What an inference asks. Raises InvalidRequest."""
    if not 0 < len(message.inputs) <= INPUTS_MOST or len(message.outputs) > INPUTS_MOST:
        raise InvalidRequest(f"inputs: send 1 to {INPUTS_MOST} of them, and as many outputs at most", field="inputs")
    for place, output in enumerate(message.outputs):
        _refuse_parameters(f"outputs[{place}]", output.parameters)
    return Request(
        inputs=by_name(_inputs(message)),
        outputs=[output.name for output in message.outputs],
        parameters={name: _value(name, each) for name, each in message.parameters.items()},
    )


def _inputs(message: pb.ModelInferRequest) -> Iterable[Tensor]:
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidRequest(
            f"raw_input_contents has {len(raw)} entries for {len(message.inputs)} inputs: send one each, or none",
            field="raw_input_contents",
            limit=len(message.inputs),
            value=len(raw),
        )
    for place, given in enumerate(message.inputs):
        field, shape = f"inputs[{place}]", list(given.shape)
        # KServe's client says how long the bytes are, as it has to over HTTP.
        _refuse_parameters(field, [name for name in given.parameters if not raw or name != "binary_data_size"])
        if not raw:
            yield _of_contents(field, given, shape)
        elif given.HasField("contents"):
            raise InvalidRequest(f"{field} has contents and raw_input_contents; send one of them", field=field)
        else:
            yield from_bytes(field, given.name, given.datatype, shape, raw[place])


def _of_contents(field: str, given: pb.ModelInferRequest.InferInputTensor, shape: list[int]) -> Tensor:
    elements = count(field, given.datatype, shape)
    values = cast(Sequence[Any], getattr(given.contents, CONTENTS[given.datatype]))
    if len(values) != elements:
        raise InvalidRequest(
            f"{field}.contents has {len(values)} {CONTENTS[given.datatype]}, but its shape has {elements} elements",
            field=f"{field}.contents",
            limit=elements,
            value=len(values),
        )
    numbers = given.datatype != BYTES
    data = np.array(values, DTYPES[given.datatype]).reshape(shape) if numbers else list(values)
    return Tensor(name=given.name, datatype=given.datatype, shape=tuple(shape), data=data)


def _value(name: str, parameter: pb.InferParameter) -> Any:
    kind = parameter.WhichOneof("parameter_choice")
    if kind is None:
        raise InvalidRequest(f"parameters.{shown(name)} has no value", field=f"parameters.{shown(name)}")
    return getattr(parameter, kind)


def _refuse_parameters(field: str, parameters: Iterable[str]) -> None:
    for name in parameters:
        path = f"{field}.parameters.{shown(name)}"
        raise InvalidRequest(f"{path}: unknown field; remove it", field=path)


def answer_of(graph: TensorRuntime, request_id: str, found: Sequence[Tensor]) -> pb.ModelInferResponse:
    """The tensors as bytes, each after the other."""
    answer = pb.ModelInferResponse(model_name=graph.name, model_version=graph.version, id=request_id)
    for tensor in found:
        answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        answer.raw_output_contents.append(to_bytes(tensor))
    return answer


def metadata_of(graph: TensorRuntime) -> pb.ModelMetadataResponse:
    """The tensors of a model."""
    answer = pb.ModelMetadataResponse(name=graph.name, versions=[graph.version], platform=PLATFORM)
    for described, side in zip(tensors(graph), (answer.inputs, answer.outputs), strict=True):
        for name, datatype, shape in described:
            side.add(name=name, datatype=datatype, shape=shape)
    return answer


def config_of(graph: TensorRuntime) -> pb.ModelConfigResponse:
    """The same as Triton's configuration has them."""
    inputs, outputs = tensors(graph)
    config = pb.ModelConfig(
        name=graph.name,
        platform=PLATFORM,
        backend="onnxruntime",
        input=[pb.ModelInput(name=name, data_type=CONFIG_TYPES[kind], dims=dims) for name, kind, dims in inputs],
        output=[pb.ModelOutput(name=name, data_type=CONFIG_TYPES[kind], dims=dims) for name, kind, dims in outputs],
    )
    return pb.ModelConfigResponse(config=config)


def index_of(graphs: Iterable[TensorRuntime]) -> pb.RepositoryIndexResponse:
    """The models that are served."""
    answer = pb.RepositoryIndexResponse()
    for graph in graphs:
        answer.models.add(name=graph.name, version=graph.version, state="READY")
    return answer
