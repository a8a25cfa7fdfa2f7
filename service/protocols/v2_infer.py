"""One inference of the Open Inference Protocol V2, whether it came by HTTP or gRPC: tensors in, engine, tensors out.

Texts (an input called `text` or `json`) are answered as the routes of the tasks answer them; any other inputs are the
arrays of the graph. Knows tensors and the engine. Knows neither HTTP nor gRPC.
N inputs, K labels, M entities of all inputs together.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from service.call import Call
from service.errors import InvalidRequest, TooLarge, UnknownModel, shown
from service.graphs import Graph
from service.protocols import schemas
from service.protocols.v2_answers import OUTPUTS, answered
from service.protocols.v2_tensors import BYTES, DATATYPES, Tensor, of_array
from service.worker import Worker

TEXT, JSON, PARAMETERS = "text", "json", "parameters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked. `outputs`: the names of those that are wanted, in their order; none given: all."""

    inputs: Mapping[str, Tensor]
    outputs: Sequence[str]
    parameters: Mapping[str, Any]


def graph_of(worker: Worker, model: str, version: str) -> Graph:
    """The graph of a model and a version of it; any version if that is empty. Raises UnknownModel."""
    graphs = worker.engine.graphs()
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


def text_inputs(graph: Graph) -> list[str]:
    """The names of the inputs that a model takes instead of its graph's own."""
    return [TEXT, JSON] if graph.reads_text else [JSON]


def text_outputs(graph: Graph) -> list[str]:
    """What it gives for those."""
    return [*(name for task in graph.tasks for name in OUTPUTS[_kind(graph, task)]), JSON]


def described(name: str, graph: Graph) -> tuple[str, list[int]]:
    """The datatype and the shape of one of those outputs; -1: of any size."""
    datatype = {"score": "FP32", "text_score": "FP32", "start": "INT32", "end": "INT32", "offsets": "INT32"}
    whole = "classify" if len(graph.tasks) == 1 else "text"
    rows = [-1, -1] if "classify" in graph.tasks and name in OUTPUTS[whole] else [-1]
    return datatype.get(name, BYTES), rows


async def infer(worker: Worker, graph: Graph, request: Request, call: Call) -> list[Tensor]:
    """The tensors that were asked for. Raises ServiceError."""
    parameters = dict(request.parameters)
    _set_deadline(call, parameters.pop("timeout", None))
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


async def _of_arrays(worker: Worker, graph: Graph, inputs: Mapping[str, Tensor], call: Call) -> list[Tensor]:
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
    outputs = await worker.engine.run_arrays(arrays, model=graph.name, call=call)
    return [of_array(name, array) for name, array in outputs.items()]


async def _of_texts(
    worker: Worker, graph: Graph, request: Request, parameters: dict[str, Any], call: Call
) -> list[Tensor]:
    _check_inputs(graph, request.inputs)
    _check_outputs(request.outputs, text_outputs(graph))
    wanted = set(request.outputs) or set(text_outputs(graph))
    tasks = [t for t in graph.tasks if JSON in wanted or wanted.intersection(OUTPUTS[_kind(graph, t)])]
    inputs = _read_inputs(request.inputs, graph.tasks)
    if len(inputs) > worker.settings.inputs_max:
        limit = worker.settings.inputs_max
        raise TooLarge(
            f"{len(inputs)} inputs in one request; the limit is {limit}: send several requests",
            field="inputs",
            limit=limit,
            value=len(inputs),
        )
    asked = _read_parameters(graph, request.inputs.get(PARAMETERS), parameters)
    answers: dict[str, list[Any]] = {task: await _ask(worker, graph, task, inputs, asked, call) for task in tasks}
    found = [
        tensor
        for task, rows in answers.items()
        for tensor in answered(_kind(graph, task), rows, graph.labels.get(task))
    ]
    if JSON in request.outputs:
        found.append(_as_json(answers))
    return found


async def _ask(worker: Worker, graph: Graph, task: str, inputs: list[Any], asked: Any, call: Call) -> list[Any]:
    """The answers of one task, one an input."""
    engine, name = worker.engine, graph.name
    if task == "tag":
        return await engine.tag(inputs, model=name, aggregation=asked.aggregation_strategy, call=call)
    if task == "classify":
        return await engine.classify(inputs, model=name, top_k=asked.top_k, call=call)
    options = schemas.options(asked, limit=worker.settings.max_new_tokens)
    return cast(list[Any], await engine.generate(inputs, model=name, options=options, call=call))


def _kind(graph: Graph, task: str) -> str:
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


# What is read


def _check_inputs(graph: Graph, inputs: Mapping[str, Tensor]) -> None:
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


def _check_outputs(outputs: Collection[str], available: Sequence[str]) -> None:
    for place, name in enumerate(outputs):
        if name not in available:
            field = f"outputs[{place}].name"
            raise InvalidRequest(
                f"{field} is {shown(name)!r}; these inputs give {', '.join(available)}", field=field, value=name
            )


_TOKENS_TOO: TypeAdapter[Any] = TypeAdapter(
    Annotated[schemas.Strings | schemas.Tokenised | schemas.FrameLists, Field(union_mode="left_to_right")]
)
_WHOLE: TypeAdapter[Any] = TypeAdapter(
    Annotated[schemas.Strings | schemas.FrameLists, Field(union_mode="left_to_right")]
)


def _read_inputs(inputs: Mapping[str, Tensor], tasks: Collection[str]) -> list[Any]:
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


def _read_parameters(graph: Graph, more: Tensor | None, parameters: dict[str, Any]) -> Any:
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


def _set_deadline(call: Call, timeout_us: object) -> None:
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


def _unknown_field(field: str) -> InvalidRequest:
    return InvalidRequest(f"{shown(field)}: unknown field; remove it", field=str(shown(field)))
