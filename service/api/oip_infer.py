"""One inference of the Open Inference Protocol V2, whether it came by HTTP or gRPC: tensors in, engine, tensors out.

Texts (an input called `text` or `json`) are answered as the routes of the tasks answer them; any other inputs are the
arrays of the graph. Knows tensors and the engine. Knows neither HTTP nor gRPC.
N inputs, K labels, M entities of all inputs together.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import orjson

from service.api import oip_inputs as v2_inputs
from service.api import schemas
from service.api.oip_answers import OUTPUTS, answered
from service.api.oip_inputs import JSON, PARAMETERS, TEXT, text_inputs
from service.api.oip_tensors import BYTES, DATATYPES, Tensor, of_array
from service.errors import InvalidRequest, TooLarge, UnknownModel, shown
from service.scheduling.job import InferenceRequest
from service.tensor_runtime import TensorRuntime
from service.worker import Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked. `outputs`: the names of those that are wanted, in their order; none given: all."""

    inputs: Mapping[str, Tensor]
    outputs: Sequence[str]
    parameters: Mapping[str, Any]


def graph_of(worker: Worker, model: str, version: str) -> TensorRuntime:
    """The graph of a model and a version of it; any version if that is empty. Raises UnknownModel."""
    graphs = worker.engine.tensor_runtimes()
    if model not in graphs:
        raise UnknownModel(
            f"there is no model {shown(model)!r}; there are {', '.join(graphs)}", value=model, available=list(graphs)
        )
    graph = graphs[model]
    if version not in ("", graph.version):
        raise UnknownModel(
            f"{model} has no version {shown(version)!r}; it has {graph.version}: name that one, or none",
            value=version,
            available=[graph.version],
        )
    return graph


def text_outputs(graph: TensorRuntime) -> list[str]:
    """What it gives for those."""
    return [*(name for task in graph.tasks for name in OUTPUTS[_kind(graph, task)]), JSON]


def described(name: str, graph: TensorRuntime) -> tuple[str, list[int]]:
    """The datatype and the shape of one of those outputs; -1: of any size."""
    datatype = {"score": "FP32", "text_score": "FP32", "start": "INT32", "end": "INT32", "offsets": "INT32"}
    whole = "classify" if len(graph.tasks) == 1 else "text"
    rows = [-1, -1] if "classify" in graph.tasks and name in OUTPUTS[whole] else [-1]
    return datatype.get(name, BYTES), rows


async def infer(worker: Worker, graph: TensorRuntime, request: Request, call: InferenceRequest) -> list[Tensor]:
    """The tensors that were asked for. Raises ServiceError."""
    parameters = dict(request.parameters)
    v2_inputs.set_deadline(call, parameters.pop("timeout", None))
    if TEXT in request.inputs or JSON in request.inputs:
        found = await _of_texts(worker, graph, request, parameters, call)
    else:
        if parameters:
            raise _unknown_field(f"parameters.{next(iter(parameters))}")
        _check_outputs(request.outputs, [port.name for port in graph.outputs])
        found = await _of_arrays(worker, graph, request.inputs, call)
    by_name = {tensor.name: tensor for tensor in found}
    names = dict.fromkeys(request.outputs) or [name for name in by_name if name != JSON]
    return [by_name[name] for name in names]


async def _of_arrays(
    worker: Worker, graph: TensorRuntime, inputs: Mapping[str, Tensor], call: InferenceRequest
) -> list[Tensor]:
    wanted = {port.name: DATATYPES[port.dtype] for port in graph.inputs}
    for name, tensor in inputs.items():
        if name in wanted and tensor.datatype != wanted[name]:
            raise InvalidRequest(
                f"{name} is {tensor.datatype}, but the graph takes {wanted[name]}",
                field="inputs",
                value=tensor.datatype,
            )
    unread = [name for name, tensor in inputs.items() if tensor.datatype == BYTES]
    if unread:
        raise InvalidRequest(
            f"{shown(unread[0])!r} is no input of {graph.name}: send {' or '.join(text_inputs(graph))}, or all of "
            f"{', '.join(wanted)}",
            field="inputs",
        )
    arrays = {name: cast(np.ndarray[Any, Any], tensor.data) for name, tensor in inputs.items()}
    outputs = await worker.engine.run_tensors(arrays, model=graph.name, request=call)
    return [of_array(name, array) for name, array in outputs.items()]


async def _of_texts(
    worker: Worker, graph: TensorRuntime, request: Request, parameters: dict[str, Any], call: InferenceRequest
) -> list[Tensor]:
    v2_inputs.check_inputs(graph, request.inputs)
    _check_outputs(request.outputs, text_outputs(graph))
    wanted = set(request.outputs) or set(text_outputs(graph))
    tasks = [t for t in graph.tasks if JSON in wanted or wanted.intersection(OUTPUTS[_kind(graph, t)])]
    inputs = v2_inputs.read_inputs(request.inputs, graph.tasks)
    if len(inputs) > worker.settings.inputs_max:
        limit = worker.settings.inputs_max
        raise TooLarge(
            f"{len(inputs)} inputs in one request; the limit is {limit}: send several requests",
            field="inputs",
            limit=limit,
            value=len(inputs),
        )
    asked = v2_inputs.read_parameters(graph, request.inputs.get(PARAMETERS), parameters)
    answers: dict[str, list[Any]] = {task: await _ask(worker, graph, task, inputs, asked, call) for task in tasks}
    found = [
        tensor
        for task, rows in answers.items()
        for tensor in answered(_kind(graph, task), rows, graph.labels.get(task))
    ]
    if JSON in request.outputs:
        found.append(_as_json(answers))
    return found


async def _ask(
    worker: Worker, graph: TensorRuntime, task: str, inputs: list[Any], asked: Any, call: InferenceRequest
) -> list[Any]:
    """The answers of one task, one an input."""
    engine, name = worker.engine, graph.name
    if task == "tag":
        return await engine.tag(inputs, model=name, aggregation=asked.aggregation_strategy, request=call)
    if task == "classify":
        return await engine.classify(inputs, model=name, top_k=asked.top_k, request=call)
    options = schemas.options(asked, limit=worker.settings.max_new_tokens)
    return cast(list[Any], await engine.generate(inputs, model=name, options=options, request=call))


def _kind(graph: TensorRuntime, task: str) -> str:
    """The row of OUTPUTS: the label of the whole has names of its own beside tags."""
    return "text" if task == "classify" and len(graph.tasks) > 1 else task


def _as_json(answers: Mapping[str, list[Any]]) -> Tensor:
    """Each input's whole answer as the routes of the tasks give it; of both tasks under two names."""
    if len(answers) == 1:
        (rows,) = answers.values()
    else:
        pairs = zip(answers["tag"], answers["classify"], strict=True)
        rows = [{"tags": tags, "labels": labels} for tags, labels in pairs]
    texts = [orjson.dumps(row) for row in rows]
    return Tensor(name=JSON, datatype=BYTES, shape=(len(texts),), data=texts)


def _check_outputs(outputs: Collection[str], available: Sequence[str]) -> None:
    for place, name in enumerate(outputs):
        if name not in available:
            field = f"outputs[{place}].name"
            raise InvalidRequest(
                f"{field} is {shown(name)!r}; these inputs give {', '.join(available)}", field=field, value=name
            )


def _unknown_field(field: str) -> InvalidRequest:
    return InvalidRequest(f"{shown(field)}: unknown field; remove it", field=str(shown(field)))
