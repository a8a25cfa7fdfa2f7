"""Tensors of V2 out of JSON."""

import tracemalloc
from typing import Any

import pytest

from service.api.oip_tensors import from_values
from service.errors import InvalidRequest


@pytest.mark.parametrize("data", [["a" * 20_000, *[""] * 5_000], [[[1]]], [1, True], [10**400]])
def test_no_element_reaches_an_array_before_it_was_looked_at(data: list[Any]) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest) as caught:
            from_values("inputs[0]", "x", "FP32", [len(data)], data)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.details["field"] == "inputs[0].data"
    assert most < 1_000_000
