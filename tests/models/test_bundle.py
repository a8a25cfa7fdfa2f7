"""Loading, checking and saving bundle directories."""

import dataclasses
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
    """Return a copy of a tagger that a test can damage."""
    return Path(shutil.copytree(tiny_zoo / "tiny-tag", tmp_path / "tiny-tag"))


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = path / "manifest.json"
    content = json.loads(file.read_text("utf-8"))
    change(content)
    file.write_text(json.dumps(content), "utf-8")


def load_error(path: Path) -> str:
    """Return the message with which loading or the self-test fails."""
    with pytest.raises(BundleError) as caught:
        self_test.run(bundles.opened(path))
    return str(caught.value)


def test_saved_bundle_loads_and_passes_self_test(copy: Path) -> None:
    loaded = bundles.opened(copy)
    self_test.run(loaded)
    assert (loaded.manifest.name, loaded.variant, loaded.path) == ("tiny-tag", "fp32", copy)


def test_missing_manifest_is_refused(tmp_path: Path) -> None:
    assert "manifest.json" in load_error(tmp_path)


def test_manifest_that_is_not_json_is_refused(copy: Path) -> None:
    (copy / "manifest.json").write_text("{", "utf-8")
    assert "manifest.json: the document: " in load_error(copy)


def test_newer_format_is_reported_first(copy: Path) -> None:
    edit(copy, lambda manifest: manifest.update(aaa_new_field=1, format=5, task="summarise"))
    assert "format 5 is newer" in load_error(copy)


def test_unknown_field_is_refused(copy: Path) -> None:
    edit(copy, lambda manifest: manifest.update(color="red"))
    assert "color: " in load_error(copy)


@pytest.mark.parametrize("name", ["../words.json", "/etc/passwd", "a/b", ".hidden", ""])
def test_file_name_cannot_leave_the_directory(copy: Path, name: str) -> None:
    edit(copy, lambda manifest: manifest["codec"].update(words=name))
    assert "codec.words.words: " in load_error(copy)


def test_checksum_of_file_outside_the_directory_is_refused(copy: Path) -> None:
    edit(copy, lambda manifest: manifest["files"].update({"../secret": "0" * 64}))
    assert "files.../secret" in load_error(copy)


@pytest.mark.parametrize("file", ["fp32.onnx", "words.json", "stems.json", "characters.json"])
def test_missing_file_is_refused(copy: Path, file: str) -> None:
    (copy / file).unlink()
    assert f"{file}: is missing" in load_error(copy)


@pytest.mark.parametrize("file", ["fp32.onnx", "words.json"])
def test_changed_file_is_refused(copy: Path, file: str) -> None:
    content = (copy / file).read_bytes()
    (copy / file).write_bytes(content[:-1] + b"!")
    assert f"{file}: sha256 is" in load_error(copy)


def test_file_without_checksum_is_refused(copy: Path) -> None:
    edit(copy, lambda manifest: manifest["files"].pop("stems.json"))
    assert "'stems.json'" in load_error(copy)


def test_first_failing_example_is_reported(copy: Path) -> None:
    edit(copy, lambda manifest: manifest["examples"][1]["outputs"][0].update(score=0.0))
    message = load_error(copy)
    assert "example 2 ('Paris')" in message
    assert "'score': 0.0" in message


def test_example_that_raises_is_reported(tiny_zoo: Path, tmp_path: Path) -> None:
    writer = Path(shutil.copytree(tiny_zoo / "tiny-generate", tmp_path / "tiny-generate"))
    edit(writer, lambda manifest: manifest["examples"][0]["parameters"].update(temperature="hot"))
    assert "example 1 (" in load_error(writer)


@pytest.mark.parametrize(
    ("part", "index", "tensor"),
    [
        ("inputs", 2, {"name": "novel", "dtype": "int32", "shape": ["T", "B"]}),
        ("outputs", 0, {"name": "logits", "dtype": "float32", "shape": ["T", "B", 4]}),
    ],
)
def test_tensors_that_differ_from_the_graph_are_refused(
    copy: Path, part: str, index: int, tensor: dict[str, Any]
) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest[part][index] = tensor

    edit(copy, change)
    assert tensor["name"] in load_error(copy)


def test_graph_that_onnx_runtime_cannot_open_is_refused(copy: Path) -> None:
    (copy / "fp32.onnx").write_bytes(b"no graph")
    sums = bundle.digests({"fp32.onnx": b"no graph"})
    edit(copy, lambda manifest: manifest["files"].update(sums))
    assert "fp32.onnx: " in load_error(copy)


def test_vocabulary_that_is_not_a_list_of_strings_is_refused(copy: Path) -> None:
    (copy / "words.json").write_bytes(b"[1, 2]")
    sums = bundle.digests({"words.json": b"[1, 2]"})
    edit(copy, lambda manifest: manifest["files"].update(sums))
    assert "words.json: " in load_error(copy)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"default_variant": "int8"}, "'int8'"),
        ({"labels": ["A", "A"]}, "labels"),
        ({"labels": []}, "labels"),
        ({"task": "generate"}, "state"),
        ({"examples": []}, "examples: "),
    ],
)
def test_inconsistent_manifest_is_refused(copy: Path, change: dict[str, Any], named: str) -> None:
    edit(copy, lambda manifest: manifest.update(change))
    assert named in load_error(copy)


