"""The manifest of a bundle: `manifest.json` as pydantic models. FORMAT.md specifies every field."""

import hashlib
import os
import stat
from collections.abc import Iterator
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.messages import needed, suggest

FORMAT_VERSION = 4  # the format that is written; formats 1 to 3 can be read
MANIFEST_FILE = "manifest.json"
CARD_FILE = "README.md"  # documentation, so it has no checksum; older manifests list one

# Limits of the files of a bundle. A protobuf message is smaller than 2 GiB.
MANIFEST_BYTES, VOCABULARY_BYTES, GRAPH_BYTES = 16 << 20, 256 << 20, 2 << 30
_PIECE_BYTES = 1 << 20
ZOO = Path(__file__).resolve().parent / "zoo"
RUNS = Path("runs")  # in the current folder

TaskName = Literal["tag", "classify", "generate", "joint", "forecast", "translate", "caption", "fill"]
# The tasks that a bundle of each task can serve.
SERVES: dict[TaskName, tuple[TaskName, ...]] = {task: (task,) for task in get_args(TaskName)}
SERVES["joint"] = ("tag", "classify")
SHA256, NAME, FILE_NAME = r"^[0-9a-f]{64}$", r"^[a-z0-9][a-z0-9._-]{0,63}$", r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
FORMS = {  # what a text must be to match these
    SHA256: "64 hexadecimal digits in lower case",
    NAME: "at most 64 lower-case letters, digits, dots, dashes and underscores",
    FILE_NAME: "at most 128 letters, digits, dots, dashes and underscores",
}
Sha256 = Annotated[str, Field(pattern=SHA256)]
Name = Annotated[str, Field(pattern=NAME)]
FrameRate = Annotated[float, Field(ge=1e-6, le=1e6)]
# A plain file name, so that a manifest cannot name a file outside its directory.
FileName = Annotated[str, Field(pattern=FILE_NAME)]


