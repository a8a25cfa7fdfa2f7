"""A recipe: everything that a published bundle is made from, in one TOML file.

Knows fields and defaults. Trains nothing.
"""

import tomllib
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.manifest import CodecSpec, Name, TaskName
from training import recipe_errors as problems
from training.data.augmentation import AugmentationOptions
from training.nn.options import Architecture
from training.training_config import Training

RECIPES = Path(__file__).parent / "recipes"
CODECS: dict[str, tuple[str, ...]] = {  # the inputs that a task can work with
    "tag": ("words", "characters", "dna"),
    "classify": ("words", "characters", "dna", "frames"),
    "joint": ("words",),
    "generate": ("characters",),
}
DEFAULTS: dict[str, dict[str, Any]] = {"frames": {"features": 1}}  # what a kind cannot be without; `fit` counts them


class RecipeError(ValueError):
    """A recipe that cannot be followed. The message says which field, and what is allowed."""


class _RecipePart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataChoice(_RecipePart):
    """Either a published data set by name, or a file of the user's own with its columns.

    Columns of CoNLL count from 0, or from the end if negative; None is the first for tokens and the last for tags,
    FORM and UPOS in .conllu, where names serve too. A file without `dev` gives its share of development data.
    """

    name: str | None = None
    options: dict[str, Any] = Field(default={}, description="of the published data set's reader, e.g. {fine = true}")
    path: Path | None = None
    dev: Path | None = Field(default=None, description="a file of development data; then none is held out of `path`")
    text: str = "text"
    label: str = "label"
    series: str = "id"
    token_column: int | str | None = None
    tag_column: int | str | None = None
    encoding: str = "utf-8"
    dev_share: float = Field(default=0.1, gt=0, lt=1)


class Auxiliary(_RecipePart):
    """Another tagged data set, learnt beside the recipe's own by the same layers with a head that is then thrown away.

    What its tags teach about words serves the task that has few examples (Collobert and Weston 2008).
    """

    name: str
    options: dict[str, Any] = {}
    weight: float = Field(default=1.0, gt=0, description="of its loss")
    share: float = Field(default=1.0, gt=0, le=1, description="share of its examples that an epoch draws")


class Expectation(_RecipePart):
    """What this recipe is expected to reach, and how long it takes."""

    score: float | None = None
    minutes: float | None = None
    machine: str = ""


class Recipe(_RecipePart):
    """The whole file."""

    name: Name
    task: TaskName
    description: str
    languages: tuple[str, ...] = ()
    data: DataChoice
    codec: CodecSpec
    merge: dict[str, tuple[str, ...]] = Field(
        default={},
        description="labels to answer with, and which labels of the data each stands for: {positive = ['3', '4']}. "
        "Training tells all labels of the data apart; those that stand for none are only learnt from.",
    )
    auxiliary: Auxiliary | None = None
    variation: AugmentationOptions | None = None
    vectors: Path | None = Field(default=None, description="pretrained vectors of words: GloVe or word2vec text")
    min_count: int = Field(default=2, ge=1)
    architecture: Architecture = Architecture()
    training: Training = Training()
    expect: Expectation = Expectation()
    max_length: int = Field(default=4096, ge=1)
    examples: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.codec.kind not in (kinds := CODECS[self.task]):
            raise ValueError(
                f"task {self.task!r} needs codec.kind = {' or '.join(map(repr, kinds))}, not {self.codec.kind!r}"
            )
        if self.task == "generate" and self.architecture.bidirectional:
            raise ValueError("a language model cannot be bidirectional: set architecture.bidirectional = false")
        if self.architecture.crf and self.task not in ("tag", "joint"):
            raise ValueError(f"architecture.crf decodes tags, and task {self.task!r} has none: set crf = false")
        if self.architecture.crf and self.training.class_weights != "none":
            raise ValueError(
                "class_weights have no meaning for a crf, which weighs whole sequences: leave one of them out"
            )
        if self.merge and (self.task != "classify" or len(self.merge) < 2):
            raise ValueError("merge needs task = 'classify' and at least two labels to answer with")
        _check_labels(self)
        return self


def _check_labels(recipe: Recipe) -> None:
    """Parts and fields that have no meaning beside others."""
    if recipe.auxiliary and (recipe.task not in ("tag", "joint") or recipe.codec.kind != "words"):
        raise ValueError("auxiliary data are tagged words: they go with task 'tag' or 'joint' and codec 'words'")
    if recipe.variation and recipe.task not in ("tag", "joint"):
        raise ValueError(f"variation changes tagged sentences, and task {recipe.task!r} has none: leave it out")
    if recipe.variation and recipe.variation.join > 1 and recipe.task == "joint":
        raise ValueError("variation.join makes one of several sentences, and each has a label of its own: leave it out")
    parts = [part for labels in recipe.merge.values() for part in labels]
    if len(parts) != len(set(parts)):
        raise ValueError(f"merge: the label {max(parts, key=parts.count)!r} stands for two answers: give it to one")
    if recipe.training.margin and not recipe.architecture.crf:
        raise ValueError("margin is for a crf: set architecture.crf = true, or leave margin out")
    if recipe.training.label_smoothing and (recipe.architecture.crf or recipe.task == "generate"):
        raise ValueError("label_smoothing is for tags and labels that are found one by one: leave it out here")
    if recipe.training.class_weights != "none" and recipe.task == "generate":
        raise ValueError("class_weights are for labels, and a language model has none: leave them out")
    if recipe.architecture.tied and recipe.task != "generate":
        raise ValueError(f"tied is for language models, not for task {recipe.task!r}: leave it out")
    if recipe.vectors and recipe.codec.kind != "words":
        raise ValueError(f"vectors are for words, not for codec.kind = {recipe.codec.kind!r}")


def names() -> list[str]:
    """The recipes that come with seqserve."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load(name_or_path: str, **changes: Any) -> Recipe:
    """A recipe by name or by path; `changes` replace whole dotted fields, e.g. {"training.seed": 2}.

    Another `codec.kind` replaces the whole codec by that kind's defaults; `changes` after it are of the new one.
    """
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
        _change(fields, dotted, value)
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        raise RecipeError(problems.sentences(error, Recipe, name_or_path, changes)) from None


def _change(fields: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    part = fields
    for parent in parents:
        part = part.setdefault(parent, {})
        if not isinstance(part, dict):
            raise RecipeError(f"{dotted}: {parent!r} is a field without fields of its own")
    if dotted == "codec.kind" and part.get("kind") != value:
        part.clear()  # what was said of another kind of input has no meaning for this one
        part.update(DEFAULTS.get(value, {}))
    part[last] = value
