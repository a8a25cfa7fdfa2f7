"""Every kind of bundle, from its directory to its answers: joint, with a path, of letters, bases and frames."""

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

OF_TEXT = ("tiny-path", "tiny-joint", "tiny-subwords", "tiny-letters-tag", "tiny-dna-tag")  # which tag
NAMES = (*OF_TEXT, "tiny-letters-classify", "tiny-dna-classify", "tiny-frames-tag", "tiny-frames-classify")
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
def test_a_bundle_of_any_kind_gives_the_answers_of_its_examples(kind: Callable[[str], Bundle], name: str) -> None:
    self_test.run(kind(name))


def test_every_kind_is_tried(tiny_kinds: Path) -> None:
    assert {path.name for path in tiny_kinds.iterdir()} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_does_not_depend_on_the_batch(kind: Callable[[str], Bundle], name: str) -> None:
    loaded = kind(name)
    task = loaded.task
    assert not isinstance(task, Generation)
    items = [task.encode(raw) for raw in INPUTS[loaded.manifest.codec.kind]]
    together: list[Any] = task.decode(items, loaded.model.run(task.collate(items)))
    alone = [task.decode([item], loaded.model.run(task.collate([item])))[0] for item in items]
    assert together == alone


@pytest.mark.parametrize("name", OF_TEXT)
def test_every_tag_is_where_it_is_said_to_be(kind: Callable[[str], Bundle], name: str) -> None:
    loaded = kind(name)
    for text in INPUTS[loaded.manifest.codec.kind]:
        tags = self_test.answer(loaded, text, {"aggregation_strategy": "none"}, part="tag")
        assert [text[tag.start : tag.end] for tag in tags] == [tag.word for tag in tags]
        assert "".join(tag.word for tag in tags) == text.replace(" ", "")


def test_tags_of_frames_have_no_word(kind: Callable[[str], Bundle]) -> None:
    tags = self_test.answer(kind("tiny-frames-tag"), bundles.FRAMES)
    assert [(tag.word, tag.start, tag.end) for tag in tags] == [("", 0, 1), ("", 1, 2), ("", 2, 3)]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_has_an_empty_answer(kind: Callable[[str], Bundle], name: str) -> None:
    loaded = kind(name)
    nothing = [] if loaded.manifest.codec.kind == "frames" else ""
    expected: Any = JointAnswer([], []) if loaded.manifest.task == "joint" else []
    assert self_test.answer(loaded, nothing) == expected


def test_labels_are_those_of_the_path_and_scores_their_probabilities() -> None:
    codec = WordsCodec(WordsSpec(), ["a"])
    task = Tagging(codec, ("A", "B"))
    probabilities = np.zeros((2, 2, 2), np.float32)
    probabilities[:, 0], probabilities[:, 1] = [[0.25, 0.75], [0, 0]], [[0.5, 0.5], [0.125, 0.875]]
    path = np.array([[0, 1], [-7, 0]], np.int32)  # what stands in the padding means nothing
    rows = task.decode([task.encode("a"), task.encode("a a")], {"probabilities": probabilities, "path": path})
    assert [row[:2] for row in rows] == [([0], [0.25]), ([1, 0], [0.5, 0.125])]


def test_the_parts_of_a_joint_answer_are_those_of_a_tagger_and_a_classifier(joint: Bundle) -> None:
    whole = self_test.answer(joint, "the cat sat", {"aggregation_strategy": "none", "top_k": 2})
    tags = self_test.answer(joint, "the cat sat", {"aggregation_strategy": "none"}, part="tag")
    labels = self_test.answer(joint, "the cat sat", {"top_k": 2}, part="classify")
    assert whole == JointAnswer(tags=tags, labels=labels)
    assert {tag.entity for tag in tags} <= set(bundles.IOB2)
    assert {entry.label for entry in whole.labels} < set(bundles.SENTIMENTS)


def test_tasks_are_made_for_what_the_manifest_says(kind: Callable[[str], Bundle]) -> None:
    assert isinstance(kind("tiny-joint").task, Joint)
    assert isinstance(kind("tiny-dna-classify").task, Classification)
    assert isinstance(kind("tiny-frames-tag").task, Tagging)


def changed(path: Path, **changes: Any) -> Manifest:
    """The manifest with other fields, checked as a reader checks it."""
    return Manifest.model_validate_json(read(path).model_copy(update=changes).model_dump_json())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"text_labels": ()}, "task 'joint' needs text_labels"),
        ({"text_labels": ("A", "A")}, "text_labels repeat"),
        ({"labels": ()}, "task 'joint' needs labels"),
        ({"task": "tag"}, "task 'tag' has no text_labels"),
    ],
)
def test_labels_are_those_of_the_task(joint: Bundle, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        changed(joint.path, **changes)


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("tiny-joint", {"text_labels": ("A", "B")}, "answers 3 numbers a step, but there are 2 text_labels"),
        ("tiny-joint", {"labels": ("O",)}, "answers 5 numbers a step, but there are 1 labels"),
        ("tiny-path", {"task": "classify"}, r"task 'classify' has the outputs probabilities, .* not .*'path'"),
    ],
)
def test_a_manifest_that_the_graph_contradicts_is_refused(
    kind: Callable[[str], Bundle], tmp_path: Path, name: str, changes: dict[str, Any], sentence: str
) -> None:
    loaded = kind(name)
    files = {file: (loaded.path / file).read_bytes() for file in loaded.manifest.files}
    bundle.save(tmp_path / name, loaded.manifest.model_copy(update=changes), files)
    with pytest.raises(BundleError, match=sentence):
        bundles.opened(tmp_path / name)


def test_the_longest_input_is_the_limit_or_the_places_of_the_codec(kind: Callable[[str], Bundle]) -> None:
    manifest = kind("tiny-dna-tag").manifest
    assert (manifest.limits.max_length, manifest.max_length) == (4096, bundles.POSITIONS)
    assert kind("tiny-frames-tag").manifest.max_length == 64
