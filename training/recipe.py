"""A recipe: everything that a published bundle is made from, in one TOML file.

Knows fields and defaults. Trains nothing.
"""

import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.manifest import CodecSpec, Name, TaskName
from training.networks import Architecture

RECIPES = Path(__file__).parent / "recipes"


class RecipeError(ValueError):
    """A recipe that cannot be followed. The message says which field, and what is allowed."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataChoice(_Part):
    """Either a published data set by name, or a file of the user's own with its columns.

    Columns of CoNLL count from 0, or from the end if negative; None is the first for tokens and the last for tags,
    FORM and UPOS in .conllu, where names serve too. A file without `dev` gives its share of development data.
    """

    name: str | None = None
    path: Path | None = None
    dev: Path | None = Field(default=None, description="a file of development data; then none is held out of `path`")
    text: str = "text"
    label: str = "label"
    token_column: int | str | None = None
    tag_column: int | str | None = None
    encoding: str = "utf-8"
    dev_share: float = Field(default=0.1, gt=0, lt=1)


class Training(_Part):
    """How the weights are found."""

    epochs: int = Field(default=20, ge=1)
    patience: int = Field(default=5, ge=1, description="epochs without a better development score before stopping")
    learning_rate: float = Field(default=2e-3, gt=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_steps: int = Field(default=100, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    clip: float = Field(default=1.0, gt=0, description="largest norm of the gradient (Pascanu et al. 2013)")
    average: float = Field(default=0.0, ge=0, lt=1, description="decay of the moving average of weights; 0 is none")
    batch_tokens: int = Field(default=1024, ge=1, description="padded tokens in a batch (sequences)")
    streams: int = Field(default=64, ge=1, description="parallel streams (language models)")
    steps: int = Field(default=128, ge=1, description="steps of truncated back-propagation (language models)")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = 1


class Expectation(_Part):
    """What this recipe is expected to reach, and how long it takes."""

    score: float | None = None
    minutes: float | None = None
    machine: str = ""


class Recipe(_Part):
    """The whole file."""

    name: Name
    task: TaskName
    description: str
    languages: tuple[str, ...] = ()
    data: DataChoice
    codec: CodecSpec
    min_count: int = Field(default=2, ge=1)
    architecture: Architecture = Architecture()
    training: Training = Training()
    expect: Expectation = Expectation()
    max_length: int = Field(default=4096, ge=1)
    examples: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        codec = "characters" if self.task == "generate" else "words"
        if self.codec.kind != codec:
            raise ValueError(f"task {self.task!r} needs codec.kind = {codec!r}, not {self.codec.kind!r}")
        if self.task == "generate" and self.architecture.bidirectional:
            raise ValueError("a language model cannot be bidirectional: set architecture.bidirectional = false")
        return self


def names() -> list[str]:
    """The recipes that come with seqserve."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load(name_or_path: str, **changes: Any) -> Recipe:
    """A recipe by name or by path; `changes` replace whole dotted fields, e.g. {"training.seed": 2}."""
    path = Path(name_or_path) if name_or_path.endswith(".toml") else RECIPES / f"{name_or_path}.toml"
    if not path.is_file():
        raise RecipeError(f"no recipe {name_or_path!r}: give a path to a .toml file or one of {', '.join(names())}")
    try:
        fields = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        hint = (
            "; write a Windows path in single quotes: path = 'C:\\data\\mine.csv'" if "Unescaped" in str(error) else ""
        )
        raise RecipeError(f"{path}: is not TOML: {error}{hint}") from None
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        part = fields
        for parent in parents:
            part = part.setdefault(parent, {})
            if not isinstance(part, dict):
                raise RecipeError(f"{dotted}: {parent!r} is a field without fields of its own")
        part[last] = value
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        problems = "; ".join(
            _problem(".".join(map(str, problem["loc"])), problem["msg"], problem["input"])
            for problem in error.errors(include_url=False)
        )
        raise RecipeError(f"{path}: {problems}") from None


def _problem(field: str, message: str, found: Any) -> str:
    """One sentence; a problem of the whole recipe has no field and says by itself what was found."""
    message = message.removeprefix("Value error, ")
    if field == "name":
        message = "lower-case letters, digits, dots, dashes and underscores only, at most 64"
    return f"{field}: {message} (got {str(found)[:80]!r})" if field else message