def test_generation_needs_the_characters_codec(copy: Path) -> None:
    codec = bundles.opened(copy).task.codec
    with pytest.raises(BundleError, match="'words'"):
        bundle.make_task(read(copy).model_copy(update={"task": "generate"}), codec)


def test_unknown_variant_is_refused(tiny_zoo: Path) -> None:
    with pytest.raises(BundleError, match=r"'int4'.*fp32"):
        bundle.load(tiny_zoo / "tiny-tag", variant="int4", placement=bundles.CPU)


def test_missing_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert resolve_device("auto") == "cpu"
    with pytest.raises(DeviceUnavailable):
        resolve_device("cuda")


def digest_with(copy: Path, **files: str) -> str:
    loaded = bundles.opened(copy)
    manifest = loaded.manifest.model_copy(update={"files": {**loaded.manifest.files, **files}})
    return dataclasses.replace(loaded, manifest=manifest).digest


@pytest.mark.parametrize("file", ["words.json", "new.json"])
def test_digest_changes_with_any_file(copy: Path, file: str) -> None:
    assert digest_with(copy, **{file: "0" * 64}) != bundles.opened(copy).digest


def test_digest_does_not_depend_on_the_model_card(copy: Path) -> None:
    assert digest_with(copy, **{"README.md": "0" * 64}) == bundles.opened(copy).digest


@pytest.mark.parametrize("card", [None, "edited"])
def test_bundle_whose_model_card_changed_loads(copy: Path, card: str | None) -> None:
    edit(copy, lambda manifest: manifest["files"].update({"README.md": "0" * 64}))  # as older bundles do
    if card is not None:
        (copy / "README.md").write_text(card)
    self_test.run(bundles.opened(copy))


def test_model_card_cannot_be_a_vocabulary(copy: Path) -> None:
    edit(copy, lambda manifest: manifest["codec"].update(words="README.md"))
    edit(copy, lambda manifest: manifest["files"].update({"README.md": "0" * 64}))
    assert "'README.md'" in load_error(copy)


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def saved_again(path: Path) -> tuple[Manifest, dict[str, bytes]]:
    """Return manifest and files of a second version of the bundle."""
    manifest = read(path).model_copy(update={"version": "2"})
    return manifest, {name: content for name, content in contents(path).items() if name != "manifest.json"}


def test_save_replaces_the_old_bundle(copy: Path) -> None:
    bundle.save(copy, *saved_again(copy))
    assert read(copy).version == "2"
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]
    assert copy.stat().st_mode & 0o777 == 0o755


def test_save_refuses_wrong_checksum(copy: Path) -> None:
    before = contents(copy)
    manifest, files = saved_again(copy)
    with pytest.raises(BundleError, match="sha256 is"):
        bundle.save(copy, manifest, {**files, "fp32.onnx": b"cut"})
    assert contents(copy) == before
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


@pytest.mark.parametrize("fails_at", range(1, 5))
def test_full_disk_keeps_the_old_bundle(copy: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
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
def test_failed_rename_keeps_the_old_bundle(copy: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
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


def test_run_and_run_list_return_the_same_arrays(copy: Path) -> None:
    loaded = bundles.opened(copy)
    item = loaded.task.encode("the cat sat")
    feeds = loaded.task.collate([item])  # type: ignore[list-item]
    model = OnnxModel((copy / "fp32.onnx").read_bytes(), bundles.CPU)
    (array,) = model.run_list(feeds)
    assert (model.run(feeds)["probabilities"] == array).all()


def test_more_labels_than_outputs_are_refused(copy: Path) -> None:
    edit(copy, lambda manifest: manifest["labels"].append("ONE-MORE"))
    assert "probabilities" in load_error(copy)


def test_manifest_without_format_is_refused(copy: Path) -> None:
    edit(copy, lambda manifest: manifest.pop("format"))
    assert "format: " in load_error(copy)


@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider'")
def test_device_auto_falls_back_to_cpu_if_the_gpu_fails(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("models.onnx_session.ort.get_available_providers", lambda: available)
    monkeypatch.setattr("models.onnx_session.ort.preload_dlls", lambda: None)
    assert bundle.load(copy, placement=Placement(device="auto")).model.device == "cpu"
    with pytest.raises(DeviceUnavailable):
        bundle.load(copy, placement=Placement(device="cuda"))


def test_external_weights_are_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = onnx.load(copy / "fp32.onnx")
    onnx.save(graph, copy / "fp32.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    content = (copy / "fp32.onnx").read_bytes()
    edit(copy, lambda manifest: manifest["files"].update({"fp32.onnx": hashlib.sha256(content).hexdigest()}))
    monkeypatch.chdir(copy)  # where ONNX Runtime looks for them
    assert "fp32.onnx: " in load_error(copy)
