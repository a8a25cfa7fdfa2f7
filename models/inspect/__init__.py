"""Show what the recurrent layers of a bundle do at every step of one input: `seqserve inspect`.

The fp32 graph runs with the inputs and outputs of its recurrent operators added to its outputs. The gates are then
recomputed in float64. This needs the package onnx; pictures need matplotlib, and colors need rich.
T steps, B batch, D directions, H hidden.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from models import state as states
from models.bundle import Bundle
from models.inspect.gradients import influence
from models.inspect.operators import PARTS, Floats, Kind, RecurrentOperator, UnsupportedOperator, run
from models.manifest import BundleError
from models.onnx_session import OnnxModel, Placement
from models.tasks import Generation, Translation

if TYPE_CHECKING:
    import onnx

VARIANT = "fp32"
TOLERANCE = 1e-4  # largest difference from the graph's own states at which the gates count as exact
# Inputs of the LSTM operator in order. The other operators have the first six.
OPERATOR_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")


class NotInstalled(RuntimeError):
    """An optional package is missing."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One direction of one recurrent layer along the steps of the input."""

    name: str
    kind: Kind
    direction: str
    parts: dict[str, Floats]  # (T, H) each, in the order of operators.PARTS
    difference: float  # largest difference from the states of the graph
    influence: Floats | None = None  # (T,): see gradients.influence

    @property
    def hidden(self) -> int:
        return int(self.parts["state"].shape[1])

    @property
    def memory(self) -> str:
        """The part that shows what a unit remembers."""
        return "memory" if "memory" in self.parts else "state"


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The steps of an input, and the layers that run along them."""

    bundle: str
    steps: tuple[str, ...]
    layers: tuple[Layer, ...]


class Inspector:
    """Inspects inputs of one bundle. Its graph is read once.

    Raises BundleError for a bundle without fp32 variant or without recurrent operator, and NotInstalled without the
    package onnx.
    """

    def __init__(self, bundle: Bundle) -> None:
        if isinstance(bundle.task, Translation):
            raise BundleError(f"{bundle.manifest.name}: a model that reads and then writes cannot be inspected")
        if VARIANT not in bundle.manifest.variants:
            raise BundleError(f"{bundle.manifest.name}: has no variant {VARIANT!r}, the only one that can be inspected")
        try:
            import onnx
        except ImportError:
            raise NotInstalled(
                "the package onnx is missing; run pip install onnx, or install the train extra"
            ) from None
        self._bundle = bundle
        model = onnx.load_model_from_string((bundle.path / bundle.manifest.variants[VARIANT].file).read_bytes())
        nodes = [node for node in model.graph.node if node.op_type in PARTS and node.domain in ("", "ai.onnx")]
        if not nodes:
            raise BundleError(f"{bundle.manifest.name}: its graph has no {', '.join(PARTS)} operator")
        self._nodes = [node for node in nodes if _runs_along_input(model, node)]
        self._constants = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
        available = {output.name for output in model.graph.output} | set(self._constants)
        for name in dict.fromkeys(name for node in nodes for name in (*node.input, node.output[0]) if name):
            if name not in available:
                model.graph.output.append(onnx.ValueInfoProto(name=name))  # the runtime infers the type
        self._model = OnnxModel(model.SerializeToString(), Placement(device="cpu"))

    def inspect(self, raw: Any) -> Inspection:
        """Run one input and record the layers that run along its steps. Raises ValueError for an empty input."""
        bundle = self._bundle
        item: Any = bundle.task.encode(raw)
        if not item.length:
            raise ValueError("the input is empty; give at least one step")
        task: Any = bundle.task
        if isinstance(task, Generation):
            state = zip(task.state, states.zeros(task.state, 1), strict=True)
            feeds = task.codec.collate([item]) | {tensor.input: zeros for tensor, zeros in state}
        else:
            feeds = task.collate([item])
        feeds = dict(bundle.model.graph_feeds(feeds))
        arrays = self._constants | feeds | self._model.run(feeds)
        layers = [layer for node in self._nodes for layer in _layers(node, arrays)]
        # The word or character of each step, or its number for an input that is not text.
        steps = tuple(str(token) or str(number) for number, token in enumerate(item.tokens, 1))
        return Inspection(bundle=bundle.manifest.name, steps=steps, layers=tuple(layers))


def inspect(bundle: Bundle, raw: Any) -> Inspection:
    """Inspect one input. Raises the errors of Inspector."""
    return Inspector(bundle).inspect(raw)


def _runs_along_input(model: "onnx.ModelProto", node: "onnx.NodeProto") -> bool:
    """Return whether the lengths of a node come from the input `lengths`.

    A layer over the characters of OOV words has other lengths.
    """
    made_by = {output: each for each in model.graph.node for output in each.output}
    name = node.input[4] if len(node.input) > 4 else ""
    while name in made_by and made_by[name].input:
        name = made_by[name].input[0]
    return name in ("", "lengths")


def _layers(node: "onnx.NodeProto", arrays: dict[str, NDArray[Any]]) -> Iterable[Layer]:
    """Yield the directions of one node, for the only row of the batch."""
    read = {part: arrays[name] for part, name in zip(OPERATOR_INPUTS, node.input, strict=False) if name}
    kind = cast(Kind, node.op_type)
    operator = RecurrentOperator(
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
        raise UnsupportedOperator(f"{node.name}: has an initial cell without an initial state")
    initial = tuple(read[part].astype(np.float64) for part in ("initial_h", "initial_c") if part in read)
    y = arrays[node.output[0]]  # (T, D, B, H)
    for number, record in enumerate(run(operator, x, lengths, initial)):
        parts = {part: values[: lengths[0], 0] for part, values in record.items()}
        order = -1 if operator.directions[number] == "backward" else 1
        effect = influence(operator, number, {part: values[::order] for part, values in parts.items()})
        yield Layer(
            name=node.input[1].removesuffix(".w") or node.name,
            kind=kind,
            direction=operator.directions[number],
            parts=parts,
            difference=float(np.abs(record["state"] - y[:, number]).max()),
            influence=None if effect is None else effect[::order],
        )


def _attributes(node: "onnx.NodeProto") -> dict[str, Any]:
    import onnx

    found = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if "direction" in found:
        found["direction"] = found["direction"].decode()
    if "activations" in found:
        found["activations"] = [name.decode() for name in found["activations"]]
    return found
