"""Every kind of bundle, from directory to answer: joint, with a path, of characters, DNA and frames."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import bundle, self_test
from models.bundle import Bundle
from models.codecs.words import WordsCodec
from models.manifest import BundleError, Manifest, WordsSpec, read
from models.tasks import Classification, Generation, Joint, JointAnswer, Tagging
from tests.support import bundles

TEXT_TAGGERS = ("tiny-path", "tiny-joint", "tiny-subwords", "tiny-speller", "tiny-letters-tag", "tiny-dna-tag")
NAMES = (*TEXT_TAGGERS, "tiny-letters-classify", "tiny-dna-classify", "tiny-frames-tag", "tiny-frames-classify")
INPUTS: dict[str, list[Any]] = {
    "words": ["the cat sat", "zebras on a mat", "a", "unheard-of words , all of them ."],
    "characters": ["Rossi", "x", "O'Neill-Żeleński"],
    "dna": ["ACGT", "n", "ggnRu-acgtacgt"],
    "frames": [bundles.FRAMES, bundles.FRAMES[:1], bundles.FRAMES * 4],
}


@pytest.fixture
def kind(tiny_kinds: Path) -> Callable[[str], Bundle]:
    return lambda name: bundles.opened(tiny_kinds / name)


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_passes_self_test(kind: Callable[[str], Bundle], name: str) -> None:
    self_test.run(kind(name))


def test_names_cover_every_kind(tiny_kinds: Path) -> None:
    assert {path.name for path in tiny_kinds.iterdir()} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_answer_does_not_depend_on_the_batch(kind: Callable[[str], Bundle], name: str) -> None:
    loaded = kind(name)
    task = loaded.task
    assert not isinstance(task, Generation)
    items = [task.encode(raw) for raw in INPUTS[loaded.manifest.codec.kind]]
    together: list[Any] = task.decode(items, loaded.model.run(task.collate(items)))
    alone = [task.decode([item], loaded.model.run(task.collate([item])))[0] for item in items]
    assert together == alone


def test_a_dropped_bundle_is_freed_without_the_garbage_collector(
    tiny_kinds: Path, tiny_zoo: Path, tiny_writers: Path, tiny_filler: Path, tiny_forecaster: Path
) -> None:
    """A service collects cycles so rarely that those of replaced versions would fill its memory."""
    folders = [
        *(path for root in (tiny_kinds, tiny_zoo, tiny_writers) for path in root.iterdir()),
        tiny_filler,
        tiny_forecaster,
    ]
    left = []
    gc.disable()
    try:
        for path in folders:
            loaded = bundles.opened(path)
            self_test.run(loaded)
            parts = [weakref.ref(part) for part in (loaded.model, loaded.task, loaded.task.codec)]
            del loaded
            left += [path.name for part in parts if part() is not None]
    finally:
        gc.enable()
    assert left == []
    assert len(folders) > len(NAMES)


@pytest.mark.parametrize("name", TEXT_TAGGERS)
def test_offsets_of_tags(kind: Callable[[str], Bundle], name: str) -> None:
    loaded = kind(name)
    for text in INPUTS[loaded.manifest.codec.kind]:
        tags = self_test.answer(loaded, text, {"aggregation_strategy": "none"}, part="tag")
        assert [text[tag.start : tag.end] for tag in tags] == [tag.word for tag in tags]
        assert "".join(tag.word for tag in tags) == text.replace(" ", "")


def test_tags_of_frames_have_empty_words(kind: Callable[[str], Bundle]) -> None:
    tags = self_test.answer(kind("tiny-frames-tag"), bundles.FRAMES)
    assert [(tag.word, tag.start, tag.end) for tag in tags] == [("", 0, 1), ("", 1, 2), ("", 2, 3)]


@pytest.mark.parametrize("name", NAMES)
def test_empty_input_has_an_empty_answer(kind: Callable[[str], Bundle], name: str) -> None:
    loaded = kind(name)
    empty = [] if loaded.manifest.codec.kind == "frames" else ""
    expected: Any = JointAnswer([], []) if loaded.manifest.task == "joint" else []
    assert self_test.answer(loaded, empty) == expected


def test_path_decides_labels_and_scores() -> None:
    codec = WordsCodec(WordsSpec(), ["a"])
    task = Tagging(codec, ("A", "B"))
    probabilities = np.zeros((2, 2, 2), np.float32)
    probabilities[:, 0], probabilities[:, 1] = [[0.25, 0.75], [0, 0]], [[0.5, 0.5], [0.125, 0.875]]
    path = np.array([[0, 1], [-7, 0]], np.int32)  # the padding is undefined
    rows = task.decode([task.encode("a"), task.encode("a a")], {"probabilities": probabilities, "path": path})
    assert [row[:2] for row in rows] == [([0], [0.25]), ([1, 0], [0.5, 0.125])]


def test_joint_answer_has_tags_and_labels(joint: Bundle) -> None:
    whole = self_test.answer(joint, "the cat sat", {"aggregation_strategy": "none", "top_k": 2})
    tags = self_test.answer(joint, "the cat sat", {"aggregation_strategy": "none"}, part="tag")
    labels = self_test.answer(joint, "the cat sat", {"top_k": 2}, part="classify")
    assert whole == JointAnswer(tags=tags, labels=labels)
    assert {tag.entity for tag in tags} <= set(bundles.IOB2)
    assert {entry.label for entry in whole.labels} < set(bundles.SENTIMENTS)


def test_manifest_decides_the_task(kind: Callable[[str], Bundle]) -> None:
    assert isinstance(kind("tiny-joint").task, Joint)
    assert isinstance(kind("tiny-dna-classify").task, Classification)
    assert isinstance(kind("tiny-frames-tag").task, Tagging)


def changed(path: Path, **changes: Any) -> Manifest:
    """Return the manifest with other fields, validated."""
    return Manifest.model_validate_json(read(path).model_copy(update=changes).model_dump_json())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"text_labels": ()}, "text_labels"),
        ({"text_labels": ("A", "A")}, "text_labels"),
        ({"labels": ()}, "labels"),
        ({"task": "tag"}, "text_labels"),
    ],
)
def test_labels_must_fit_the_task(joint: Bundle, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        changed(joint.path, **changes)


@pytest.mark.parametrize(
    ("name", "changes", "output"),
    [
        ("tiny-joint", {"text_labels": ("A", "B")}, "'text_probabilities' has 3 "),
        ("tiny-joint", {"labels": ("O",)}, "'probabilities' has 5 "),
        ("tiny-path", {"task": "classify"}, "'path'"),
    ],
)
def test_manifest_must_fit_the_graph(
    kind: Callable[[str], Bundle], tmp_path: Path, name: str, changes: dict[str, Any], output: str
) -> None:
    loaded = kind(name)
    files = {file: (loaded.path / file).read_bytes() for file in loaded.manifest.files}
    bundle.save(tmp_path / name, loaded.manifest.model_copy(update=changes), files)
    with pytest.raises(BundleError, match=output):
        bundles.opened(tmp_path / name)


def test_max_length_is_limit_or_positions(kind: Callable[[str], Bundle]) -> None:
    manifest = kind("tiny-dna-tag").manifest
    assert (manifest.limits.max_length, manifest.max_length) == (4096, bundles.POSITIONS)
    assert kind("tiny-frames-tag").manifest.max_length == 64
