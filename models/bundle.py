"""Save and load a bundle directory: checksummed, atomic, self-testing.

Knows files. Leaves the meaning of fields to manifest.py, of text to codecs/ and of arrays to tasks/.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from models import codecs
from models.codecs.characters import CharactersCodec
from models.manifest import FORMAT_VERSION, MANIFEST_FILE, BundleError, Manifest, read
from models.onnx_session import DeviceUnavailable, OnnxModel, Placement, resolve_device
from models.tasks import Classification, Generation, Joint, Tagging, Task


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A model ready to answer."""

    manifest: Manifest
    task: Task
    model: OnnxModel
    variant: str
    path: Path
    load_s: float

    @property
    def digest(self) -> str:
        """sha256 over the checksums of all files: the identity of the weights and vocabularies."""
        text = json.dumps(dict(sorted(self.manifest.files.items())))
        return hashlib.sha256(text.encode()).hexdigest()


def load(path: Path | str, *, variant: str = "auto", placement: Placement | None = None) -> Bundle:
    """Read, check and open the bundle in directory `path`. Does not run its examples: see reference.self_test.

    `variant` "auto" is the manifest's default on a CPU and fp32 on a GPU, where the int8 operators do not run.
    Raises BundleError with a sentence that names the file or the field.
    """
    path = Path(path)
    placement = placement or Placement()
    started = time.perf_counter()
    manifest = read(path)
    # Each file is read once: what was hashed is what is used.
    contents = {file: _checked(path / file, expected) for file, expected in manifest.files.items()}
    name, model = _open(path, manifest, contents, variant, placement)
    _check_tensors(path, manifest, model)
    codec = codecs.build(manifest.codec, lambda file: _entries(path / file, contents[file]))
    _check_outputs(path, manifest)
    _check_widths(path, manifest, model, codec)
    return Bundle(
        manifest=manifest,
        task=make_task(manifest, codec),
        model=model,
        variant=name,
        path=path,
        load_s=time.perf_counter() - started,
    )


def _open(
    path: Path, manifest: Manifest, contents: Mapping[str, bytes], variant: str, placement: Placement
) -> tuple[str, OnnxModel]:
    """The variant and its session; device `auto` falls back to the CPU, and to the CPU's variant."""
    name = choose_variant(manifest, variant, placement)
    try:
        return name, OnnxModel(contents[manifest.variants[name].file], placement)
    except DeviceUnavailable:
        if placement.device != "auto":
            raise
        return _open(path, manifest, contents, variant, replace(placement, device="cpu"))
    except Exception as error:  # ONNX Runtime raises a dozen unrelated types for a graph that it cannot open
        raise BundleError(f"{path / manifest.variants[name].file}: cannot be opened: {error}") from error


def choose_variant(manifest: Manifest, variant: str, placement: Placement) -> str:
    """The variant that is meant by `variant` on this device."""
    if variant == "auto":
        on_gpu = resolve_device(placement.device) == "cuda"
        return "fp32" if on_gpu and "fp32" in manifest.variants else manifest.default_variant
    if variant not in manifest.variants:
        raise BundleError(
            f"{manifest.name}: has no variant {variant!r}: choose auto or one of {', '.join(sorted(manifest.variants))}"
        )
    return variant


def make_task(manifest: Manifest, codec: codecs.Codec) -> Task:
    """The task object of a manifest."""
    if manifest.task == "generate":
        if not isinstance(codec, CharactersCodec):
            raise BundleError(
                f"{manifest.name}: the task 'generate' cannot work with the codec {manifest.codec.kind!r}"
            )
        return Generation(codec, manifest.state)
    if manifest.task == "tag":
        return Tagging(codec, manifest.labels, manifest.scheme, manifest.state)
    embeds = manifest.embedding_width > 0
    if manifest.task == "classify":
        return Classification(codec, manifest.labels, embeds=embeds)
    return Joint(codec, manifest.labels, manifest.text_labels, manifest.scheme, embeds=embeds)


def vocabulary(path: Path) -> list[str]:
    """The entries of a vocabulary file: a JSON array of strings, one a line."""
    return _entries(path, path.read_bytes())


