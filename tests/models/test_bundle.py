"""Bundle directories: what is refused, in which words, and what a failing save leaves behind."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from models import bundle, self_test
from models.manifest import BundleError, Manifest, read
from models.onnx_session import DeviceUnavailable, OnnxModel, Placement, resolve_device
from tests.support import bundles


@pytest.fixture
def copy(tiny_zoo: Path, tmp_path: Path) -> Path:
    """A tagger of one's own, to be spoiled."""
    return Path(shutil.copytree(tiny_zoo / "tiny-tag", tmp_path / "tiny-tag"))


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = path / "manifest.json"
    content = json.loads(file.read_text("utf-8"))
    change(content)
    file.write_text(json.dumps(content), "utf-8")


def refused(path: Path) -> str:
    """The sentence with which loading and self-testing the bundle ends."""
    with pytest.raises(BundleError) as caught:
        self_test.run(bundles.opened(path))
    return str(caught.value)


def test_a_saved_bundle_loads_and_passes_its_examples(copy: Path) -> None:
    loaded = bundles.opened(copy)
    self_test.run(loaded)
    assert (loaded.manifest.name, loaded.variant, loaded.path) == ("tiny-tag", "fp32", copy)


def test_a_directory_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    assert "no manifest.json here" in refused(tmp_path)


def test_a_manifest_that_is_no_json_is_refused(copy: Path) -> None:
    (copy / "manifest.json").write_text("{", "utf-8")
    assert "the document: Invalid JSON" in refused(copy)


def test_a_newer_format_says_so_before_anything_else(copy: Path) -> None:
    edit(copy, lambda manifest: manifest.update(aaa_new_field=1, format=4, task="summarise"))
    assert "format 4 is newer than the formats 1 to 3 that this version reads: install a newer seqserve" in refused(
        copy
    )


def test_an_unknown_field_is_named(copy: Path) -> None:
    edit(copy, lambda manifest: manifest.update(colour="red"))
    assert "colour: Extra inputs are not permitted" in refused(copy)


@pytest.mark.parametrize("name", ["../words.json", "/etc/passwd", "a/b", ".hidden", ""])
def test_a_file_name_cannot_leave_the_directory(copy: Path, name: str) -> None:
    edit(copy, lambda manifest: manifest["codec"].update(words=name))
    assert "codec.words.words: String should match pattern" in refused(copy)


def test_a_checksum_cannot_be_asked_of_a_file_elsewhere(copy: Path) -> None:
    edit(copy, lambda manifest: manifest["files"].update({"../secret": "0" * 64}))
    assert "files.../secret" in refused(copy)


@pytest.mark.parametrize("file", ["fp32.onnx", "words.json", "stems.json", "characters.json"])
def test_a_missing_file_is_named(copy: Path, file: str) -> None:
    (copy / file).unlink()
    assert f"{file}: is named in the manifest, but missing" in refused(copy)


@pytest.mark.parametrize("file", ["fp32.onnx", "words.json"])
def test_a_changed_file_is_named(copy: Path, file: str) -> None:
    content = (copy / file).read_bytes()
    (copy / file).write_bytes(content[:-1] + b"!")
    sentence = refused(copy)
    assert f"{file}: sha256 is" in sentence
    assert "the manifest says" in sentence


def test_a_file_without_a_checksum_is_refused(copy: Path) -> None:
    edit(copy, lambda manifest: manifest["files"].pop("stems.json"))
    assert "file 'stems.json' is used, but has no checksum" in refused(copy)


def test_the_first_failing_example_is_named(copy: Path) -> None:
    edit(copy, lambda manifest: manifest["examples"][1]["outputs"][0].update(score=0.0))
    sentence = refused(copy)
    assert "example 2 ('Paris') fails with variant fp32" in sentence
    assert "'score': 0.0" in sentence


def test_an_example_that_cannot_even_be_answered_is_named(tiny_zoo: Path, tmp_path: Path) -> None:
    writer = Path(shutil.copytree(tiny_zoo / "tiny-generate", tmp_path / "tiny-generate"))
    edit(writer, lambda manifest: manifest["examples"][0]["parameters"].update(temperature="hot"))
    assert "example 1 (" in refused(writer)


@pytest.mark.parametrize(
    ("part", "index", "tensor"),
    [
        ("inputs", 2, {"name": "novel", "dtype": "int32", "shape": ["T", "B"]}),
        ("outputs", 0, {"name": "logits", "dtype": "float32", "shape": ["T", "B", 4]}),
    ],
)
def test_tensors_that_are_not_those_of_the_graph_are_named(
    copy: Path, part: str, index: int, tensor: dict[str, Any]
) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest[part][index] = tensor

    edit(copy, change)
    sentence = refused(copy)
    assert "the graph has inputs" in sentence
    assert tensor["name"] in sentence


def test_a_graph_that_onnx_runtime_cannot_open_is_named(copy: Path) -> None:
    (copy / "fp32.onnx").write_bytes(b"no graph")
    sums = bundles.checksums({"fp32.onnx": b"no graph"})
    edit(copy, lambda manifest: manifest["files"].update(sums))
    assert "fp32.onnx: cannot be opened" in refused(copy)