class BundleError(ValueError):
    """A bundle that cannot be used. The message names the file or field and the reason."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SubwordsSpec(_Part):
    """The n-grams of a word, hashed into buckets."""

    buckets: int = Field(ge=1, le=2**24)
    shortest: int = Field(default=3, ge=1)
    longest: int = Field(default=6, ge=1, le=16)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.shortest > self.longest:
            raise ValueError(f"shortest is {self.shortest}, but longest is {self.longest}; swap them")
        return self


class WordsSpec(_Part):
    """Words in a table. The graph reads an out-of-vocabulary word by its characters, its n-grams, or both."""

    kind: Literal["words"] = "words"
    tokenizer: Literal["words", "whitespace"] = "words"
    lowercase: bool = False
    words: FileName = "words.json"
    stems: FileName | None = None
    characters: FileName | None = None
    max_spelling: int = Field(default=32, ge=2)
    subwords: SubwordsSpec | None = None


class CharactersSpec(_Part):
    """Characters, one per step."""

    kind: Literal["characters"] = "characters"
    characters: FileName = "characters.json"
    lowercase: bool = False


class DnaSpec(_Part):
    """Bases of DNA or RNA, one per step. With `positions`, a base has one row for each position."""

    kind: Literal["dna"] = "dna"
    positions: int = Field(default=0, ge=0, le=2**20)


class FramesSpec(_Part):
    """Frames of numbers, one per step."""

    kind: Literal["frames"] = "frames"
    features: int = Field(ge=1)
    frame_rate: FrameRate | None = Field(default=None, description="frames per second, for times in answers")
    delay: int = Field(
        default=0, ge=0, le=1024, description="frames that a tagger of streams reads after a frame before it labels it"
    )


class SeriesSpec(_Part):
    """A series of numbers, one segment of them per step."""

    kind: Literal["series"] = "series"
    segment: int = Field(default=24, ge=1, le=2**16, description="values in a segment")
    longest: int = Field(
        default=720, ge=1, le=2**24, description="values that are read, from the end of a longer series"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.longest % self.segment:
            raise ValueError(f"longest is {self.longest}; use a multiple of segment, which is {self.segment}")
        return self


class PiecesSpec(_Part):
    """Pieces of words by byte-pair encoding, with bytes for characters that the table lacks."""

    kind: Literal["pieces"] = "pieces"
    pieces: FileName = "pieces.json"
    merges: FileName = "merges.json"
    lowercase: bool = False


class ImageSpec(_Part):
    """A square picture in RGB. Its steps are square patches, row by row."""

    kind: Literal["image"] = "image"
    size: int = Field(default=64, ge=8, le=1024, description="pixels of a side; other pictures are resized")
    patch: Literal[2, 4, 8, 16, 32] = Field(default=8, description="pixels of a side of a patch")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.size % self.patch:
            raise ValueError(f"size is {self.size}; use a multiple of patch, which is {self.patch}")
        return self

    @property
    def grid(self) -> int:
        """The patches along a side."""
        return self.size // self.patch

    @property
    def features(self) -> int:
        """The numbers of a patch: three for each pixel."""
        return 3 * self.patch * self.patch


WrittenSpec = WordsSpec | CharactersSpec | DnaSpec | FramesSpec | SeriesSpec | PiecesSpec
AnySpec = WrittenSpec | ImageSpec
CodecSpec = Annotated[WrittenSpec, Field(discriminator="kind")]
SourceSpec = Annotated[PiecesSpec | FramesSpec | ImageSpec, Field(discriminator="kind")]
# What each of these tasks reads.
SOURCES: dict[str, tuple[type[_Part], ...]] = {"translate": (PiecesSpec,), "caption": (FramesSpec, ImageSpec)}


class ForecastSpec(_Part):
    """What a forecaster answers."""

    horizon: int = Field(ge=1, le=2**24, description="the most values that it forecasts")
    quantile_levels: tuple[float, ...] = Field(min_length=2, description="the levels of the output, in order")
    frequency: str = Field(default="", description="time between two values of the training data, e.g. h")

    @model_validator(mode="after")
    def _check(self) -> Self:
        levels = self.quantile_levels
        if not (levels[0] > 0 and levels[-1] < 1 and all(a < b for a, b in pairwise(levels))):
            raise ValueError(f"quantile_levels are {levels}; use increasing numbers between 0 and 1")
        return self


class LanguagePair(_Part):
    """One direction of a translator."""

    source: str = Field(description="BCP 47 tag of what is read")
    target: str = Field(description="BCP 47 tag of what is written")
    mark: str | None = Field(default=None, description="a piece that is read before the source, to choose this pair")


class TranslationSpec(_Part):
    """What a translator translates."""

    pairs: tuple[LanguagePair, ...] = Field(min_length=1)
    profiles: dict[str, dict[str, Annotated[int, Field(ge=1)]]] = Field(
        default={},
        description="for each language that can be detected, its common trigrams by their share in millionths",
    )


class MemoryTensor(_Part):
    """What the reader keeps of each step of a source: its output, and an input of the graph (S, M, width)."""

    name: str
    width: int = Field(ge=1)


class Tensor(_Part):
    """A tensor of the graph. A dimension is a number, or a letter if it is free."""

    name: str
    dtype: Literal["float32", "int32"]
    shape: tuple[int | str, ...]


class StateTensor(_Part):
    """One recurrent state: graph input and graph output of shape (B, width), zeros before the first step."""

    input: str
    output: str
    dtype: Literal["float32"] = "float32"
    width: int = Field(ge=1)


class Variant(_Part):
    """One graph of the bundle: the same tensors with other weights or another precision.

    With a `speller`, a second graph computes the vectors of out-of-vocabulary words. With a `reader`, a second graph
    reads the source once, before this one writes step by step.
    """

    file: FileName
    speller: FileName | None = None
    reader: FileName | None = None
    scores: dict[str, float] = {}
    milliseconds: dict[str, float] = {}  # "batch_1" and "batch_16": per sentence or token


class InputLimits(_Part):
    """Limits of one input."""

    max_length: int = Field(default=4096, ge=1, description="steps (words, characters, bases or frames) in one input")


class Data(_Part):
    """The training data."""

    name: str
    url: str = ""
    licence: str = ""
    sha256: dict[str, Sha256] = {}
    train: int = 0
    dev: int = 0


class Provenance(_Part):
    """The origin of the weights."""

    recipe: str
    command: str
    data: Data
    seed: int
    created: date
    parameters: int
    versions: dict[str, str] = {}


class Example(_Part):
    """An input, and the answer that every variant must give, with scores within the manifest's `tolerance`."""

    inputs: Any
    parameters: dict[str, Any] = {}
    outputs: Any


