"""The frames codec: width and finite numbers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.codecs import InputError, build
from models.codecs.frames import FramesCodec
from models.manifest import FramesSpec

CODEC = FramesCodec(FramesSpec(features=2))


def encode_error(raw: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        CODEC.encode(raw)
    return caught.value


@given(frames=arrays(np.float32, st.tuples(st.integers(0, 9), st.just(2)), elements=st.floats(-9, 9, width=32)))
def test_numbers_are_unchanged(frames: Any) -> None:
    for raw in (frames, frames.tolist(), tuple(map(tuple, frames.tolist()))):
        item = CODEC.encode(raw)
        assert np.array_equal(item.rows, frames)
        assert (item.rows.dtype, item.length, item.extra) == (np.float32, len(frames), 0)


def test_integers_are_numbers() -> None:
    assert CODEC.encode([[1, 2.5], [10**30, -3]]).rows.tolist() == [[1, 2.5], [np.float32(10**30), -3]]


def test_frames_have_no_text_and_frame_offsets() -> None:
    item = CODEC.encode([[1, 2], [3, 4], [5, 6]])
    assert (item.text, list(item.tokens), item.span_text(0, 3)) == (None, ["", "", ""], "")
    assert (list(item.starts), list(item.ends)) == ([0, 1, 2], [1, 2, 3])


@pytest.mark.parametrize(
    ("raw", "place", "value"),
    [
        ([[1, 2], [1, 2, 3]], "frame 1 ", 3),
        ([[1, 2, 3]], "frame 0 ", 3),
        ([[1, 2], []], "frame 1 ", 0),
        ([1.0, 2.0], "frame 0 ", 1.0),
        (["ab"], "frame 0 ", "ab"),
        ([[1, 2], [1, "a"]], "number 1 of frame 1 ", "a"),
        ([[float("-inf"), 0]], "number 0 of frame 0 ", float("-inf")),
        ([[1e39, 0]], "number 0 of frame 0 ", 1e39),
        ([[0, 10**400]], "number 1 of frame 0 ", 10**400),
        ([[None, 0]], "number 0 of frame 0 ", None),
        ([[True, False]], "number 0 of frame 0 ", True),
        ([[[1], [2]]], "number 0 of frame 0 ", [1]),
        ("text", "input ", "text"),
        (3, "input ", 3),
    ],
)
def test_invalid_frames_are_refused(raw: Any, place: str, value: Any) -> None:
    error = encode_error(raw)
    assert place in str(error)
    assert error.value == value


def test_nan_is_refused() -> None:
    assert "number 1 of frame 0 " in str(encode_error([[1, float("nan")]]))


def test_wrong_width_reports_the_limit() -> None:
    error = encode_error([[1, 2, 3]])
    assert (error.value, error.limit) == (3, 2)


def test_frames_stop_after_the_limit() -> None:
    assert CODEC.encode([[1, 2]] * 100, limit=9).length == 10


def test_collate_frames() -> None:
    feeds = CODEC.collate([CODEC.encode([[1, 2], [3, 4]]), CODEC.encode([[5, 6]])])
    assert feeds["frames"].tolist() == [[[1, 2], [5, 6]], [[3, 4], [0, 0]]]
    assert feeds["lengths"].tolist() == [2, 1]
    assert (feeds["frames"].dtype, feeds["lengths"].dtype) == (np.float32, np.int32)
    assert feeds["frames"].flags.c_contiguous


def test_collate_empty_input_has_one_step() -> None:
    assert CODEC.collate([CODEC.encode([])])["frames"].shape == (1, 1, 2)


def test_build_frames_codec_from_spec() -> None:
    again = build(CODEC.spec, lambda name: ())
    assert isinstance(again, FramesCodec)
    assert (again.vocabularies, again.spec) == ({}, CODEC.spec)
