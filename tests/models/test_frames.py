"""Frames of numbers: their width, their finiteness, and in what words they are refused."""

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


def refused(raw: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        CODEC.encode(raw)
    return caught.value


@given(frames=arrays(np.float32, st.tuples(st.integers(0, 9), st.just(2)), elements=st.floats(-9, 9, width=32)))
def test_numbers_come_through_as_they_are(frames: Any) -> None:
    for raw in (frames, frames.tolist(), tuple(map(tuple, frames.tolist()))):
        item = CODEC.encode(raw)
        assert np.array_equal(item.frames, frames)
        assert (item.frames.dtype, item.length, item.extra) == (np.float32, len(frames), 0)


def test_whole_numbers_are_numbers() -> None:
    assert CODEC.encode([[1, 2.5], [10**30, -3]]).frames.tolist() == [[1, 2.5], [np.float32(10**30), -3]]


def test_a_frame_has_no_word_and_its_place_counts_frames() -> None:
    item = CODEC.encode([[1, 2], [3, 4], [5, 6]])
    assert (item.text, list(item.tokens), item.between(0, 3)) == (None, ["", "", ""], "")
    assert (list(item.starts), list(item.ends)) == ([0, 1, 2], [1, 2, 3])


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ([[1, 2], [1, 2, 3]], "frame 1 has 3 numbers, but a frame here has 2: send all of them, and no others"),
        ([[1, 2, 3]], "frame 0 has 3 numbers"),
        ([[1, 2], []], "frame 1 has 0 numbers"),
        ([1.0, 2.0], "frame 0 is 1.0, not a list of 2 numbers"),
        (["ab"], "frame 0 is 'ab', not a list of 2 numbers"),
        ([[1, 2], [1, "a"]], "number 1 of frame 1 is 'a': send a finite number"),
        ([[1, float("nan")]], "number 1 of frame 0 is nan: send a finite number of at most 3.4e+38 in size"),
        ([[float("-inf"), 0]], "number 0 of frame 0 is -inf"),
        ([[1e39, 0]], "number 0 of frame 0 is 1e+39"),
        ([[0, 10**400]], "number 1 of frame 0 is 1000"),
        ([[None, 0]], "number 0 of frame 0 is None"),
        ([[True, False]], "number 0 of frame 0 is True"),
        ([[[1], [2]]], "number 0 of frame 0 is [1]"),
        ("text", "frames are wanted, lists of 2 numbers each, not 'text'"),
        (3, "frames are wanted, lists of 2 numbers each, not 3"),
    ],
)
def test_what_is_no_frame_is_refused_with_its_place(raw: Any, said: str) -> None:
    assert str(refused(raw)).startswith(said)


def test_a_program_learns_the_width_that_is_allowed() -> None:
    error = refused([[1, 2, 3]])
    assert (error.value, error.limit) == (3, 2)


def test_frames_beyond_the_limit_are_not_encoded() -> None:
    assert CODEC.encode([[1, 2]] * 100, limit=9).length == 10


def test_frames_are_collated_time_first_with_zeros_in_the_padding() -> None:
    feeds = CODEC.collate([CODEC.encode([[1, 2], [3, 4]]), CODEC.encode([[5, 6]])])
    assert feeds["frames"].tolist() == [[[1, 2], [5, 6]], [[3, 4], [0, 0]]]
    assert feeds["lengths"].tolist() == [2, 1]
    assert (feeds["frames"].dtype, feeds["lengths"].dtype) == (np.float32, np.int32)
    assert feeds["frames"].flags.c_contiguous


def test_a_batch_of_nothing_has_a_step_all_the_same() -> None:
    assert CODEC.collate([CODEC.encode([])])["frames"].shape == (1, 1, 2)


def test_a_codec_of_frames_is_its_spec() -> None:
    again = build(CODEC.spec, lambda name: ())
    assert isinstance(again, FramesCodec)
    assert (again.vocabularies, FramesCodec.fit(CODEC.spec).spec, again.spec) == ({}, CODEC.spec, CODEC.spec)
