"""Load and save bundle directories: checksummed, and replaced atomically."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models import codecs
from models import state as states
from models.codecs.characters import CharactersCodec
from models.codecs.frames import FramesCodec
from models.codecs.images import ImageCodec
from models.codecs.pieces import PiecesCodec
from models.codecs.series import SeriesCodec
from models.codecs.words import WordsCodec
from models.graph_file import GraphFile
from models.manifest import (
    FORMAT_VERSION,
    GRAPH_BYTES,
    MANIFEST_FILE,
    VOCABULARY_BYTES,
    BundleError,
    FramesSpec,
    ImageSpec,
    Manifest,
    PiecesSpec,
    SourceSpec,
    read,
    read_file,
)
from models.messages import suggest
from models.onnx_session import DeviceUnavailable, OnnxModel, Placement, resolve_device
from models.speller import ModelWithSpeller
from models.tasks import Classification, Filling, Forecasting, Generation, Joint, Tagging, Task, Translation
from models.tasks.translate import Translator

# Outputs of the graph of each task, in order. Those in brackets are optional.
OUTPUTS = {
    "tag": ("probabilities", "[path]"),
    "classify": ("probabilities", "[embedding]"),
    "joint": ("probabilities", "[path]", "text_probabilities", "[embedding]"),
    "generate": ("log_probabilities",),
    "forecast": ("mean", "quantiles"),
    "translate": ("log_probabilities", "best_scores", "best_pieces", "attention"),
    "caption": ("log_probabilities", "best_scores", "best_pieces", "attention"),
    "fill": ("best_scores", "best_words", "target_scores"),
}
READER_INPUTS = {"source", "lengths"}


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A loaded model."""

    manifest: Manifest
    task: Task
    model: OnnxModel
    variant: str
    path: Path
    reader: OnnxModel | None = None  # reads a source once, for the tasks that write step by step

    @property
    def translator(self) -> Translator:
        """The reader and the decoder. Only for tasks that have a reader."""
        assert isinstance(self.task, Translation)
        assert self.reader is not None
        return Translator(self.task, self.reader.run_named, self.model.run_named)

    @property
    def digest(self) -> str:
        """The sha256 of all checksums: the identity of weights and vocabularies, without the model card."""
        text = json.dumps(dict(sorted(self.manifest.checksums.items())))
        return hashlib.sha256(text.encode()).hexdigest()


def load(
    path: Path | str, *, variant: str = "auto", placement: Placement | None = None, manifest_sha256: str | None = None
) -> Bundle:
    """Load and check the bundle in directory `path`. `self_test.run` runs its examples.

    With `manifest_sha256`, a bundle with another manifest is refused, and so any bundle but the one of that manifest.

    `variant` "auto" means the default of the manifest on a CPU, and fp32 on a GPU, which cannot run int8 operators.
    Raises BundleError with a message that names the file or the field.
    """
    path = Path(path)
    placement = placement or Placement()
    manifest = read(path, sha256=manifest_sha256)
    # Read each file once, so that the hashed bytes are the bytes that are used.
    contents = {file: _read_checked(path, manifest, file) for file in manifest.checksums}
    name, model = _open(path, manifest, contents, variant, placement)
    _check_graph(path, manifest, model)
    reader = _open_reader(path, manifest, contents, name, placement)
    try:
        codec = codecs.build(manifest.codec, lambda file: _parse_vocabulary(path / file, contents[file]))
    except ValueError as error:
        raise error if isinstance(error, BundleError) else BundleError(f"{path}: {error}") from None
    for file in filter(None, (manifest.variants[name].file, manifest.variants[name].speller)):
        _check_weights(path / file, contents[file], codec.tables)
    if (read_by := manifest.variants[name].reader) is not None:
        is_text = isinstance(manifest.source, PiecesSpec)
        _check_weights(path / read_by, contents[read_by], {"source": codec.tables["pieces"]} if is_text else {})
    task = make_task(manifest, codec)
    _check_widths(path, manifest, model, task)
    return Bundle(
        manifest=manifest,
        task=task,
        model=model,
        variant=name,
        path=path,
        reader=reader,
    )


def _open_reader(
    path: Path, manifest: Manifest, contents: Mapping[str, bytes], variant: str, placement: Placement
) -> OnnxModel | None:
    """Return the session of the reader of a variant, if it has one, and check its tensors."""
    if (file := manifest.variants[variant].reader) is None:
        return None
    try:
        reader = OnnxModel(contents[file], placement)
    except Exception as error:  # ONNX Runtime raises a dozen unrelated types
        raise BundleError(f"{path / file}: cannot be opened: {error}") from error
    outputs = [*(state.output for state in manifest.state), *(tensor.name for tensor in manifest.memory)]
    if set(reader.inputs) != READER_INPUTS or list(reader.outputs) != outputs:
        raise BundleError(
            f"{path / file}: the reader has inputs {sorted(reader.inputs)} and outputs {list(reader.outputs)}, "
            f"but needs {sorted(READER_INPUTS)} and {outputs}; export the bundle again"
        )
    return reader


