"""Quantization with fixed scales."""

from typing import Any

import numpy as np
import pytest

from tests.support.onnx_stacks import open_session
from training.onnx_export.builder import OnnxGraphBuilder, Precision
from training.onnx_export.int8 import WEIGHT_LEVELS, add_product, add_quantize, quantize_weights


def run(graph: OnnxGraphBuilder, value: Any, x: Any, width: int) -> Any:
    graph.output(value, "y", "B", width)
    return open_session(graph.finish()).run(None, {"x": x})[0]


def run_product(precision: Precision, weight: Any, bias: Any, x: Any, reach: float) -> Any:
    graph = OnnxGraphBuilder(precision)
    quantized = add_quantize(graph, graph.input("x", "B", weight.shape[1], dtype="float32"), reach)
    return run(graph, add_product(graph, quantized, weight, bias, reach, "w"), x, len(weight))


def test_weights_have_seven_bits_and_one_scale_per_row() -> None:
    matrix = np.array([[1.0, -0.5], [0.01, 0.02], [0, 0]], np.float32)
    found, scale = quantize_weights(matrix)
    assert found.shape == (2, 3)
    assert np.abs(found).max(axis=0).tolist() == [WEIGHT_LEVELS, WEIGHT_LEVELS, 0]
    assert np.abs(found.T * scale[:, None] - matrix).max() <= scale.max() / 2


def test_two_byte_products_fit_into_16_bits() -> None:
    assert 255 * WEIGHT_LEVELS * 2 < 2**15


@pytest.mark.parametrize(("precision", "nearness"), [("fp32", 1e-6), ("int8", 0.1)])
@pytest.mark.parametrize("biased", [False, True])
def test_product_equals_matmul(precision: Precision, nearness: float, biased: bool) -> None:
    random = np.random.default_rng(0)
    weight, bias = random.normal(size=(5, 12)).astype(np.float32), random.normal(size=5).astype(np.float32)
    x = random.uniform(-3, 3, (4, 12)).astype(np.float32)
    expected = x @ weight.T + (bias if biased else 0)
    found = run_product(precision, weight, bias if biased else None, x, 3.0)
    assert np.abs(found - expected).max() < nearness


def test_values_beyond_reach_are_clipped() -> None:
    eye = np.eye(2, dtype=np.float32)
    found = run_product("int8", eye, None, np.array([[3.0, -50.0]], np.float32), 2.0)
    assert found[0, 0] == pytest.approx(2, abs=0.02)
    assert found[0, 1] == pytest.approx(-2, abs=0.02)


def test_infinite_reach_is_rejected() -> None:
    with pytest.raises(ValueError, match="reach inf"):
        add_quantize(OnnxGraphBuilder("int8"), None, np.inf)
