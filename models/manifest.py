"""The typed manifest of a bundle: every field of `manifest.json`, normatively described in FORMAT.md.

Knows names, shapes, limits and provenance. Opens no file but the manifest itself and runs nothing.
T steps, B batch, N spellings, C characters, K labels, V vocabulary.
"""

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"

TaskName = Literal["tag", "classify", "generate"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
# A plain file name: a manifest must not be able to name a file outside its own directory.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


class BundleError(ValueError):
    """A bundle that cannot be used. The message says which file or field, and why."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WordsSpec(_Part):
    """Words, looked up in a table; a word that is not in it is spelled out by its characters."""

    kind: Literal["words"] = "words"
    tokenizer: Literal["words", "whitespace"] = "words"
    lowercase: bool = False
    words: FileName = "words.json"
    stems: FileName | None = None
    characters: FileName | None = None
    max_spelling: int = Field(default=32, ge=2)


class CharactersSpec(_Part):
    """Characters, one a step."""

    kind: Literal["characters"] = "characters"
    characters: FileName = "characters.json"


CodecSpec = Annotated[WordsSpec | CharactersSpec, Field(discriminator="kind")]


class Tensor(_Part):
    """A named tensor of the graph; a dimension is a number or the letter of a free one."""

    name: str
    dtype: Literal["float32", "int32"]
    shape: tuple[int | str, ...]


class StateTensor(_Part):
    """One recurrent state: fed as `input` (B, width), read back as `output` (B, width); zeros at the start."""

    input: str
    output: str
    dtype: Literal["float32"] = "float32"
    width: int = Field(ge=1)


class Variant(_Part):
    """One set of weights for the same task: another precision, the same tensors."""

    file: FileName
    scores: dict[str, float] = {}
    milliseconds: dict[str, float] = {}  # "batch_1", "batch_16": per sentence or token, on the machine that exported


class Limits(_Part):
    """What one input may be."""

    max_length: int = Field(default=4096, ge=1, description="steps (words or characters) in one input")


class Data(_Part):
    name: str
    url: str = ""
    licence: str = ""
    sha256: dict[str, Sha256] = {}
    train: int = 0
    dev: int = 0


class Provenance(_Part):
    """Where the weights come from."""

    recipe: str
    command: str
    data: Data
    seed: int
    created: date
    parameters: int
    versions: dict[str, str] = {}


class Example(_Part):
    """An input and the answer that every variant must give, scores within the manifest's `tolerance`."""

    inputs: str
    parameters: dict[str, Any] = {}
    outputs: Any


class Manifest(_Part):
    """The whole of manifest.json."""

    format: Literal[1]
    name: Name
    version: str = "1"
    task: TaskName
    description: str
    languages: tuple[str, ...] = ()
    codec: CodecSpec
    labels: tuple[str, ...] = ()
    scheme: Literal["iob2"] | None = None
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    state: tuple[StateTensor, ...] = ()
    variants: dict[Name, Variant] = Field(min_length=1)
    default_variant: Name
    files: dict[FileName, Sha256]
    limits: Limits = Limits()
    metric: str = Field(description="the score that is quoted first, a key of every variant's scores")
    provenance: Provenance
    tolerance: float = Field(default=0.05, gt=0, description="how far an example's score may be from the recorded one")
    examples: tuple[Example, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.default_variant not in self.variants:
            raise ValueError(f"default_variant {self.default_variant!r} is none of {sorted(self.variants)}")
        if self.task != "generate" and len(set(self.labels)) != len(self.labels):
            raise ValueError("labels repeat")
        if self.task != "generate" and not self.labels:
            raise ValueError(f"task {self.task!r} needs labels")
        if self.task == "generate" and not self.state:
            raise ValueError("task 'generate' needs state tensors")
        codec_files = {value for key, value in self.codec.model_dump().items() if key in _FILE_FIELDS and value}
        for file in sorted(codec_files | {variant.file for variant in self.variants.values()}):
            if file not in self.files:
                raise ValueError(f"file {file!r} is used, but has no checksum in `files`")
        return self


_FILE_FIELDS = ("words", "stems", "characters")


def read(directory: Path) -> Manifest:
    """Read and check `directory`/manifest.json; raises BundleError with one sentence that says what is wrong."""
    path = directory / MANIFEST_FILE
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise BundleError(f"{directory}: no {MANIFEST_FILE} here: a bundle is a directory that has one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: cannot be read: {error}") from None
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise BundleError(f"{path}: {_first_problem(error, text)}") from None


def _first_problem(error: ValidationError, text: str) -> str:
    """One sentence: a newer format says so before anything else, since then every other field may be new too."""
    first = error.errors(include_url=False)[0]
    for problem in error.errors(include_url=False):
        if problem["loc"] == ("format",) and isinstance(problem["input"], int):
            return (
                f"format {problem['input']} is not the format {FORMAT_VERSION} that this version reads: "
                "install a newer seqserve, or export the bundle again"
            )
    field = ".".join(str(part) for part in first["loc"]) or "the document"
    return f"{field}: {first['msg']} ({error.error_count()} problem(s) in all)"