class Manifest(_Part):
    """The content of manifest.json."""

    format: Literal[1, 2, 3, 4]
    name: Name
    version: str = "1"
    task: TaskName
    description: str
    languages: tuple[str, ...] = ()
    codec: CodecSpec
    labels: tuple[str, ...] = ()
    text_labels: tuple[str, ...] = ()
    scheme: Literal["iob2"] | None = None
    forecast: ForecastSpec | None = None
    source: SourceSpec | None = None
    translation: TranslationSpec | None = None
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    state: tuple[StateTensor, ...] = ()
    memory: tuple[MemoryTensor, ...] = ()
    variants: dict[Name, Variant] = Field(min_length=1)
    default_variant: Name
    files: dict[FileName, Sha256]
    limits: InputLimits = InputLimits()
    metric: str = Field(description="the main score, a key of every variant's scores")
    provenance: Provenance
    tolerance: float = Field(default=0.05, gt=0, description="how far an example's score may be from the recorded one")
    examples: tuple[Example, ...] = Field(min_length=1)

    @property
    def checksums(self) -> dict[str, str]:
        """The sha256 of each file that is read."""
        return {file: sha256 for file, sha256 in self.files.items() if file != CARD_FILE}

    @property
    def reads(self) -> AnySpec:
        """The codec of inputs."""
        return self.source or self.codec

    @property
    def pairs(self) -> tuple[LanguagePair, ...]:
        """The pairs of languages that are translated."""
        return self.translation.pairs if self.translation is not None else ()

    @property
    def vocabulary_files(self) -> set[str]:
        """The files that the codec needs."""
        specs = [spec.model_dump() for spec in (self.codec, self.source) if spec is not None]
        return {value for spec in specs for key, value in spec.items() if key in _FILE_FIELDS and value}

    @property
    def graph_files(self) -> set[str]:
        """The graphs of all variants, with their spellers and readers."""
        files = ((each.file, each.speller, each.reader) for each in self.variants.values())
        return {file for graphs in files for file in graphs if file}

    @property
    def max_length(self) -> int:
        """The most steps that one input can have."""
        if isinstance(self.codec, SeriesSpec):
            return self.codec.longest // self.codec.segment
        positions = self.codec.positions if isinstance(self.codec, DnaSpec) else 0
        return min(self.limits.max_length, positions) if positions else self.limits.max_length

    @property
    def streams(self) -> bool:
        """Whether the bundle can tag a stream step by step."""
        return self.task == "tag" and bool(self.state)

    @property
    def embedding_width(self) -> int:
        """The width of the embedding, 0 if there is none."""
        found = [tensor.shape[-1] for tensor in self.outputs if tensor.name == "embedding"]
        return int(found[0]) if found else 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_format(self)
        if self.default_variant not in self.variants:
            raise ValueError(f"default_variant is {self.default_variant!r}; choose one of {sorted(self.variants)}")
        _check_labels(self)
        _check_forecast(self)
        _check_translation(self)
        _check_fill(self)
        _check_state(self)
        _check_delay(self)
        _check_embedding(self)
        _check_tensor_names(self)
        for file in sorted(self.vocabulary_files | self.graph_files):
            if file not in self.checksums:
                what = "is the model card; rename it" if file == CARD_FILE else "has no checksum; add it to `files`"
                raise ValueError(f"file {file!r} {what}")
        return self


_FILE_FIELDS = ("words", "stems", "characters", "pieces", "merges")


