"""Bytes on fixed scales."""

from typing import Any

import numpy as np
import pytest

from tests.training.drawing.graphs import open_session
from training.onnx_export.graph_builder import Pen, Precision
from training.onnx_export.levels import WEIGHT_LEVELS, enter, levels, product


def run(pen: Pen, value: Any, x: Any, width: int) -> Any:
    pen.output(value, "y", "B", width)
    return open_session(pen.finish()).run(None, {"x": x})[0]


def draw_product(precision: Precision, weight: Any, bias: Any, x: Any, reach: float) -> Any:
    pen = Pen(precision)
    entered = enter(pen, pen.input("x", "B", weight.shape[1], dtype="float32"), reach)
    return run(pen, product(pen, entered, weight, bias, reach, "w"), x, len(weight))


def test_levels_are_seven_bits_a_row_on_its_own_scale() -> None:
    matrix = np.array([[1.0, -0.5], [0.01, 0.02], [0, 0]], np.float32)
    found, scale = levels(matrix)
    assert found.shape == (2, 3)
    assert np.abs(found).max(axis=0).tolist() == [WEIGHT_LEVELS, WEIGHT_LEVELS, 0]
    assert np.abs(found.T * scale[:, None] - matrix).max() <= scale.max() / 2


def test_two_products_of_bytes_fit_into_sixteen_bits() -> None:
    assert 255 * WEIGHT_LEVELS * 2 < 2**15


@pytest.mark.parametrize(("precision", "nearness"), [("fp32", 1e-6), ("int8", 0.1)])
@pytest.mark.parametrize("biased", [False, True])
def test_a_product_is_the_products_of_the_matrix(precision: Precision, nearness: float, biased: bool) -> None:
    random = np.random.default_rng(0)
    weight, bias = random.normal(size=(5, 12)).astype(np.float32), random.normal(size=5).astype(np.float32)
    x = random.uniform(-3, 3, (4, 12)).astype(np.float32)
    expected = x @ weight.T + (bias if biased else 0)
    found = draw_product(precision, weight, bias if biased else None, x, 3.0)
    assert np.abs(found - expected).max() < nearness


def test_what_reaches_farther_than_said_is_cut() -> None:
    eye = np.eye(2, dtype=np.float32)
    found = draw_product("int8", eye, None, np.array([[3.0, -50.0]], np.float32), 2.0)
    assert found[0, 0] == pytest.approx(2, abs=0.02)
    assert found[0, 1] == pytest.approx(-2, abs=0.02)


def test_values_without_bound_have_no_bytes() -> None:
    with pytest.raises(ValueError, match="no bound"):
        enter(Pen("int8"), None, np.inf)
