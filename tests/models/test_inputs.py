"""The depth of its lists decides what an input is."""

from typing import Any

import pytest

from models.inputs import are_one, first_value, hold_numbers


@pytest.mark.parametrize(
    ("inputs", "value", "depth"),
    [
        ("a", "a", 0),
        (["a"], "a", 1),
        (["", "a"], "", 1),
        ([[], ["a"]], "a", 2),
        ([[0.0, 1.0]], 0.0, 2),
        ([[], [[]], [[2.0]]], 2.0, 3),
        ([], None, 0),
        ([[], [[]]], None, 0),
    ],
)
def test_the_first_value_is_found_at_any_depth(inputs: Any, value: Any, depth: int) -> None:
    assert first_value(inputs) == (value, depth)


@pytest.mark.parametrize(
    ("inputs", "numbers", "one"),
    [
        (["a"], False, False),
        ([["a"]], False, False),
        ([[0.0]], True, True),
        ([[], [0.0]], True, True),
        ([[[0.0]]], True, False),
        ([[], [[0.0]]], True, False),
        ([], False, False),
        ([[]], False, False),
    ],
)
def test_frames_are_one_input_and_lists_of_them_are_several(inputs: Any, numbers: bool, one: bool) -> None:
    assert (hold_numbers(inputs), are_one(inputs)) == (numbers, one)


def test_empty_lists_that_are_too_deep_for_text_are_frames() -> None:
    assert [hold_numbers(inputs) for inputs in ([], [[]], [[[]]], [[], [[]]])] == [False, False, True, True]
