"""Stream chunks and embeddings."""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import self_test
from models.bundle import Bundle
from models.manifest import BundleError
from models.state import State
from models.tasks import Classification, EmbeddingInput, Joint, StreamChunk, Tagging
from tests.support import bundles, reference

WORDS = ["the", "cat", "sat", "on", "zebras", "Paris", ".", "unheard-of"]


@pytest.fixture(scope="module")
def live(tiny_live: Path) -> Callable[[str], Bundle]:
    opened = {path.name: bundles.opened(path) for path in tiny_live.iterdir()}
    return opened.__getitem__


@pytest.mark.parametrize(
    "name", ["tiny-live", "tiny-live-frames", "tiny-live-delayed", "tiny-embed", "tiny-embed-joint"]
)
def test_format_3_bundles_pass_self_test(live: Callable[[str], Bundle], name: str) -> None:
    self_test.run(live(name))


def test_manifest_reports_streams_and_embedding_width(live: Callable[[str], Bundle]) -> None:
    manifests = [live(name).manifest for name in ("tiny-live", "tiny-embed", "tiny-embed-joint")]
    assert [(each.streams, each.embedding_width) for each in manifests] == [(True, 0), (False, 12), (False, 12)]


@settings(max_examples=30, deadline=None)
@given(words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=20), cuts=st.lists(st.integers(0, 20), max_size=4))
def test_stream_in_chunks_equals_the_whole(tiny_live: Path, words: list[str], cuts: list[int]) -> None:
    loaded = _opened(tiny_live / "tiny-live")
    whole = self_test.answer(loaded, words, {"aggregation_strategy": "none"})
    _, end = reference.follow(loaded, words)
    found, state = [], None
    places = [0, *sorted(cuts), len(words)]
    for first, last in pairwise(places):
        part, state = reference.follow(loaded, words[first:last], state)
        found += part
    assert [each[:2] for each in found] == [each[:2] for each in whole]
    assert state is not None
    assert all(map(np.array_equal, state, end))


@settings(max_examples=30, deadline=None)
@given(frames=st.lists(st.tuples(*[st.floats(-9, 9, width=32)] * len(bundles.FRAMES[0])), min_size=1, max_size=20))
def test_stream_frame_by_frame_equals_the_whole(tiny_live: Path, frames: list[Any]) -> None:
    loaded = _opened(tiny_live / "tiny-live-frames")
    whole, end = reference.follow(loaded, frames)
    found, state = [], None
    for frame in frames:
        part, state = reference.follow(loaded, [frame], state)
        found += part
    assert [each[:2] for each in found] == [each[:2] for each in whole]
    assert state is not None
    assert all(map(np.array_equal, state, end))


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 20),
    cuts=st.lists(st.integers(0, 20), max_size=4),
    after=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_delayed_label_is_that_of_the_frame_before(
    tiny_live: Path, count: int, cuts: list[int], after: bool, seed: int
) -> None:
    plain, delayed = _opened(tiny_live / "tiny-live-frames"), _opened(tiny_live / "tiny-live-delayed")
    frames = np.random.default_rng(seed).normal(0, 2, (count, len(bundles.FRAMES[0]))).tolist()
    none = {"aggregation_strategy": "none"}
    expected = [each[:2] for each in self_test.answer(plain, [*frames, *[frames[-1]] * 3], none)][3:]
    assert [each[:2] for each in self_test.answer(delayed, frames, none)] == expected
    task = delayed.task
    assert isinstance(task, Tagging)
    found, state = [], task.start()
    places = [0, *(cut for cut in sorted(cuts) if cut < count), count]
    for first, last in pairwise(places):  # the repeated frames are in the last chunk, or in one more
        item = task.encode(frames[first:last])
        if last == count and not after:
            item = task.last_chunk(item, state)
        part, state = _chunk(delayed, item, state)
        found += part
    if after:
        found += _chunk(delayed, task.last_chunk(None, state), state)[0]
    assert found[3:] == expected


def _chunk(loaded: Bundle, item: Any, state: State) -> tuple[list[Any], State]:
    """Return the label and the score of each step of a chunk, and the state after it."""
    if not item.length:
        return [], state
    task, chunk = loaded.task, StreamChunk(item, state)
    assert isinstance(task, Tagging)
    (row,) = task.decode([chunk], loaded.model.run(task.collate([chunk])))
    return [each[:2] for each in task.answer(item, row)], row.state


@cache
def _opened(path: Path) -> Bundle:
    return bundles.opened(path)


@pytest.mark.parametrize(("name", "raw"), [("tiny-live", "the cat sat"), ("tiny-live-frames", bundles.FRAMES)])
def test_chunks_and_whole_sequences_share_a_batch(live: Callable[[str], Bundle], name: str, raw: Any) -> None:
    loaded = live(name)
    task = loaded.task
    assert isinstance(task, Tagging)
    item = task.encode(raw)
    _, state = reference.follow(loaded, raw)
    batch = [item, StreamChunk(item, state), StreamChunk(item, task.start())]
    rows = task.decode(batch, loaded.model.run(task.collate(batch)))
    alone = [task.decode([one], loaded.model.run(task.collate([one])))[0] for one in batch]
    assert [(row.labels, row.scores) for row in rows] == [(row.labels, row.scores) for row in alone]
    assert rows[0].state == ()
    assert rows[0][:2] == rows[2][:2] != rows[1][:2]
    for row, one in zip(rows[1:], alone[1:], strict=True):
        assert all(map(np.array_equal, row.state, one.state))


@pytest.mark.parametrize("name", ["tiny-embed", "tiny-embed-joint"])
def test_embedding_does_not_depend_on_the_batch(live: Callable[[str], Bundle], name: str) -> None:
    loaded = live(name)
    task = loaded.task
    assert isinstance(task, Classification | Joint)
    items = [task.encode(text) for text in ("the cat sat on a mat", "Paris")]
    batch = [items[0], EmbeddingInput(items[0]), EmbeddingInput(items[1])]
    rows = task.decode(batch, loaded.model.run(task.collate(batch)))
    assert rows[0] == task.decode(items[:1], loaded.model.run(task.collate(items[:1])))[0]
    assert np.array_equal(rows[1], reference.embed(loaded, "the cat sat on a mat"))
    assert np.array_equal(rows[2], reference.embed(loaded, "Paris"))
    assert rows[1].shape == (loaded.manifest.embedding_width,)


def test_bundle_without_state_or_embedding_is_refused(tagger: Bundle, classifier: Bundle) -> None:
    with pytest.raises(BundleError, match="tiny-tag"):
        reference.follow(tagger, "the")
    with pytest.raises(BundleError, match="'embedding'"):
        reference.embed(classifier, "the")