def _check_tensor_names(manifest: Manifest) -> None:
    inputs = [*(each.name for each in manifest.inputs), *(each.input for each in manifest.state)]
    inputs += [each.name for each in manifest.memory]
    outputs = [*(each.name for each in manifest.outputs), *(each.output for each in manifest.state)]
    for field, names in (("inputs", inputs), ("outputs", outputs)):
        if len(set(names)) != len(names):
            raise ValueError(f"{field} are {names}, with a duplicate; remove it")


def _check_labels(manifest: Manifest) -> None:
    """Check that labels are there exactly if the task has them, and that they are unique."""
    for field, tasks in (("labels", ("tag", "classify", "joint")), ("text_labels", ("joint",))):
        labels = getattr(manifest, field)
        if manifest.task in tasks and not labels:
            raise ValueError(f"task {manifest.task!r} needs {field}")
        if manifest.task not in tasks and field == "text_labels" and labels:
            raise ValueError(f"task {manifest.task!r} has no text_labels; remove them")
        if manifest.task in tasks and len(set(labels)) != len(labels):
            raise ValueError(f"{field} contain a duplicate")


def _check_forecast(manifest: Manifest) -> None:
    """Check that the task "forecast" has its codec and its fields, and that no other task has them."""
    forecasts = manifest.task == "forecast"
    if forecasts != isinstance(manifest.codec, SeriesSpec):
        raise ValueError(f"task {manifest.task!r} cannot read codec {manifest.codec.kind!r}; use another codec")
    if forecasts != (manifest.forecast is not None):
        raise ValueError(f"task {manifest.task!r} {'needs' if forecasts else 'has no'} the field forecast")
    if manifest.forecast is None:
        return
    horizon, levels = manifest.forecast.horizon, len(manifest.forecast.quantile_levels)
    for tensor, shape in zip(manifest.outputs, (("B", horizon), ("B", horizon, levels)), strict=False):
        if tensor.shape != shape:
            raise ValueError(f"output {tensor.name!r} has shape {tensor.shape}, but `forecast` needs {shape}")


def _check_translation(manifest: Manifest) -> None:
    """Check that tasks with a reader have its codec, memory and graphs, and that no other task has them."""
    task, reads = manifest.task, manifest.task in ("translate", "caption")
    if reads != isinstance(manifest.codec, PiecesSpec):
        raise ValueError(f"task {task!r} cannot write codec {manifest.codec.kind!r}; use another codec")
    for field in ("source", "memory", "state"):
        if reads and not getattr(manifest, field):
            raise ValueError(f"task {task!r} needs the field {field}")
        if not reads and field != "state" and getattr(manifest, field):
            raise ValueError(f"task {task!r} has no {field}; remove it")
    if manifest.source is not None and not isinstance(manifest.source, SOURCES[task]):
        raise ValueError(f"task {task!r} cannot read codec {manifest.source.kind!r}; use another codec")
    if (task == "translate") != (manifest.translation is not None):
        raise ValueError(f"task {task!r} {'needs' if task == 'translate' else 'has no'} the field translation")
    for name, variant in manifest.variants.items():
        if reads != (variant.reader is not None):
            raise ValueError(f"variant {name!r} {'needs' if reads else 'has no'} reader for task {task!r}")


def _check_fill(manifest: Manifest) -> None:
    """Check that a filler reads words, and that the number of its best words is known without opening the graph."""
    if manifest.task != "fill":
        return
    if not isinstance(manifest.codec, WordsSpec):
        raise ValueError(f"task 'fill' cannot read codec {manifest.codec.kind!r}; use 'words'")
    for tensor in manifest.outputs[:2]:
        shape = tensor.shape
        if len(shape) != 2 or not isinstance(shape[1], int) or shape[1] < 1 or shape != manifest.outputs[0].shape:
            raise ValueError(f"output {tensor.name!r} is {shape}, but must be (P, a number), equal for both outputs")


