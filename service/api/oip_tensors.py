"""Tensors of the Open Inference Protocol V2: from and to JSON values, and from and to bytes.

Bytes are little-endian numbers, or texts that each follow their length in four bytes.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidRequest, shown

BYTES = "BYTES"
DTYPES = {"FP32": np.dtype("<f4"), "INT32": np.dtype("<i4")}
DATATYPES = {"float32": "FP32", "int32": "INT32"}
SUPPORTED = f"{', '.join(DTYPES)} and {BYTES}"
MAX_DIMENSIONS, MAX_ELEMENTS = 8, 1 << 40  # a shape is multiplied out before anything else is checked
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True, kw_only=True)
class OIPTensor:
    """``data`` is an array of this shape or, for BYTES, the elements in row-major order."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: NDArray[Any] | Sequence[bytes]


def from_array(name: str, array: NDArray[Any]) -> OIPTensor:
    return OIPTensor(name=name, datatype=DATATYPES[array.dtype.name], shape=array.shape, data=array)


def from_texts(name: str, texts: Iterable[str | bytes], shape: tuple[int, ...] | None = None) -> OIPTensor:
    """Return a BYTES tensor, of one dimension unless a shape is given."""
    data = [text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text for text in texts]
    return OIPTensor(name=name, datatype=BYTES, shape=shape or (len(data),), data=data)


def element_count(field: str, datatype: str, shape: Sequence[int]) -> int:
    """Return the number of elements. Raises InvalidRequest for an unsupported datatype or shape."""
    if datatype != BYTES and datatype not in DTYPES:
        message = f"{shown(datatype)} is not supported; send {SUPPORTED}"
        raise InvalidRequest(message, field=f"{field}.datatype", value=datatype)
    elements = math.prod(shape) if len(shape) <= MAX_DIMENSIONS else -1
    if any(size < 0 for size in shape) or not 0 <= elements <= MAX_ELEMENTS:
        raise InvalidRequest(
            f"must be up to {MAX_DIMENSIONS} sizes of at least 0, with at most {MAX_ELEMENTS} elements",
            field=f"{field}.shape",
            value=list(shape),
        )
    return elements


def from_bytes(field: str, name: str, datatype: str, shape: Sequence[int], content: bytes | memoryview) -> OIPTensor:
    """Return the tensor in ``content``. Raises InvalidRequest."""
    elements = element_count(field, datatype, shape)
    if datatype == BYTES:
        return OIPTensor(name=name, datatype=BYTES, shape=tuple(shape), data=_split_texts(field, content, elements))
    expected = elements * DTYPES[datatype].itemsize
    if len(content) != expected:
        message = f"{len(content)} bytes, but its shape and datatype need {expected}"
        raise InvalidRequest(message, field=field, limit=expected, value=len(content))
    array = np.frombuffer(content, DTYPES[datatype]).reshape(tuple(shape))
    return OIPTensor(name=name, datatype=datatype, shape=tuple(shape), data=array)


def _split_texts(field: str, content: bytes | memoryview, elements: int) -> list[bytes]:
    texts: list[bytes] = []
    place, end = 0, len(content)
    while place < end and len(texts) < elements:
        first = place + _LENGTH.size
        place = first + _LENGTH.unpack_from(content, place)[0] if first <= end else end + 1
        if place > end:
            break
        texts.append(bytes(content[first:place]))
    if place != end or len(texts) != elements:
        message = f"the bytes must hold {elements} elements, as its shape says, each after its length in four bytes"
        raise InvalidRequest(message, field=field, limit=elements, value=len(texts))
    return texts


def to_bytes(tensor: OIPTensor) -> bytes:
    """Return the bytes that `from_bytes` reads."""
    if isinstance(tensor.data, np.ndarray):
        return tensor.data.astype(DTYPES[tensor.datatype], copy=False).tobytes()
    return b"".join(_LENGTH.pack(len(text)) + text for text in tensor.data)


def from_values(field: str, name: str, datatype: str, shape: Sequence[int], values: Any) -> OIPTensor:
    """Return the tensor in a JSON list, flat or nested as its shape. Raises InvalidRequest."""
    elements = element_count(field, datatype, shape)
    if not isinstance(values, list):
        raise InvalidRequest("must be a list of the tensor's elements", field=f"{field}.data")
    data: NDArray[Any] | list[bytes]
    if datatype == BYTES:
        texts = list(_flatten(field, values, len(shape), (str,), "strings"))
        _check_count(field, len(texts), elements)
        data = [text.encode("utf-8", "surrogatepass") for text in texts]
    else:
        types = (int,) if datatype == "INT32" else (int, float)
        # Checked one by one before numpy sees them: a few long texts among them would make it allocate gigabytes.
        numbers = list(_flatten(field, values, len(shape), types, f"{datatype} numbers"))
        _check_count(field, len(numbers), elements)
        data = _number_array(field, datatype, numbers).reshape(tuple(shape))
    return OIPTensor(name=name, datatype=datatype, shape=tuple(shape), data=data)


def _check_count(field: str, count: int, elements: int) -> None:
    if count != elements:
        message = f"{count} elements, but its shape has {elements}"
        raise InvalidRequest(message, field=f"{field}.data", limit=elements, value=count)


def _flatten(field: str, values: list[Any], depth: int, types: tuple[type, ...], what: str) -> Iterable[Any]:
    """Yield the elements of up to ``depth`` nested lists. Subtypes, such as bool of int, are rejected."""
    for value in values:
        if type(value) in types:
            yield value
        elif isinstance(value, list) and depth > 1:
            yield from _flatten(field, value, depth - 1, types, what)
        else:
            raise InvalidRequest(f"must be {what}, flat or nested as the shape", field=f"{field}.data", value=value)


def _number_array(field: str, datatype: str, numbers: list[Any]) -> NDArray[Any]:
    """Return an array of shape (N,). A number beyond float32 becomes infinite, which the graph's checks reject."""
    try:
        with np.errstate(over="ignore"):
            return np.array(numbers, DTYPES[datatype])
    except OverflowError:
        raise InvalidRequest(f"a number is out of the range of {datatype}", field=f"{field}.data") from None


def to_values(tensor: OIPTensor) -> Any:
    """Return the elements in row-major order. JSON has no infinity: the largest number replaces it."""
    if isinstance(tensor.data, np.ndarray):
        flat = np.ascontiguousarray(tensor.data).ravel()
        return np.nan_to_num(flat) if flat.dtype.kind == "f" else flat
    return [text.decode("utf-8", "replace") for text in tensor.data]
