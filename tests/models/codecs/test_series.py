"""How a series becomes segments: normalization, gaps, and what is refused."""

from typing import Any

import numpy as np
import pytest

from models.codecs import InputError, SeriesCodec
from models.manifest import SeriesSpec

CODEC = SeriesCodec(SeriesSpec(segment=3, longest=6))


def test_values_are_relative_to_the_last_one_in_deviations() -> None:
    values = [1.0, 2.0, 6.0]
    item = CODEC.encode(values)
    assert (item.last, item.scale, item.length) == (6.0, np.std(values), 1)
    np.testing.assert_allclose(item.rows[0, :3] * item.scale + item.last, values, rtol=1e-6)


def test_a_series_on_another_scale_has_the_same_rows() -> None:
    values = np.array([1.0, 2.0, 6.0, 3.0])
    np.testing.assert_allclose(CODEC.encode(values).rows, CODEC.encode(1e6 * values + 1e7).rows, atol=1e-6)


def test_a_missing_value_repeats_the_one_before_it_and_is_flagged() -> None:
    item = CODEC.encode([5.0, None, 7.0])
    assert item.rows[0, 1] == item.rows[0, 0]
    assert item.rows[0, 3:].tolist() == [0.0, 1.0, 0.0]


def test_missing_values_at_the_start_take_the_first_value() -> None:
    item = CODEC.encode([None, 4.0, 6.0])
    assert item.rows[0, 0] == item.rows[0, 1]


def test_the_first_segment_is_filled_up_with_missing_values() -> None:
    item = CODEC.encode([4.0, 5.0, 6.0, 8.0])
    assert item.rows[:, 3:].tolist() == [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


def test_a_longer_series_is_read_from_its_end() -> None:
    values = [float(number) for number in (9, 9, 9, 1, 2, 6, 3, 8, 5)]
    assert CODEC.encode(values).rows.tobytes() == CODEC.encode(values[3:]).rows.tobytes()


def test_a_constant_series_has_no_scale() -> None:
    item = CODEC.encode([3.0, 3.0, 3.0])
    assert item.scale == 0
    assert not item.rows.any()


def test_an_array_is_read_like_a_list() -> None:
    values = [1.0, None, 6.0, 3.0]
    array = np.array([np.nan if value is None else value for value in values])
    assert CODEC.encode(array).rows.tobytes() == CODEC.encode(values).rows.tobytes()


def test_rows_are_padded_to_the_longest_series() -> None:
    feeds = CODEC.collate([CODEC.encode([1.0, 2.0, 6.0]), CODEC.encode([1.0, 2.0, 6.0, 3.0])])
    assert feeds["segments"].shape == (2, 2, 6)
    assert feeds["lengths"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([1.0, 2.0], 2),
        ([], 0),
        ([1.0, 2.0, True], True),
        ([1.0, 2.0, "3"], "3"),
        ([1.0, 2.0, 1e39], 1e39),
        ([1.0, 2.0, float("inf")], float("inf")),
        ([1.0, 2.0, 10**400], 10**400),
        ([1.0, 2.0, [3.0]], [3.0]),
        ("123", "123"),
        (None, None),
    ],
)
def test_what_is_no_series_is_refused_with_its_value(values: Any, found: Any) -> None:
    with pytest.raises(InputError) as caught:
        CODEC.encode(values)
    assert caught.value.value == found


def test_a_series_of_missing_values_is_refused() -> None:
    with pytest.raises(InputError):
        CODEC.encode([None, None, None])