def _check_state(manifest: Manifest) -> None:
    """Check that there is a state only where the task can use one, without parts that need the whole input."""
    task, codec = manifest.task, manifest.codec
    if task == "generate" and not manifest.state:
        raise ValueError("task 'generate' needs state tensors")
    if not manifest.state:
        return
    if task not in ("generate", "tag", "translate", "caption"):
        raise ValueError(f"task {task!r} has no state; remove it")
    if any(tensor.name == "path" for tensor in manifest.outputs):
        raise ValueError("output 'path' needs the whole input, which a state does not have; remove one of them")
    if isinstance(codec, DnaSpec) and codec.positions:
        raise ValueError("codec.positions need the whole input, which a state does not have; remove one of them")


def _check_delay(manifest: Manifest) -> None:
    """Check that only a tagger that reads forward has a delay: others read all frames before they answer."""
    if isinstance(manifest.codec, FramesSpec) and manifest.codec.delay and not manifest.streams:
        raise ValueError(f"codec.delay is {manifest.codec.delay}, but it needs task 'tag' and a state; use 0")


def _check_embedding(manifest: Manifest) -> None:
    """Check that the width of an embedding is known without opening the graph."""
    for tensor in manifest.outputs:
        shape = tensor.shape
        if tensor.name == "embedding" and (
            tensor.dtype != "float32" or len(shape) != 2 or not isinstance(shape[1], int) or shape[1] < 1
        ):
            raise ValueError(f"output 'embedding' is {tensor.dtype} {shape}, but must be float32 (B, a number)")


def _check_format(manifest: Manifest) -> None:
    """Check that the manifest uses nothing that its format does not have."""
    for since, newer in ((2, _newer_than_format_1), (3, _newer_than_format_2), (4, _newer_than_format_3)):
        found = next(newer(manifest), None) if manifest.format < since else None
        if found is not None:
            raise ValueError(f'format {manifest.format} has no {found}; write "format": {since}, or remove it')


def _newer_than_format_1(manifest: Manifest) -> Iterator[str]:
    """Yield what format 1 does not have. A field counts if it is given, with any value."""
    codec, task = manifest.codec, manifest.task
    if "text_labels" in manifest.model_fields_set:
        yield "text_labels"
    for name in ("subwords", "lowercase") if codec.kind == "characters" else ("subwords",):
        if name in codec.model_fields_set:
            yield f"codec.{name}"
    if codec.kind in ("dna", "frames"):
        yield f"codec.kind {codec.kind!r}"
    if task == "joint":
        yield f"task {task!r}"
    if codec.kind == "characters" and task != "generate":
        yield f"task {task!r} for characters"
    if any(tensor.name == "path" for tensor in manifest.outputs):
        yield "output 'path'"
    if not all(isinstance(example.inputs, str) for example in manifest.examples):
        yield "example with inputs that are not a string"


def _newer_than_format_2(manifest: Manifest) -> Iterator[str]:
    """Yield what format 2 does not have."""
    if manifest.state and manifest.task == "tag":
        yield "state for task 'tag'"
    if any(tensor.name == "embedding" for tensor in manifest.outputs):
        yield "output 'embedding'"


def _newer_than_format_3(manifest: Manifest) -> Iterator[str]:
    """Yield what format 3 does not have."""
    for name, variant in manifest.variants.items():
        if "speller" in variant.model_fields_set:
            yield f"variants.{name}.speller"
    for name in ("frame_rate", "delay"):
        if name in manifest.codec.model_fields_set:
            yield f"codec.{name}"
    if manifest.task in ("forecast", "translate", "caption", "fill"):
        yield f"task {manifest.task!r}"


def locate(bundle: Path | str) -> Path:
    """Return the directory of a bundle: the given path, or else models/zoo/NAME or runs/NAME/bundle, if one exists."""
    path = Path(bundle)
    if path.name != str(path) or path.exists():
        return path
    return next((each for each in (ZOO / path, RUNS / path / "bundle") if (each / MANIFEST_FILE).exists()), path)


