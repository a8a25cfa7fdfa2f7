"""One input through a bundle's fp32 graph, with every gate of every recurrent layer along its steps.

Adds what the recurrent operators read and write to the graph outputs, runs it with models.onnx_session, and hands the
arrays to operators.py. Knows bundles and graphs. Does not know what is made of the records.
T steps, B batch, D directions, H hidden.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from models import state as states
from models.bundle import Bundle
from models.inspect.operators import PARTS, Floats, Kind, Operator, UnknownOperator, run
from models.manifest import BundleError
from models.onnx_session import OnnxModel, Placement
from models.tasks import Generation

if TYPE_CHECKING:
    import onnx

VARIANT = "fp32"
PARITY = 1e-4  # largest difference from the graph's own states at which the gates count as what was computed
READ = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")  # inputs of LSTM; the others have fewer


class NotInstalled(RuntimeError):
    """A package that is not part of the serve extra is needed."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One direction of one recurrent layer along the steps of the input."""

    name: str
    kind: Kind
    direction: str
    parts: dict[str, Floats]  # (T, H) each, in the order of operators.PARTS
    difference: float  # largest, from the states that the graph itself gives

    @property
    def hidden(self) -> int:
        return int(self.parts["state"].shape[1])

    @property
    def memory(self) -> str:
        """The part that shows what a unit remembers."""
        return "memory" if "memory" in self.parts else "state"


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The steps of an input, as they are written, and the layers that run along them."""

    bundle: str
    steps: tuple[str, ...]
    layers: tuple[Layer, ...]


def inspect(bundle: Bundle, raw: Any) -> Inspection:
    """Run one input (what the bundle's task takes) and look into the layers that run along its steps.

    Raises BundleError for a bundle without an fp32 variant or without a recurrent operator, ValueError for an input
    without steps, NotInstalled where the onnx package is missing.
    """
    if VARIANT not in bundle.manifest.variants:
        raise BundleError(f"{bundle.manifest.name}: has no variant {VARIANT!r}, which alone can be looked into")
    item: Any = bundle.task.encode(raw)
    if not item.length:
        raise ValueError("there is nothing to look at: the input has no steps")
    model = _parsed((bundle.path / bundle.manifest.variants[VARIANT].file).read_bytes())
    nodes = [node for node in model.graph.node if node.op_type in PARTS and node.domain in ("", "ai.onnx")]
    if not nodes:
        raise BundleError(f"{bundle.manifest.name}: its graph has no {', '.join(PARTS)} operator to look into")
    feeds = _feeds(bundle, item)
    arrays = _arrays(model, nodes, feeds)
    layers = [layer for node in nodes if _follows(model, node) for layer in _layers(node, arrays)]
    return Inspection(bundle=bundle.manifest.name, steps=_written(item), layers=tuple(layers))


def _parsed(graph: bytes) -> "onnx.ModelProto":
    try:
        import onnx
    except ImportError:
        raise NotInstalled(
            "looking into a graph needs the package onnx: pip install onnx, or the train extra"
        ) from None
    return onnx.load_model_from_string(graph)


def _feeds(bundle: Bundle, item: Any) -> dict[str, NDArray[Any]]:
    """The feeds of one input; a language model starts from the state before the first step."""
    task: Any = bundle.task
    if not isinstance(task, Generation):
        return dict(task.collate([item]))  # a tagger with a state starts from zeros by itself
    memory = zip(task.state, states.zeros(task.state, 1), strict=True)
    return {**task.codec.collate([item]), **{tensor.input: array for tensor, array in memory}}


def _written(item: Any) -> tuple[str, ...]:
    """A label for every step: its word or character, or its number where an input is not text."""
    return tuple(str(token) or str(number) for number, token in enumerate(item.tokens, 1))


def _arrays(
    model: "onnx.ModelProto", nodes: Sequence["onnx.NodeProto"], feeds: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Every array that the nodes read, and their first output: of the graph, of its constants, or of the feeds."""
    import onnx

    known = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer} | feeds
    there = {output.name for output in model.graph.output} | set(known)
    for name in dict.fromkeys(name for node in nodes for name in (*node.input, node.output[0]) if name):
        if name not in there:
            model.graph.output.append(onnx.ValueInfoProto(name=name))  # its type is known to the runtime
    return known | OnnxModel(model.SerializeToString(), Placement(device="cpu")).run(feeds)


def _follows(model: "onnx.ModelProto", node: "onnx.NodeProto") -> bool:
    """Whether a node runs along the steps of the input: by the lengths that it is given, `lengths` or others.

    A layer over the characters of unknown words has lengths of its own and runs beside the input, not along it.
    """
    made_by = {output: each for each in model.graph.node for output in each.output}
    name = node.input[4] if len(node.input) > 4 else ""
    while name in made_by and made_by[name].input:
        name = made_by[name].input[0]
    return name in ("", "lengths")


def _layers(node: "onnx.NodeProto", arrays: dict[str, NDArray[Any]]) -> Iterable[Layer]:
    """The directions of one node, of the first and only row of the batch."""
    read = {part: arrays[name] for part, name in zip(READ, node.input, strict=False) if name}
    kind = cast(Kind, node.op_type)
    operator = Operator(
        kind=kind,
        w=read["W"].astype(np.float64),
        r=read["R"].astype(np.float64),
        b=read["B"].astype(np.float64) if "B" in read else None,
        p=read["P"].astype(np.float64) if "P" in read else None,
        attributes=_attributes(node),
    )
    x = read["X"].astype(np.float64)
    lengths = read.get("sequence_lens", np.full(x.shape[1], len(x)))
    if "initial_c" in read and "initial_h" not in read:
        raise UnknownOperator(f"{node.name}: an initial cell without an initial state is not read here")
    initial = tuple(read[part].astype(np.float64) for part in ("initial_h", "initial_c") if part in read)
    y = arrays[node.output[0]]  # (T, D, B, H)
    for number, record in enumerate(run(operator, x, lengths, initial)):
        yield Layer(
            name=node.input[1].removesuffix(".w") or node.name,
            kind=kind,
            direction=operator.directions[number],
            parts={part: values[: lengths[0], 0] for part, values in record.items()},
            difference=float(np.abs(record["state"] - y[:, number]).max()),
        )


def _attributes(node: "onnx.NodeProto") -> dict[str, Any]:
    import onnx

    found = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if "direction" in found:
        found["direction"] = found["direction"].decode()
    if "activations" in found:
        found["activations"] = [name.decode() for name in found["activations"]]
    return found
