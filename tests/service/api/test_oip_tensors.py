"""OIP tensors from JSON values."""

import tracemalloc
from typing import Any

import pytest

from service.api.oip_inference import from_values
from service.errors import InvalidRequest


@pytest.mark.parametrize("data", [["a" * 20_000, *[""] * 5_000], [[[1]]], [1, True], [10**400]])
def test_elements_are_checked_before_numpy_allocates(data: list[Any]) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest) as caught:
            from_values("inputs[0]", "x", "FP32", [len(data)], data)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.details["field"] == "inputs[0].data"
    assert most < 1_000_000