def read(directory: Path, *, sha256: str | None = None) -> Manifest:
    """Read and check `directory`/manifest.json. Raises BundleError with one sentence.

    `sha256` is that of an earlier reading, to refuse a bundle that has been replaced since.
    """
    path = directory / MANIFEST_FILE
    try:
        content, found = read_file(path, MANIFEST_BYTES)
        text = content.decode()
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"{directory}: {not_a_bundle(directory)}") from None
    except UnicodeDecodeError as error:
        raise BundleError(f"{path}: is not UTF-8 from byte {error.start}; write it as UTF-8") from None
    if sha256 not in (None, found):
        raise BundleError(f"{path}: was replaced after the start; start again to use the new bundle")
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise BundleError(f"{path}: {_first_error(error, text)}") from None


def not_a_bundle(path: Path) -> str:
    """Return why a path without a manifest is not a bundle, and what to name instead."""
    if path.is_dir():
        inside = sorted(file.parent for file in path.glob(f"*/{MANIFEST_FILE}"))
        return f"has no {MANIFEST_FILE}; name {inside[0] if inside else 'the directory of a bundle'}"
    if os.path.lexists(path):
        return "is not a directory; name the directory of a bundle"
    names = sorted(each.name for each in ZOO.glob("*") if (each / MANIFEST_FILE).exists())
    names += sorted(each.parts[-3] for each in RUNS.glob(f"*/bundle/{MANIFEST_FILE}"))
    hint = suggest(str(path), names, others=path.name == str(path))
    return f"does not exist; {hint or 'name the directory of a bundle'}"


def sha256_of_manifest(directory: Path) -> str:
    return read_file(directory / MANIFEST_FILE, MANIFEST_BYTES, keep=False)[1]


def read_file(path: Path, limit: int, *, keep: bool = True) -> tuple[bytes, str]:
    """Return the content of a file in a bundle and its sha256. Without `keep` the content is empty.

    Raises FileNotFoundError, and BundleError for a file that is larger than `limit` bytes, cannot be read, is not a
    regular file, or is outside the directory of the bundle.
    """
    pieces: list[bytes] = []
    checksum = hashlib.sha256()
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(path.parent.resolve()):
            raise BundleError(f"{path}: is a link to {real}, outside the bundle; replace it with a copy of the file")
        # Without O_NONBLOCK, opening a FIFO waits for a writer.
        with open(real, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BundleError(f"{path}: is not a regular file; replace it with one")
            size = status.st_size
            while size <= limit and (piece := file.read(_PIECE_BYTES)):
                checksum.update(piece)
                if keep:
                    pieces.append(piece)
                size = max(size, file.tell())  # the file can grow
            if size > limit:
                raise BundleError(f"{path}: has {size} bytes, but the limit is {limit}; use a smaller file")
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        raise BundleError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return b"".join(pieces), checksum.hexdigest()


def _first_error(error: ValidationError, text: str) -> str:
    """Describe one error. An unknown format comes first, because then other fields can be unknown too."""
    first = error.errors(include_url=False)[0]
    for problem in error.errors(include_url=False):
        if problem["loc"] == ("format",) and isinstance(problem["input"], int):
            how = "newer than" if problem["input"] > FORMAT_VERSION else "not one of"
            return (
                f"format {problem['input']} is {how} the formats 1 to {FORMAT_VERSION} that this version reads; "
                "install a newer seqserve, or export the bundle again"
            )
    field = ".".join(str(part) for part in first["loc"]) or "the document"
    others = error.error_count() - 1
    return f"{field}: {_problem(first)}" + (f" (and {others} more)" if others else "")


def _problem(error: Any) -> str:
    """Return what is wrong with one field."""
    if error["type"] == "missing":
        return "is missing; export the bundle again"
    if error["type"] == "extra_forbidden":
        return "is not a field of this format; remove it"
    if error["type"] == "json_invalid":
        return f"is not JSON: {error['ctx']['error']}"
    form = FORMS.get(error["ctx"]["pattern"]) if error["type"] == "string_pattern_mismatch" else None
    reason = f"must be {form}" if form else needed(error)
    return f"{reason}, not {str(error['input'])[:40]!r}" if error["loc"] else reason
