"""Bundles that are damaged, replaced, or hold other things than plain files."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from models import bundle
from models.graph_file import GraphFile
from models.manifest import GRAPH_BYTES, MANIFEST_BYTES, VOCABULARY_BYTES, BundleError, read, sha256_of_manifest
from tests.support import bundles
from tests.support.unprivileged import public_folder, unprivileged

FILES = ("manifest.json", "fp32.onnx", "words.json")


@pytest.fixture
def copy(tiny_zoo: Path, tmp_path: Path) -> Path:
    """Return a copy of a tagger that a test can damage."""
    return Path(shutil.copytree(tiny_zoo / "tiny-tag", tmp_path / "tiny-tag"))


def load_error(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        bundles.opened(path)
    return str(caught.value)


def replace(path: Path, content: bytes) -> None:
    """Replace a file of a bundle, and its checksum."""
    path.write_bytes(content)
    manifest = read(path.parent)
    files = manifest.files | bundle.digests({path.name: content})
    (path.parent / "manifest.json").write_text(manifest.model_copy(update={"files": files}).model_dump_json(), "utf-8")


def change_graph(path: Path, change: Callable[[Any], None]) -> None:
    model = onnx.load(path)
    change(model.graph)
    replace(path, model.SerializeToString())


def constants(graph: Any, operator: str, place: int) -> list[Any]:
    """Return the initializers that nodes of one kind have as their input number `place`."""
    names = {node.input[place] for node in graph.node if node.op_type == operator}
    return [tensor for tensor in graph.initializer if tensor.name in names]


def make_directory(path: Path) -> None:
    path.mkdir()


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)  # the path of a socket must be short
        listener.bind(path.name)


def make_link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def make_link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [os.mkfifo, make_directory, make_socket, make_link_to_itself, make_link_to_device])
@pytest.mark.parametrize("file", FILES)
def test_file_that_is_not_regular_is_refused(copy: Path, file: str, make: Callable[[Path], None]) -> None:
    (copy / file).unlink()
    make(copy / file)
    assert load_error(copy).startswith(f"{copy / file}: ")


def test_fifo_in_place_of_an_empty_file_is_refused(copy: Path) -> None:
    replace(copy / "notes.txt", b"")
    (copy / "notes.txt").unlink()
    os.mkfifo(copy / "notes.txt")
    assert load_error(copy).startswith(f"{copy / 'notes.txt'}: ")


@pytest.mark.parametrize(
    ("file", "limit"),
    [("manifest.json", MANIFEST_BYTES), ("fp32.onnx", GRAPH_BYTES), ("words.json", VOCABULARY_BYTES)],
)
def test_file_over_the_limit_is_refused_by_its_size(copy: Path, file: str, limit: int) -> None:
    os.truncate(copy / file, 10 << 30)  # sparse
    message = load_error(copy)
    assert message.startswith(f"{copy / file}: ")
    assert str(10 << 30) in message
    assert str(limit) in message


@pytest.mark.parametrize("file", FILES)
def test_link_that_leaves_the_bundle_is_refused(copy: Path, file: str) -> None:
    (copy / file).rename(copy.parent / "outside")
    (copy / file).symlink_to(copy.parent / "outside")
    assert load_error(copy).startswith(f"{copy / file}: ")


def test_links_within_the_bundle_and_to_it_are_followed(copy: Path) -> None:
    """Kubernetes mounts volumes like this."""
    (copy / "..data").mkdir()
    for file in FILES:
        (copy / file).rename(copy / "..data" / file)
        (copy / file).symlink_to(copy / "..data" / file)
    (copy.parent / "current").symlink_to(copy)
    assert bundles.opened(copy.parent / "current").manifest.name == "tiny-tag"


@pytest.mark.parametrize("file", FILES)
def test_file_without_permission_is_refused(copy: Path, file: str) -> None:
    with public_folder() as folder:
        path = Path(shutil.copytree(copy, folder / "tiny-tag"))
        (path / file).chmod(0)
        with unprivileged():
            assert load_error(path).startswith(f"{path / file}: ")


def test_listed_file_that_is_not_used_is_checked(copy: Path) -> None:
    replace(copy / "notes.txt", b"notes")
    assert bundles.opened(copy).manifest.name == "tiny-tag"
    (copy / "notes.txt").write_bytes(b"other notes")
    assert load_error(copy).startswith(f"{copy / 'notes.txt'}: ")


def test_file_that_is_not_listed_is_not_read(copy: Path) -> None:
    os.mkfifo(copy / "notes.txt")
    assert bundles.opened(copy).manifest.name == "tiny-tag"


def test_manifest_that_is_not_utf8_is_refused(copy: Path) -> None:
    (copy / "manifest.json").write_bytes(b'{"name": "\xff"}')
    assert load_error(copy).startswith(f"{copy / 'manifest.json'}: ")


@pytest.mark.parametrize(
    "content", [b'["\xff"]', b"\xff\xfe[\0]\0", b'["\\ud800"]', b"[" * 100_000, b'{"a": 1}', b'["a", "a"]', b""]
)
def test_damaged_vocabulary_is_refused(copy: Path, content: bytes) -> None:
    replace(copy / "words.json", content)
    assert load_error(copy).startswith(f"{copy / 'words.json'}: ")


@pytest.mark.parametrize("vocabulary", ["words.json", "stems.json", "characters.json"])
@pytest.mark.parametrize("difference", [-1, 1])
def test_vocabulary_of_another_size_than_the_table_is_refused(copy: Path, vocabulary: str, difference: int) -> None:
    entries = bundle.vocabulary(copy / vocabulary)
    changed = [*entries, "ω"] if difference > 0 else entries[:-1]
    replace(copy / vocabulary, bundle.vocabulary_text(changed).encode())
    assert load_error(copy).startswith(f"{copy / 'fp32.onnx'}: ")


def test_vocabulary_of_another_size_than_the_table_of_a_generator_is_refused(tiny_zoo: Path, tmp_path: Path) -> None:
    writer = Path(shutil.copytree(tiny_zoo / "tiny-generate", tmp_path / "tiny-generate"))
    replace(writer / "characters.json", bundle.vocabulary_text([*bundles.CHARACTERS, "ω"]).encode())
    assert load_error(writer).startswith(f"{writer / 'fp32.onnx'}: ")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("operator", "place"), [("Gather", 0), ("LSTM", 1), ("LSTM", 3), ("MatMul", 1)])
@pytest.mark.parametrize("as_raw_data", [True, False])
def test_weight_that_is_not_finite_is_refused(
    copy: Path, value: float, operator: str, place: int, as_raw_data: bool
) -> None:
    def change(graph: Any) -> None:
        weight = constants(graph, operator, place)[-1]
        array = onnx.numpy_helper.to_array(weight).copy()
        array.flat[-1] = value
        if as_raw_data:
            weight.raw_data = array.tobytes()
        else:
            weight.ClearField("raw_data")
            weight.float_data.extend(array.flat)

    change_graph(copy / "fp32.onnx", change)
    assert load_error(copy).startswith(f"{copy / 'fp32.onnx'}: ")


@pytest.mark.parametrize(("value", "is_mask"), [(-np.inf, True), (np.inf, False), (np.nan, False)])
def test_only_minus_infinity_can_be_added_as_a_mask(copy: Path, value: float, is_mask: bool) -> None:
    def change(graph: Any) -> None:
        bias = constants(graph, "Add", 1)[-1]
        bias.raw_data = np.append(onnx.numpy_helper.to_array(bias)[:-1], np.float32(value)).tobytes()

    change_graph(copy / "fp32.onnx", change)
    assert (GraphFile((copy / "fp32.onnx").read_bytes()).nonfinite_weight() is None) is is_mask


@pytest.mark.parametrize("labels", [("A", "B", "C"), ("A", "B", "C", "D", "E")])
def test_labels_of_another_number_than_a_free_output_are_refused(copy: Path, labels: tuple[str, ...]) -> None:
    def change(graph: Any) -> None:
        last = graph.node[-1]
        graph.initializer.append(onnx.numpy_helper.from_array(np.ones(4, bool), "all"))
        graph.node.append(onnx.helper.make_node("Compress", ["before", "all"], [last.output[0]], axis=2))
        last.output[0] = "before"  # now its width is only known after a run
        graph.output[0].type.tensor_type.shape.dim[2].dim_param = "K"

    change_graph(copy / "fp32.onnx", change)
    manifest = read(copy)
    output = manifest.outputs[0].model_copy(update={"shape": ("T", "B", "K")})
    changed = manifest.model_copy(update={"outputs": (output,)})
    (copy / "manifest.json").write_text(changed.model_dump_json(), "utf-8")
    assert bundles.opened(copy).model.widths == {"probabilities": None}
    (copy / "manifest.json").write_text(changed.model_copy(update={"labels": labels}).model_dump_json(), "utf-8")
    assert "'probabilities'" in load_error(copy)


def test_duplicate_tensor_is_refused(copy: Path) -> None:
    manifest = read(copy)
    changed = manifest.model_copy(update={"inputs": (*manifest.inputs, manifest.inputs[0])})
    (copy / "manifest.json").write_text(changed.model_dump_json(), "utf-8")
    assert "inputs" in load_error(copy)


def test_replaced_bundle_is_refused(copy: Path) -> None:
    pinned = sha256_of_manifest(copy)
    assert bundle.load(copy, placement=bundles.CPU, manifest_sha256=pinned).manifest.version == "1"
    changed = read(copy).model_copy(update={"version": "2"})
    (copy / "manifest.json").write_text(changed.model_dump_json(), "utf-8")
    with pytest.raises(BundleError, match=r"manifest\.json"):
        bundle.load(copy, placement=bundles.CPU, manifest_sha256=pinned)


@pytest.mark.parametrize("content", [b"\x0a\x05a", b"\x3a\xff\xff\xff\xff\x0f", b"\x80", b"\x38\x01", b"\x0f"])
def test_graph_file_refuses_bytes_that_are_not_a_message(content: bytes) -> None:
    with pytest.raises(ValueError, match=" "):
        GraphFile(content)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(("value", "dtype"), [(np.nan, np.float32), (np.inf, np.float64), (np.nan, np.float16)])
def test_weights_in_nodes_and_in_their_bodies_are_checked(nested: bool, value: float, dtype: Any) -> None:
    tensor = onnx.numpy_helper.from_array(np.array([1, value], dtype), "weight")
    nodes = [onnx.helper.make_node("Constant", [], ["weight"], value=tensor)]
    body = onnx.helper.make_graph(nodes, "body", [], [])
    if nested:
        body = onnx.helper.make_graph([onnx.helper.make_node("Scan", [], ["y"], body=body)], "outer", [], [])
    content = onnx.helper.make_model(body).SerializeToString()
    assert GraphFile(content).nonfinite_weight() == "weight"


@pytest.fixture
def translator(tmp_path: Path) -> Path:
    return bundles.translator(tmp_path)


def test_reader_with_other_outputs_is_refused(translator: Path) -> None:
    def drop_keys(graph: Any) -> None:
        (keys,) = (output for output in graph.output if output.name == "keys")
        graph.output.remove(keys)

    change_graph(translator / "reader.onnx", drop_keys)
    assert "reader.onnx" in load_error(translator)


@pytest.mark.parametrize(("file", "looked_up"), [("fp32.onnx", "pieces"), ("reader.onnx", "source")])
def test_table_that_does_not_fit_the_pieces_is_refused(translator: Path, file: str, looked_up: str) -> None:
    def cut(graph: Any) -> None:
        (name,) = (node.input[0] for node in graph.node if node.input[1:] == [looked_up])
        (table,) = (tensor for tensor in graph.initializer if tensor.name == name)
        table.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(table)[:-1], name))

    change_graph(translator / file, cut)
    assert looked_up in load_error(translator)


@pytest.mark.parametrize(("file", "content"), [("merges.json", '["a zz"]'), ("pieces.json", '["a", "b"]')])
def test_pieces_that_do_not_fit_are_refused(translator: Path, file: str, content: str) -> None:
    replace(translator / file, content.encode())
    assert "piece" in load_error(translator)
