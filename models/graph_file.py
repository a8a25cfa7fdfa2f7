"""Read weights and embedding lookups from an ONNX file, without the package `onnx`, which serving does not install.

An ONNX file is a protobuf message. Field numbers are those of onnx.proto (github.com/onnx/onnx).
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# -inf in what is added masks the impossible: a label pair of a CRF, or padding in the output of a generator. In a table
# or a factor it is damage.
_ADD = frozenset({"Add", "Expand", "Max", "Where"})
_LOOK_UP_OR_MULTIPLY = frozenset({"Conv", "Gather", "Gemm", "GRU", "LSTM", "MatMul", "Mul", "RNN"})
_FLOATS = {1: "<f4", 10: "<f2", 11: "<f8"}  # TensorProto.DataType


class Weight(NamedTuple):
    """One constant tensor."""

    name: str
    shape: tuple[int, ...]
    data_type: int
    content: memoryview

    def floats(self) -> NDArray[np.floating]:
        """Return the elements (n,), none for a tensor without floating-point numbers."""
        return np.frombuffer(self.content, _FLOATS[self.data_type]) if self.data_type in _FLOATS else np.empty(0)


class GraphFile:
    """The weights and nodes of a graph. Raises ValueError for bytes that are not a protobuf message."""

    def __init__(self, content: bytes) -> None:
        self.weights: list[Weight] = []
        self.nodes: list[tuple[str, list[str]]] = []  # operator, inputs
        for number, value in _fields(memoryview(content)):
            if number == 7:  # ModelProto.graph
                self._read_graph(_bytes(value))

    def nonfinite_weight(self) -> str | None:
        """Return the name of a weight with NaN or infinity, except for masks with -inf."""
        added, multiplied = (
            {name for operator, inputs in self.nodes if operator in operators for name in inputs}
            for operators in (_ADD, _LOOK_UP_OR_MULTIPLY)
        )
        for weight in self.weights:
            floats = weight.floats()
            is_mask = weight.name in added or weight.name not in multiplied
            if not np.isfinite(floats).all() and not (is_mask and (floats < np.inf).all()):
                return weight.name
        return None

    def table_rows(self, graph_input: str) -> list[int]:
        """Return the rows of each table in which the graph looks up an input."""
        rows = {weight.name: weight.shape[0] for weight in self.weights if weight.shape}
        tables = [inputs[0] for operator, inputs in self.nodes if operator == "Gather" and inputs[1:] == [graph_input]]
        return [rows[table] for table in tables if table in rows]

    def _read_graph(self, graph: memoryview) -> None:
        for number, value in _fields(graph):
            if number == 5:  # GraphProto.initializer
                self.weights.append(_weight(_bytes(value)))
            elif number == 1:  # GraphProto.node
                node = [(field, _bytes(part)) for field, part in _fields(_bytes(value)) if field in (1, 4, 5)]
                operators = [str(part, "utf-8") for field, part in node if field == 4]
                self.nodes.append(("".join(operators), [str(part, "utf-8") for field, part in node if field == 1]))
                attributes = (_fields(part) for field, part in node if field == 5)
                for kind, content in chain.from_iterable(attributes):
                    if kind == 5:  # AttributeProto.t
                        self.weights.append(_weight(_bytes(content)))
                    elif kind == 6:  # AttributeProto.g, the body of a Scan, Loop or If
                        self._read_graph(_bytes(content))


def _weight(tensor: memoryview) -> Weight:
    shape: list[int] = []
    name, data_type, content = "", 0, memoryview(b"")
    for number, value in _fields(tensor):
        if number == 1:  # TensorProto.dims: one number, or several in bytes
            shape += [value] if isinstance(value, int) else _varints(value)
        elif number == 2 and isinstance(value, int):
            data_type = value
        elif number == 8:
            name = str(_bytes(value), "utf-8")
        elif number in (4, 9, 10):  # float_data, raw_data, double_data: all little-endian
            content = _bytes(value)
    return Weight(name, tuple(shape), data_type, content)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the number and the value of each field."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        wire_type = key & 7
        if wire_type == 0:
            value, place = _varint(message, place)
            yield key >> 3, value
            continue
        if wire_type == 2:
            size, place = _varint(message, place)
        else:
            size = {1: 8, 5: 4}.get(wire_type, len(message))
        if place + size > len(message):
            raise ValueError("a field is longer than the file")
        yield key >> 3, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """Return the number at an offset and the offset after it. Seven bits per byte, the lowest first."""
    value = shift = 0
    while True:
        if place >= len(message):
            raise ValueError("the file ends within a number")
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place


def _varints(message: memoryview) -> Sequence[int]:
    found, place = [], 0
    while place < len(message):
        value, place = _varint(message, place)
        found.append(value)
    return found


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message should be")
    return value
