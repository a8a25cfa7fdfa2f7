"""Tensors of the Open Inference Protocol V2, and their bytes: little-endian numbers, or texts after their lengths.

Knows names, types and shapes. Knows neither HTTP nor gRPC, nor what a tensor is for.
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
DTYPES = {"FP32": np.dtype("<f4"), "INT32": np.dtype("<i4")}  # what a graph of ours takes and gives
DATATYPES = {"float32": "FP32", "int32": "INT32"}
TAKEN = f"{', '.join(DTYPES)} and {BYTES}"
DIMENSIONS, LARGEST = 8, 1 << 40  # of a shape that is multiplied out before anything else is known about it
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """`data` is an array of this shape or, for BYTES, its elements in row-major order."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: NDArray[Any] | Sequence[bytes]


def of_array(name: str, array: NDArray[Any]) -> Tensor:
    """A tensor of numbers."""
    return Tensor(name=name, datatype=DATATYPES[array.dtype.name], shape=array.shape, data=array)


def of_texts(name: str, texts: Iterable[str | bytes], shape: tuple[int, ...] | None = None) -> Tensor:
    """A tensor of texts, in one dimension unless a shape is given."""
    data = [text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text for text in texts]
    return Tensor(name=name, datatype=BYTES, shape=shape or (len(data),), data=data)


def count(field: str, datatype: str, shape: Sequence[int]) -> int:
    """The number of elements. Raises InvalidRequest for a datatype or a shape that cannot be."""
    if datatype != BYTES and datatype not in DTYPES:
        raise InvalidRequest(
            f"{field}.datatype is {shown(datatype)}; send {TAKEN}", field=f"{field}.datatype", value=datatype
        )
    elements = math.prod(shape) if len(shape) <= DIMENSIONS else -1
    if any(size < 0 for size in shape) or not 0 <= elements <= LARGEST:
        raise InvalidRequest(
            f"{field}.shape must be up to {DIMENSIONS} sizes, none below 0, of at most {LARGEST} elements",
            field=f"{field}.shape",
            value=list(shape),
        )
    return elements


def from_bytes(field: str, name: str, datatype: str, shape: Sequence[int], content: bytes | memoryview) -> Tensor:
    """A tensor from its bytes. Raises InvalidRequest."""
    elements = count(field, datatype, shape)
    if datatype == BYTES:
        return Tensor(name=name, datatype=BYTES, shape=tuple(shape), data=_texts(field, content, elements))
    dtype = DTYPES[datatype]
    if len(content) != elements * dtype.itemsize:
        raise InvalidRequest(
            f"{field} comes as {len(content)} bytes, but its shape and datatype take {elements * dtype.itemsize}",
            field=field,
            limit=elements * dtype.itemsize,
            value=len(content),
        )
    array = np.frombuffer(content, dtype).reshape(tuple(shape))
    return Tensor(name=name, datatype=datatype, shape=tuple(shape), data=array)


def _texts(field: str, content: bytes | memoryview, elements: int) -> list[bytes]:
    """The elements, each after its length in four bytes."""
    texts: list[bytes] = []
    place, end = 0, len(content)
    while place < end and len(texts) < elements:
        first = place + _LENGTH.size
        place = first + _LENGTH.unpack_from(content, place)[0] if first <= end else end + 1
        if place > end:
            break
        texts.append(bytes(content[first:place]))
    if place != end or len(texts) != elements:
        raise InvalidRequest(
            f"{field}: its bytes are not the {elements} elements of its shape, each after its length in four bytes",
            field=field,
            limit=elements,
            value=len(texts),
        )
    return texts


def to_bytes(tensor: Tensor) -> bytes:
    """What `from_bytes` reads back."""
    if isinstance(tensor.data, np.ndarray):
        return tensor.data.astype(DTYPES[tensor.datatype], copy=False).tobytes()
    return b"".join(_LENGTH.pack(len(text)) + text for text in tensor.data)


def from_values(field: str, name: str, datatype: str, shape: Sequence[int], values: Any) -> Tensor:
    """A tensor from a list of its elements, flat or nested as its shape is. Raises InvalidRequest."""
    elements = count(field, datatype, shape)
    if not isinstance(values, list):
        raise InvalidRequest(f"{field}.data must be a list of the tensor's elements", field=f"{field}.data")
    if datatype == BYTES:
        texts = list(_flat(field, values, len(shape), (str,), "strings"))
        _check_count(field, len(texts), elements)
        data = [text.encode("utf-8", "surrogatepass") for text in texts]
        return Tensor(name=name, datatype=BYTES, shape=tuple(shape), data=data)
    kinds = (int,) if datatype == "INT32" else (int, float)
    # One by one, before numpy sees them: of a few long texts among them it would make an array of gigabytes.
    numbers = list(_flat(field, values, len(shape), kinds, f"numbers that {datatype} holds"))
    _check_count(field, len(numbers), elements)
    array = _numbers(field, datatype, numbers)
    return Tensor(name=name, datatype=datatype, shape=tuple(shape), data=array.reshape(tuple(shape)))


def _check_count(field: str, found: int, elements: int) -> None:
    if found != elements:
        raise InvalidRequest(
            f"{field}.data has {found} elements, but its shape has {elements}",
            field=f"{field}.data",
            limit=elements,
            value=found,
        )


def _flat(field: str, values: list[Any], depth: int, kinds: tuple[type, ...], what: str) -> Iterable[Any]:
    """The elements of lists in lists, at most `depth` of them; of these types and no subtype, as truth values are."""
    for value in values:
        if type(value) in kinds:
            yield value
        elif isinstance(value, list) and depth > 1:
            yield from _flat(field, value, depth - 1, kinds, what)
        else:
            raise InvalidRequest(
                f"{field}.data must be {what}, flat or nested as the shape is", field=f"{field}.data", value=value
            )


def _numbers(field: str, datatype: str, numbers: list[Any]) -> NDArray[Any]:
    """An array (N,) of numbers, and nothing that the type does not hold."""
    try:
        # A number beyond float32 is infinite then, which whoever takes the tensor looks for.
        with np.errstate(over="ignore"):
            return np.array(numbers, DTYPES[datatype])
    except OverflowError:
        raise InvalidRequest(f"{field}.data holds a number beyond {datatype}", field=f"{field}.data") from None


def to_values(tensor: Tensor) -> Any:
    """The elements in row-major order as JSON has them: no infinity, the largest number in its place."""
    if isinstance(tensor.data, np.ndarray):
        flat = np.ascontiguousarray(tensor.data).ravel()
        return np.nan_to_num(flat) if flat.dtype.kind == "f" else flat
    return [text.decode("utf-8", "replace") for text in tensor.data]