def _entries(path: Path, content: bytes) -> list[str]:
    try:
        entries = json.loads(content)
    except ValueError as error:
        raise BundleError(f"{path}: is not a JSON array of strings: {error}") from None
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise BundleError(f"{path}: is not a JSON array of strings")
    return entries


def vocabulary_text(entries: Sequence[str]) -> str:
    """What `vocabulary` reads back."""
    return json.dumps(list(entries), ensure_ascii=False, indent=0) + "\n"


def save(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Write a bundle directory in one step: a reader sees the old one or the new one, never half.

    `files` is the content of every file but the manifest; `manifest.files` must hold their checksums. What is written
    is of this version's format, whatever the manifest was read from.
    """
    manifest = manifest.model_copy(update={"format": FORMAT_VERSION})
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        for name, content in files.items():
            (fresh / name).write_bytes(content)
        (fresh / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1) + "\n", "utf-8")
        for name, expected in manifest.files.items():
            _checked(fresh / name, expected)
        fresh.chmod(0o755)  # mkdtemp's 0700 would hide the bundle from the account that serves it
        _put_in_place(fresh, path)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _put_in_place(fresh: Path, path: Path) -> None:
    """Rename `fresh` to `path`; the directory that was there is removed, or put back if that fails."""
    if not path.exists():
        fresh.rename(path)
        return
    retired = path.with_name(f".{path.name}.old-{os.getpid()}")
    path.rename(retired)
    try:
        fresh.rename(path)
    except BaseException:
        retired.rename(path)
        raise
    shutil.rmtree(retired)


def _checked(path: Path, expected: str) -> bytes:
    """The content of a file, whose checksum must be as expected."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise BundleError(f"{path}: is named in the manifest, but missing: copy the bundle again, whole") from None
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise BundleError(
            f"{path}: sha256 is {found}, the manifest says {expected}: the file was changed or cut short, "
            "copy the bundle again or export it again"
        )
    return content


def _check_tensors(path: Path, manifest: Manifest, model: OnnxModel) -> None:
    """The graph's tensors must be the manifest's, outputs in the same order."""
    inputs = {tensor.name for tensor in manifest.inputs} | {tensor.input for tensor in manifest.state}
    outputs = (*(tensor.name for tensor in manifest.outputs), *(tensor.output for tensor in manifest.state))
    if set(model.inputs) != inputs or model.outputs != outputs:
        raise BundleError(
            f"{path}: the graph has inputs {sorted(model.inputs)} and outputs {list(model.outputs)}, "
            f"the manifest says {sorted(inputs)} and {list(outputs)}"
        )


OUTPUTS = {  # of each task, in order; optional ones in brackets
    "tag": ("probabilities", "[path]"),
    "classify": ("probabilities", "[embedding]"),
    "joint": ("probabilities", "[path]", "text_probabilities", "[embedding]"),
    "generate": ("log_probabilities",),
}


def _check_outputs(path: Path, manifest: Manifest) -> None:
    """The outputs must be those of the task."""
    names = [tensor.name for tensor in manifest.outputs]
    wanted = OUTPUTS[manifest.task]
    if names != [name.strip("[]") for name in wanted if name[0] != "[" or name.strip("[]") in names]:
        raise BundleError(f"{path}: the task {manifest.task!r} has the outputs {', '.join(wanted)}, not {names}")


def _check_widths(path: Path, manifest: Manifest, model: OnnxModel, codec: codecs.Codec) -> None:
    """The last axis of an answer must be the labels, the rows of a language model's vocabulary, or as it is said."""
    expected = {"probabilities": (len(manifest.labels), "labels")}
    if manifest.task == "joint":
        expected["text_probabilities"] = (len(manifest.text_labels), "text_labels")
    if isinstance(codec, CharactersCodec) and manifest.task == "generate":
        expected = {"log_probabilities": (codec.table_rows, "rows of the vocabulary")}
    if manifest.embedding_width:
        expected["embedding"] = (manifest.embedding_width, "in the shape of its output 'embedding'")
    for output, (count, what) in expected.items():
        found = model.widths[output]
        if found not in (count, None):
            raise BundleError(f"{path}: the graph answers {found} numbers a step, but there are {count} {what}")