def _open(
    path: Path, manifest: Manifest, contents: Mapping[str, bytes], variant: str, placement: Placement
) -> tuple[str, OnnxModel]:
    """Return the name and the session of a variant. Device `auto` falls back to the CPU and its variant."""
    name = choose_variant(manifest, variant, placement)
    file, speller = manifest.variants[name].file, manifest.variants[name].speller
    try:
        if speller is not None:
            return name, ModelWithSpeller(contents[file], contents[speller], placement)
        return name, OnnxModel(contents[file], placement)
    except DeviceUnavailable:
        if placement.device != "auto":
            raise
        return _open(path, manifest, contents, variant, replace(placement, device="cpu"))
    except Exception as error:  # ONNX Runtime raises a dozen unrelated types
        raise BundleError(f"{path / file}: cannot be opened: {error}") from error


def choose_variant(manifest: Manifest, variant: str, placement: Placement) -> str:
    """Return the variant to use on this device. Raises BundleError for one that the bundle does not have."""
    if variant == "auto":
        on_gpu = resolve_device(placement.device) == "cuda"
        return "fp32" if on_gpu and "fp32" in manifest.variants else manifest.default_variant
    if variant not in manifest.variants:
        hint = suggest(variant, ["auto", *sorted(manifest.variants)])
        raise BundleError(f"{manifest.name}: has no variant {variant!r}; {hint}")
    return variant


def make_task(manifest: Manifest, codec: codecs.Codec) -> Task:
    """Build the task of a manifest."""
    if manifest.forecast is not None and isinstance(codec, SeriesCodec):
        return Forecasting(codec, manifest.forecast)
    if manifest.task == "fill":
        if not isinstance(codec, WordsCodec):
            raise BundleError(f"{manifest.name}: task 'fill' needs codec 'words', not {manifest.codec.kind!r}")
        return Filling(codec, most=int(manifest.outputs[0].shape[-1]))
    if manifest.task == "generate":
        if not isinstance(codec, CharactersCodec):
            raise BundleError(f"{manifest.name}: task 'generate' needs codec 'characters', not {manifest.codec.kind!r}")
        return Generation(codec, manifest.state)
    if manifest.source is not None and isinstance(codec, PiecesCodec):
        source = _source_codec(manifest.source, codec)
        return Translation(source, codec, state=manifest.state, memory=manifest.memory, pairs=manifest.pairs)
    if manifest.task == "tag":
        return Tagging(codec, manifest.labels, manifest.scheme, manifest.state)
    embeds = manifest.embedding_width > 0
    if manifest.task == "classify":
        return Classification(codec, manifest.labels, embeds=embeds)
    return Joint(codec, manifest.labels, manifest.text_labels, manifest.scheme, embeds=embeds)


def _source_codec(spec: SourceSpec, codec: PiecesCodec) -> PiecesCodec | FramesCodec | ImageCodec:
    """Return the codec of what is read. Pieces are those that are written."""
    if isinstance(spec, ImageSpec):
        return ImageCodec(spec)
    return FramesCodec(spec) if isinstance(spec, FramesSpec) else codec


def vocabulary(path: Path) -> list[str]:
    """Read a vocabulary file: a JSON array of strings."""
    return _parse_vocabulary(path, path.read_bytes())


def _parse_vocabulary(path: Path, content: bytes) -> list[str]:
    try:
        entries = json.loads(content.decode())
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            raise ValueError(f"it is a JSON {type(entries).__name__} with other values")
        "".join(entries).encode()  # JSON can hold a lone surrogate, which no answer can
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: is not a JSON array of strings: {error}") from None
    if len(set(entries)) != len(entries):
        raise BundleError(f"{path}: has {len(entries) - len(set(entries))} duplicates; export the bundle again")
    return entries


def vocabulary_text(entries: Sequence[str]) -> str:
    """Return the content of a vocabulary file."""
    return json.dumps(list(entries), ensure_ascii=False, indent=0) + "\n"


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the sha256 of each file, for the `files` of a manifest."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}


