"""Manifest checks, and the formats 1 to 4."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from models import bundle, self_test
from models.manifest import FORMAT_VERSION, BundleError, read
from tests.support import bundles

Content = dict[str, Any]


def as_format_1(path: Path, change: Callable[[Content], object] = lambda content: None) -> Path:
    """Rewrite a manifest as format 1, and then change it."""
    file = path / "manifest.json"
    content = json.loads(as_format(path, 1).joinpath("manifest.json").read_text("utf-8"))
    del content["text_labels"]
    for field in ("subwords", "lowercase") if content["codec"]["kind"] == "characters" else ("subwords",):
        content["codec"].pop(field, None)
    change(content)
    file.write_text(json.dumps(content), "utf-8")
    return path


def as_format(path: Path, number: int) -> Path:
    """Rewrite a manifest as an older format, without the field of format 4."""
    file = path / "manifest.json"
    content = json.loads(file.read_text("utf-8"))
    for variant in content["variants"].values():
        del variant["speller"]
    file.write_text(json.dumps({**content, "format": number}), "utf-8")
    return path


MAKERS = {"tag": bundles.tagger, "classify": bundles.classifier, "generate": bundles.generator}


@pytest.mark.parametrize("task", MAKERS)
def test_format_1_bundle_passes_self_test(tmp_path: Path, task: str) -> None:
    loaded = bundles.opened(as_format_1(MAKERS[task](tmp_path)))
    self_test.run(loaded)
    assert loaded.manifest.format == 1


def test_save_writes_the_newest_format(tmp_path: Path) -> None:
    path = as_format_1(bundles.classifier(tmp_path))
    files = {file: (path / file).read_bytes() for file in read(path).files}
    bundle.save(path, read(path), files)
    assert read(path).format == FORMAT_VERSION


@pytest.mark.parametrize("number", [5, 0, -1, 17])
def test_unknown_format_is_refused(tmp_path: Path, number: int) -> None:
    path = as_format_1(bundles.classifier(tmp_path), lambda content: content.update(format=number))
    with pytest.raises(BundleError, match=f"format {number} is"):
        read(path)


def read_error(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        read(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda content: content.update(text_labels=[]), "text_labels"),
        (lambda content: content["codec"].update(subwords=None), "codec.subwords"),
        (lambda content: content["codec"].update(subwords={"buckets": 9}), "codec.subwords"),
        (lambda content: content.update(task="joint", text_labels=["A"]), "text_labels"),
        (lambda content: content.update(codec={"kind": "dna"}), "codec.kind 'dna'"),
        (lambda content: content.update(codec={"kind": "frames", "features": 2}), "codec.kind 'frames'"),
        (lambda content: content.update(codec={"kind": "characters"}), "task 'tag' for characters"),
        (lambda content: content["outputs"].append({"name": "path", "dtype": "int32", "shape": []}), "output 'path'"),
        (lambda content: content["examples"][0].update(inputs=["the"]), "example"),
    ],
)
def test_format_1_refuses_features_of_format_2(tmp_path: Path, change: Callable[[Content], object], named: str) -> None:
    path = as_format_1(bundles.tagger(tmp_path), change)
    assert f"format 1 has no {named}" in read_error(path)


def test_format_1_refuses_task_joint(tmp_path: Path) -> None:
    # Without text_labels, which would be reported first.
    path = as_format_1(bundles.tagger(tmp_path), lambda content: content.update(task="joint"))
    assert "format 1 has no task 'joint'" in read_error(path)


def test_format_1_refuses_lowercase_characters(tmp_path: Path) -> None:
    path = as_format_1(bundles.generator(tmp_path), lambda content: content["codec"].update(lowercase=False))
    assert "format 1 has no codec.lowercase" in read_error(path)


@pytest.mark.parametrize("task", MAKERS)
def test_format_2_bundle_passes_self_test(tmp_path: Path, task: str) -> None:
    loaded = bundles.opened(as_format(MAKERS[task](tmp_path), 2))
    self_test.run(loaded)
    assert loaded.manifest.format == 2


@pytest.mark.parametrize(
    ("make", "named"),
    [(bundles.live_tagger, "state for task 'tag'"), (bundles.embedder, "output 'embedding'")],
)
def test_format_2_refuses_features_of_format_3(tmp_path: Path, make: Callable[[Path], Path], named: str) -> None:
    assert f"format 2 has no {named}" in read_error(as_format(make(tmp_path), 2))


@pytest.mark.parametrize("make", [bundles.live_tagger, bundles.embedder])
def test_format_3_bundle_passes_self_test(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    loaded = bundles.opened(as_format(make(tmp_path), 3))
    self_test.run(loaded)
    assert loaded.manifest.format == 3


def test_format_3_refuses_a_speller(tmp_path: Path) -> None:
    path = bundles.with_speller(bundles.tagger(tmp_path))
    file = path / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), "format": 3}), "utf-8")
    assert "format 3 has no variants.fp32.speller" in read_error(path)


@pytest.mark.parametrize("field", ["frame_rate", "delay"])
def test_format_3_refuses_frame_rate_and_delay(tmp_path: Path, field: str) -> None:
    path = as_format(bundles.live_frames(tmp_path), 3)
    file = path / "manifest.json"
    content = json.loads(file.read_text("utf-8"))
    content["codec"] = {"kind": "frames", "features": 3, field: content["codec"][field]}
    file.write_text(json.dumps(content), "utf-8")
    assert f"format 3 has no codec.{field}" in read_error(path)


@pytest.mark.parametrize("make", [partial(bundles.of_frames, task="tag"), partial(bundles.of_frames, task="classify")])
def test_delay_needs_a_state(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path)
    file = path / "manifest.json"
    content = json.loads(file.read_text("utf-8"))
    content["codec"]["delay"] = 2
    file.write_text(json.dumps(content), "utf-8")
    assert "codec.delay is 2" in read_error(path)


def test_speller_needs_a_checksum(tmp_path: Path) -> None:
    path = bundles.with_speller(bundles.tagger(tmp_path))
    file = path / "manifest.json"
    content = json.loads(file.read_text("utf-8"))
    del content["files"]["fp32-speller.onnx"]
    file.write_text(json.dumps(content), "utf-8")
    assert "fp32-speller.onnx" in read_error(path)


STATE = {"input": "h", "output": "h_next", "width": 6}


@pytest.mark.parametrize(
    ("make", "changes", "named"),
    [
        (bundles.classifier, {"state": [STATE]}, "state"),
        (partial(bundles.tagger, path=True), {"state": [STATE]}, "'path'"),
        (partial(bundles.of_bases, task="tag"), {"state": [STATE]}, "codec.positions"),
        (
            bundles.embedder,
            {"outputs": [{"name": "embedding", "dtype": "float32", "shape": ["B", "W"]}]},
            "'embedding'",
        ),
    ],
)
def test_invalid_state_or_embedding_is_refused(
    tmp_path: Path, make: Callable[[Path], Path], changes: Content, named: str
) -> None:
    path = make(tmp_path)
    file = path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | changes), "utf-8")
    with pytest.raises(BundleError, match=named):
        read(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("source", None),
        ("source", {"kind": "frames", "features": 3}),
        ("translation", None),
        ("translation", {"pairs": []}),
        ("memory", []),
        ("memory", [{"name": "pieces", "width": 6}]),
        ("state", []),
        ("codec", {"kind": "characters"}),
        ("task", "caption"),
        ("format", 3),
    ],
)
def test_translator_without_its_fields_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    file = bundles.translator(tmp_path) / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), field: value}), "utf-8")
    with pytest.raises(BundleError):
        read(file.parent)


def test_reader_belongs_to_translators(tmp_path: Path) -> None:
    for make, reader in ((bundles.translator, None), (bundles.tagger, "fp32.onnx")):
        file = make(tmp_path) / "manifest.json"
        content = json.loads(file.read_text("utf-8"))
        content["variants"]["fp32"]["reader"] = reader
        file.write_text(json.dumps(content), "utf-8")
        assert "reader" in read_error(file.parent)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"codec": {"kind": "characters"}}, "'characters'"),
        ({"outputs": [{"name": "best_scores", "dtype": "float32", "shape": ["P", "R"]}]}, "'best_scores'"),
    ],
)
def test_filler_without_words_or_a_fixed_count_is_refused(tmp_path: Path, changes: Content, named: str) -> None:
    file = bundles.filler(tmp_path) / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | changes), "utf-8")
    with pytest.raises(BundleError, match=named):
        read(file.parent)