def test_a_vocabulary_that_is_no_list_of_strings_is_refused(copy: Path) -> None:
    (copy / "words.json").write_bytes(b"[1, 2]")
    sums = bundles.checksums({"words.json": b"[1, 2]"})
    edit(copy, lambda manifest: manifest["files"].update(sums))
    assert "words.json: is not a JSON array of strings" in refused(copy)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"default_variant": "int8"}, "default_variant 'int8' is none of ['fp32']"),
        ({"labels": ["A", "A"]}, "labels repeat"),
        ({"labels": []}, "task 'tag' needs labels"),
        ({"task": "generate"}, "task 'generate' needs state tensors"),
        ({"examples": []}, "examples: Tuple should have at least 1 item"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(copy: Path, change: dict[str, Any], sentence: str) -> None:
    edit(copy, lambda manifest: manifest.update(change))
    assert sentence in refused(copy)


def test_a_task_needs_a_codec_that_it_can_work_with(copy: Path) -> None:
    codec = bundles.opened(copy).task.codec
    with pytest.raises(BundleError, match="the task 'generate' cannot work with the codec 'words'"):
        bundle.make_task(read(copy).model_copy(update={"task": "generate"}), codec)


def test_a_variant_that_is_not_there_is_refused_with_those_that_are(tiny_zoo: Path) -> None:
    with pytest.raises(BundleError, match=r"has no variant 'int4': choose auto or one of fp32"):
        bundle.load(tiny_zoo / "tiny-tag", variant="int4", placement=bundles.CPU)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert resolve_device("auto") == "cpu"
    with pytest.raises(DeviceUnavailable, match=r"install the gpu extra"):
        resolve_device("cuda")


def test_the_digest_changes_with_any_file(copy: Path) -> None:
    before = bundles.opened(copy)
    files = {**before.manifest.files, "README.md": "0" * 64}
    after = bundle.Bundle(
        manifest=before.manifest.model_copy(update={"files": files}),
        task=before.task,
        model=before.model,
        variant=before.variant,
        path=copy,
        load_s=0.0,
    )
    assert before.digest != after.digest


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def saved_again(path: Path) -> tuple[Manifest, dict[str, bytes]]:
    """A second version of the bundle: what `save` is to write over the first."""
    manifest = read(path).model_copy(update={"version": "2"})
    return manifest, {name: content for name, content in contents(path).items() if name != "manifest.json"}


def test_saving_replaces_the_old_bundle_and_leaves_nothing_else(copy: Path) -> None:
    bundle.save(copy, *saved_again(copy))
    assert read(copy).version == "2"
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]
    assert copy.stat().st_mode & 0o777 == 0o755


def test_a_file_that_is_not_what_the_manifest_says_is_never_saved(copy: Path) -> None:
    before = contents(copy)
    manifest, files = saved_again(copy)
    with pytest.raises(BundleError, match="sha256 is"):
        bundle.save(copy, manifest, {**files, "fp32.onnx": b"cut"})
    assert contents(copy) == before
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


@pytest.mark.parametrize("fails_at", range(1, 5))
def test_a_full_disk_leaves_the_old_bundle(copy: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
    before, (manifest, files) = contents(copy), saved_again(copy)
    writes, write = iter(range(1, 100)), Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if next(writes) == fails_at:
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        bundle.save(copy, manifest, files)
    assert contents(copy) == before
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_rename_that_fails_leaves_the_old_bundle_where_it_was(
    copy: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    before, (manifest, files) = contents(copy), saved_again(copy)
    renames, rename = iter(range(1, 100)), Path.rename

    def failing(path: Path, target: Path) -> Path:
        if next(renames) == fails_at:
            raise PermissionError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(PermissionError):
        bundle.save(copy, manifest, files)
    assert contents(copy) == before
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_both_ways_to_run_a_network_give_the_same_arrays(copy: Path) -> None:
    loaded = bundles.opened(copy)
    item = loaded.task.encode("the cat sat")
    feeds = loaded.task.collate([item])  # type: ignore[list-item]
    model = OnnxModel((copy / "fp32.onnx").read_bytes(), bundles.CPU)
    (lean,) = model.run_list(feeds)
    assert (model.run(feeds)["probabilities"] == lean).all()


def test_labels_that_the_graph_does_not_have_are_counted(copy: Path) -> None:
    edit(copy, lambda manifest: manifest["labels"].append("ONE-MORE"))
    assert "numbers a step, but there are" in refused(copy)


def test_a_manifest_without_a_format_is_refused(copy: Path) -> None:
    edit(copy, lambda manifest: manifest.pop("format"))
    assert "format: Field required" in refused(copy)


@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider'")
def test_a_gpu_that_does_not_start_is_done_without_unless_it_was_asked_for(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("models.onnx_session.ort.get_available_providers", lambda: available)
    monkeypatch.setattr("models.onnx_session.ort.preload_dlls", lambda: None)
    assert bundle.load(copy, placement=Placement(device="auto")).model.device == "cpu"
    with pytest.raises(DeviceUnavailable, match="does not start here"):
        bundle.load(copy, placement=Placement(device="cuda"))


def test_weights_in_a_file_that_no_checksum_covers_are_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = onnx.load(copy / "fp32.onnx")
    onnx.save(graph, copy / "fp32.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    content = (copy / "fp32.onnx").read_bytes()
    edit(copy, lambda manifest: manifest["files"].update({"fp32.onnx": hashlib.sha256(content).hexdigest()}))
    monkeypatch.chdir(copy)  # where ONNX Runtime would look for them
    assert "fp32.onnx: cannot be opened" in refused(copy)