def save(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Write a bundle directory in one step: a reader sees the old bundle or the new one, never a mixture.

    `files` holds every file but the manifest, and `manifest.files` their checksums, except that of the model card.
    Bundles are always written in the current format.
    """
    manifest = manifest.model_copy(update={"format": FORMAT_VERSION})
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        for name, content in files.items():
            (new / name).write_bytes(content)
        (new / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1) + "\n", "utf-8")
        for name in manifest.checksums:
            _read_checked(new, manifest, name)
        new.chmod(0o755)  # mkdtemp makes 0700, which another account could not serve
        if not path.exists():
            new.rename(path)
            return
        retired = path.with_name(f".{path.name}.old-{os.getpid()}")
        path.rename(retired)
        try:
            new.rename(path)
        except BaseException:
            retired.rename(path)
            raise
        shutil.rmtree(retired)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def _read_checked(directory: Path, manifest: Manifest, name: str) -> bytes:
    """Read a file and compare its sha256. Returns nothing for a file that is listed but not used."""
    path, expected, is_vocabulary = directory / name, manifest.checksums[name], name in manifest.vocabulary_files
    is_used = is_vocabulary or name in manifest.graph_files
    try:
        content, found = read_file(path, VOCABULARY_BYTES if is_vocabulary else GRAPH_BYTES, keep=is_used)
    except FileNotFoundError:
        raise BundleError(f"{path}: is missing, but the manifest lists it; copy the whole bundle again") from None
    if found != expected:
        raise BundleError(
            f"{path}: sha256 is {found}, but the manifest says {expected}; the file was changed or truncated, "
            "so copy or export the bundle again"
        )
    return content


def _check_graph(path: Path, manifest: Manifest, model: OnnxModel) -> None:
    """Compare the tensors of the graph with the manifest, and the outputs in the manifest with those of its task."""
    inputs = {tensor.name for tensor in manifest.inputs} | {tensor.input for tensor in manifest.state}
    inputs |= {tensor.name for tensor in manifest.memory}
    outputs = (*(tensor.name for tensor in manifest.outputs), *(tensor.output for tensor in manifest.state))
    if set(model.inputs) != inputs or model.outputs != outputs:
        raise BundleError(
            f"{path}: the graph has inputs {sorted(model.inputs)} and outputs {list(model.outputs)}, "
            f"but the manifest says {sorted(inputs)} and {list(outputs)}"
        )
    names = [tensor.name for tensor in manifest.outputs]
    wanted = OUTPUTS[manifest.task]
    if names != [name.strip("[]") for name in wanted if name[0] != "[" or name.strip("[]") in names]:
        raise BundleError(f"{path}: outputs are {names}, but task {manifest.task!r} has {', '.join(wanted)}")


def _check_weights(path: Path, graph: bytes, tables: Mapping[str, int]) -> None:
    """Refuse weights that are not finite, and tables for a graph input with other rows than the vocabulary needs."""
    try:
        file = GraphFile(graph)
        name = file.nonfinite_weight()
    except ValueError as error:
        raise BundleError(f"{path}: cannot be read: {error}") from None
    if name is not None:
        raise BundleError(f"{path}: weight {name!r} has NaN or infinity; train or export the bundle again")
    for graph_input, expected in tables.items():
        for found in file.table_rows(graph_input):
            if found != expected:
                raise BundleError(
                    f"{path}: the table for {graph_input!r} has {found} rows, but the vocabulary needs {expected}; "
                    "export the bundle again"
                )


def _check_widths(path: Path, manifest: Manifest, model: OnnxModel, task: Task) -> None:
    """Compare the last axis of each output with the labels, the vocabulary, or the width in the manifest."""
    expected = _expected_widths(manifest, task)
    widths = model.widths
    if any(widths[output] is None for output in expected):
        widths = _widths_of_example(path, manifest, model, task)
    declared = {tensor.name: tensor.shape[-1] for tensor in manifest.outputs}
    for output, (count, what) in expected.items():
        for found in (widths[output], declared[output]):
            if isinstance(found, int) and found != count:
                raise BundleError(f"{path}: output {output!r} has {found} numbers, but there are {count} {what}")


def _expected_widths(manifest: Manifest, task: Task) -> dict[str, tuple[int, str]]:
    """Return the size of the last axis of each output that is known without the graph, and what it counts."""
    expected = {"probabilities": (len(manifest.labels), "labels")}
    if manifest.task == "joint":
        expected["text_probabilities"] = (len(manifest.text_labels), "text_labels")
    if isinstance(task, Forecasting):
        expected = {"quantiles": (len(task.spec.quantile_levels), "quantile_levels")}
    if isinstance(task.codec, PiecesCodec):
        expected = {"log_probabilities": (task.codec.table_rows, "rows in the table of pieces")}
    if isinstance(task, Filling):
        expected = {}
    if isinstance(task, Generation):
        expected = {"log_probabilities": (task.codec.table_rows, "rows in the vocabulary")}
    if manifest.embedding_width:
        expected["embedding"] = (manifest.embedding_width, "numbers in the manifest's shape of 'embedding'")
    return expected


def _widths_of_example(path: Path, manifest: Manifest, model: OnnxModel, task: Task) -> dict[str, int | None]:
    """Return the last axis of each output for the first example, because the graph leaves one free."""
    state = () if isinstance(task, Classification | Joint | Forecasting | Filling) else states.zeros(task.state, 1)
    try:
        codec: Any = task.codec
        feeds = codec.collate([task.encode(manifest.examples[0].inputs)])
        feeds |= {tensor.input: array for tensor, array in zip(manifest.state, state, strict=True)}
        return {name: array.shape[-1] for name, array in model.run(feeds).items()}
    except Exception as error:  # ONNX Runtime raises a dozen unrelated types
        raise BundleError(f"{path}: example 1 cannot be run: {error}") from error
