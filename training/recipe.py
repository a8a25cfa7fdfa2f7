"""Recipes: everything that a published bundle is made from, in one TOML file."""

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.manifest import (
    FORMS,
    NAME,
    CodecSpec,
    ForecastSpec,
    FramesSpec,
    ImageSpec,
    Name,
    PiecesSpec,
    SourceSpec,
    TaskName,
    WordsSpec,
)
from models.messages import needed, suggest
from training.data.augmentation import AugmentationOptions
from training.data.tag_schemes import TagScheme
from training.options import Architecture, Training

RECIPES = Path(__file__).parent / "recipes"
CODECS: dict[str, tuple[str, ...]] = {  # the codecs that a task can work with
    "tag": ("words", "characters", "dna", "frames"),
    "classify": ("words", "characters", "dna", "frames"),
    "joint": ("words",),
    "generate": ("characters",),
    "forecast": ("series",),
    "translate": ("pieces",),
    "caption": ("pieces",),
    "fill": ("words",),
}
CODEC_DEFAULTS: dict[str, dict[str, Any]] = {"frames": {"features": 1}}  # required fields; `fit` counts the features
EXAMPLES = {  # values of required fields
    "name": 'name = "mine"',
    "task": 'task = "classify"',
    "description": 'description = "what it does"',
    "data": '[data] and below it path = "mine.csv"',
    "codec": '[codec] and below it kind = "words"',
    "codec.kind": 'kind = "words"',
    "codec.features": "features = 12",
}


class RecipeError(ValueError):
    """A recipe that cannot be used. The message names the field and what is allowed."""


class _RecipePart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AdditionalData(_RecipePart):
    """Another published data set of sentences, whose training examples are added to those of the recipe."""

    name: str  # a published data set
    options: dict[str, Any] = {}  # for the data set's reader
    kinds: dict[str, str] = {}  # maps its kinds of spans to kinds of the recipe's data; spans of other kinds become O
    copies: int = Field(default=1, ge=1, description="how often an epoch has each of its examples")


class DataOptions(_RecipePart):
    """A published data set by name, or the user's own file with its columns.

    CoNLL columns count from 0, or from the end if negative. The defaults are the first column for tokens and the last
    for tags; in .conllu files FORM and UPOS, and there names work too.
    """

    name: str | None = None  # a published data set
    options: dict[str, Any] = Field(default={}, description="for the published data set's reader, e.g. {fine = true}")
    path: Path | None = None  # your own file
    dev: Path | None = Field(default=None, description="development data; without it, part of `path` is held out")
    text: str = "text"  # column or key of the text
    label: str = "label"  # column or key of the label
    tokens: str = "tokens"  # key of the tokens in JSON
    tags: str = "tags"  # key of the tags in JSON
    series: str = "id"  # column that names the series of a frame or a value
    time: str = "time"  # column of the time of a value
    target: str = ""  # columns of the values to forecast, separated by commas, or of the translation
    source: str = "source"  # column or key of what is translated
    parallel: Path | None = Field(default=None, description="file whose line n is the translation of line n of `path`")
    dev_parallel: Path | None = Field(default=None, description="the same for `dev`")
    freq: str = ""  # time between two values, as pandas spells it; by default the most common one
    token_column: int | str | None = None  # CoNLL column of the token; by default the first
    tag_column: int | str | None = None  # CoNLL column of the tag; by default the last
    tag_scheme: TagScheme = Field(
        default="auto",
        description="auto converts BIOES, BILOU, BMES and IOE to IOB2; io makes a span of each run of equal tags",
    )
    encoding: str = "utf-8"  # of `path` and `dev`
    dev_share: float = Field(default=0.1, gt=0, lt=1)  # share of `path` that is held out
    choice_share: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="share of the training examples that is held out to choose the epoch, so that the development data "
        "only scores; 0: the development data does both",
    )
    more: tuple[AdditionalData, ...] = ()  # further published data sets to train on


class Auxiliary(_RecipePart):
    """Another tagged data set, learned by the same layers with a head that is then discarded.

    Its tags teach the layers about words, which helps a task with few examples (Collobert and Weston 2008).
    """

    name: str  # a published data set
    options: dict[str, Any] = {}  # for the data set's reader
    weight: float = Field(default=1.0, gt=0, description="factor of its loss")
    share: float = Field(default=1.0, gt=0, le=1, description="share of its examples that each epoch draws")


class Expectation(_RecipePart):
    """The score that this recipe should reach, and how long it takes."""

    score: float | None = None  # on the development data, or by cross-validation
    folds: int | None = Field(default=None, ge=2, description="folds of the cross-validation that gave the score")
    minutes: float | None = None  # of training
    machine: str = ""  # that the minutes refer to
    seeds: str = ""  # that were tried, and which data chose one of them
    settings: str = ""  # other fields that were tried, and which data chose their values


class Recipe(_RecipePart):
    """All fields of a recipe."""

    name: Name  # of the run and the bundle
    task: TaskName  # what the model answers
    description: str  # one sentence for the model card
    languages: tuple[str, ...] = ()  # BCP 47 tags
    data: DataOptions
    codec: CodecSpec
    source: SourceSpec | None = Field(default=None, description="what a translator reads; by default what it writes")
    pieces: int = Field(default=6000, ge=300, le=2**20, description="most rows of the table of pieces")
    forecast: ForecastSpec | None = Field(default=None, description="what a forecaster answers")
    merge: dict[str, tuple[str, ...]] = Field(
        default={},
        description="labels of the answers, each with the labels of the data that it stands for: "
        "{positive = ['3', '4']}. Training distinguishes all labels of the data; labels that are not merged are only "
        "trained on.",
    )
    auxiliary: Auxiliary | None = None
    variation: AugmentationOptions | None = None
    vectors: Path | None = Field(default=None, description="pretrained word vectors in the format of GloVe or word2vec")
    init: Path | None = None  # bundle whose vocabularies and weights training starts from, as for fine-tuning
    min_count: int = Field(default=2, ge=1)  # occurrences from which a word gets its own vector
    architecture: Architecture = Architecture()
    training: Training = Training()
    expect: Expectation = Expectation()
    max_length: int = Field(default=4096, ge=1)  # most tokens in one input of the bundle
    examples: tuple[str, ...] = ()  # inputs of the self-test; by default from the data

    @model_validator(mode="after")
    def _check(self) -> Self:
        task, codec, crf, training = self.task, self.codec.kind, self.architecture.crf, self.training
        tagged, generates, fills = task in ("tag", "joint"), task == "generate", task == "fill"
        pairs = task in ("translate", "caption")
        read = codec if self.source is None else self.source.kind
        words = self.codec if isinstance(self.codec, WordsSpec) else WordsSpec()
        windowed = (task, codec) == ("tag", "frames") and self.variation is not None and self.variation.for_frames
        joins = self.variation is not None and self.variation.join > 1
        parts = [part for labels in self.merge.values() for part in labels]
        repeated = next((part for part in parts if parts.count(part) > 1), None)
        kinds = " or ".join(map(repr, CODECS[task]))
        problems = {
            f"task {task!r} needs codec.kind = {kinds}, not {codec!r}": codec not in CODECS[task],
            "a language model cannot be bidirectional; set architecture.bidirectional = false": (
                generates and self.architecture.bidirectional
            ),
            f"architecture.crf decodes tags, and task {task!r} has none; set crf = false": crf and not tagged,
            "merge needs task = 'classify' and at least two merged labels": (
                self.merge and (task != "classify" or len(self.merge) < 2)
            ),
            f"class_weights are for labels, and task {task!r} has none; remove it": (
                training.class_weights != "none" and (generates or pairs or fills)
            ),
            f"source is for translators, not for task {task!r}; remove it": self.source is not None and not pairs,
            "languages of a translator are two, what it reads and what it writes; name both, or none": (
                task == "translate" and len(self.languages) not in (0, 2)
            ),
            "task 'caption' reads frames or pictures; set source.kind = 'frames' or 'image'": (
                task == "caption" and not isinstance(self.source, FramesSpec | ImageSpec)
            ),
            "task 'translate' reads pieces; remove source": (
                task == "translate" and self.source is not None and not isinstance(self.source, PiecesSpec)
            ),
            "source.kind = 'image' is for generated scenes; set data.name = 'scenes', or give vectors of pictures": (
                isinstance(self.source, ImageSpec) and self.data.name != "scenes"
            ),
            f"scheduled_sampling is for translators, not for task {task!r}; remove it": (
                training.scheduled_sampling and not pairs
            ),
            "data.dev_parallel needs data.parallel and data.dev; give all of them, or none": (
                (self.data.dev_parallel is not None) != (self.data.parallel is not None and self.data.dev is not None)
            ),
            f"tied is for language models, not for task {task!r}; remove it": self.architecture.tied and not generates,
            f"vectors are for words, not for codec.kind = {codec!r}; remove it": self.vectors and codec != "words",
            "vectors are for labels of words, not for task 'fill'; remove it": self.vectors and fills,
            f"init reads the weights of words, characters, pieces and series, not of {read!r}; remove it": (
                self.init and read in ("frames", "dna")
            ),
            "init has a value for each word already; remove vectors": self.init and self.vectors,
            "data.choice_share needs examples, and a text has none; remove it": self.data.choice_share and generates,
            f"data.more adds sentences, which task {task!r} does not take; remove it": (
                self.data.more and task not in ("tag", "fill")
            ),
            "data.more.kinds are kinds of spans, which a tagger needs; give them, or remove them for task 'fill'": (
                any(bool(each.kinds) == fills for each in self.data.more)
            ),
            "auxiliary needs task 'tag' or 'joint', and codec 'words'": (
                self.auxiliary and not (tagged and codec == "words")
            ),
            f"variation changes sentences or labeled texts, not task {task!r} with codec.kind = {codec!r}; remove it": (
                self.variation and (generates or pairs or fills or (codec == "frames" and not windowed))
            ),
            "codec.delay needs task = 'tag', architecture.bidirectional = false, and crf = false": (
                codec == "frames" and self.codec.delay and (task != "tag" or self.architecture.bidirectional or crf)
            ),
            "variation.window cuts series of frames with tags, and has no other option with it; remove it": (
                self.variation and self.variation.window and not windowed
            ),
            f"variation.swap, split, join, lenders and gazetteer need tags, and task {task!r} has none; remove them": (
                self.variation and self.variation.for_tags and not tagged
            ),
            f"variation.unaccent and prefix change labeled texts, and task {task!r} has tags; remove them": (
                self.variation and self.variation.for_texts and task != "classify"
            ),
            "variation.join cannot join sentences that have a label each; remove it": joins and task == "joint",
            "class_weights cannot weigh the whole sequences of a crf; remove one of them": (
                crf and training.class_weights != "none"
            ),
            f"merge: the label {repeated!r} is merged twice; merge it once": repeated is not None,
            f"threshold is for spans of tags, and task {task!r} has none; remove it": (
                training.threshold and task != "tag"
            ),
            "margin needs a crf; set architecture.crf = true, or remove margin": training.margin and not crf,
            f"forecast is for task 'forecast', not for task {task!r}; remove it": self.forecast and task != "forecast",
            "task 'forecast' needs the table [forecast]": task == "forecast" and self.forecast is None,
            "a forecaster reads forwards; set architecture.bidirectional = false and layers = 1": (
                task == "forecast" and (self.architecture.bidirectional or self.architecture.layers > 1)
            ),
            "label_smoothing is for labels that are predicted one by one; remove it": (
                training.label_smoothing and (crf or generates or task in ("forecast", "fill"))
            ),
            "a filler has one layer in two directions; set architecture.bidirectional = true and layers = 1": (
                fills and not (self.architecture.bidirectional and self.architecture.layers == 1)
            ),
            "task 'fill' needs a row for each word; remove codec.stems, codec.characters and codec.subwords": (
                fills and bool(words.stems or words.characters or words.subwords)
            ),
            f"training.candidates are words of a filler, and task {task!r} has none; remove it": (
                training.candidates and not fills
            ),
        }
        for problem, found in problems.items():
            if found:
                raise ValueError(problem)
        return self


def names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load(name_or_path: str, **changes: Any) -> Recipe:
    """Load a recipe by name or by path. `changes` replace whole dotted fields, e.g. {"training.seed": 2}.

    Another `codec.kind` replaces the whole codec by that kind's defaults. Later changes then apply to the new codec.
    """
    path = Path(name_or_path) if name_or_path.endswith(".toml") else RECIPES / f"{name_or_path}.toml"
    if not path.is_file():
        if name_or_path.endswith(".toml"):
            raise RecipeError(f"{name_or_path} does not exist; check the path")
        raise RecipeError(f"unknown recipe {name_or_path!r}; {suggest(name_or_path, names())}")
    try:
        fields = tomllib.loads(path.read_text("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        hint = "; put a Windows path in single quotes: path = 'C:\\mine.csv'" if "Unescaped" in str(error) else ""
        raise RecipeError(f"{path}: not TOML: {error}{hint}") from None
    for dotted, value in changes.items():
        _change(fields, dotted, value)
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        raise RecipeError(_explain(error, name_or_path, changes)) from None


def reopen(fields: dict[str, Any]) -> Recipe:
    """Return the recipe of a run or a bundle. Older ones have no tag scheme, because they never converted tags.

    Raises RecipeError for a recipe of another version.
    """
    try:
        return Recipe.model_validate({**fields, "data": {"tag_scheme": "none", **fields["data"]}})
    except ValidationError as error:
        raise RecipeError(_explain(error, "the recipe of the run", ())) from None


def _change(fields: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    part = fields
    for parent in parents:
        part = part.setdefault(parent, {})
        if not isinstance(part, dict):
            raise RecipeError(f"{dotted}: the field {parent!r} has no fields")
    if dotted == "codec.kind" and part.get("kind") != value:
        part.clear()  # the fields of another kind do not apply
        part.update(CODEC_DEFAULTS.get(value, {}))
    part[last] = value


def _explain(error: ValidationError, file: str, changed: Collection[str]) -> str:
    """Return all problems in one line. Each starts with the option that caused it, or with the recipe."""
    messages = []
    for problem in error.errors(include_url=False):
        # Pydantic's location in a union also names the chosen member.
        place = [str(part) for part in problem["loc"]]
        kind = place[1] if len(place) > 1 and place[1] in _kinds(place[0]) else None
        parts = [*place[:1], *place[2:]] if kind else place
        field = ".".join([*parts, "kind"] if problem["type"].startswith("union_tag") else parts)
        option = "--name" if field == "name" else f"--set {field}"
        origin = option if field in changed else f"{file}: {field}" if field else file
        messages.append(f"{origin}: {_message(problem, field, kind)}")
    return "; ".join(messages)


def _message(problem: Mapping[str, Any], field: str, kind: str | None) -> str:
    value, first, last = problem["input"], field.split(".")[0], field.split(".")[-1]
    if problem["type"] == "extra_forbidden":
        if kind is None:
            known = [part for name in Recipe.model_fields for part in (name, *_inner_fields(name))]
            return f"unknown field{_suggestion(field, known)}"
        known = [name for name in _kinds(first)[kind].model_fields if name != "kind"]
        return f"unknown field of kind {kind!r}, which has {', '.join(known)}{_suggestion(last, known)}"
    if problem["type"] in ("missing", "union_tag_not_found"):
        return f"is missing; for example {EXAMPLES.get(field, f'{last} = …')}"
    if problem["type"] == "union_tag_invalid":
        value, known = problem["ctx"]["tag"], list(_kinds(first))
        return f"{value!r} is not one of {', '.join(known)}{_suggestion(value, known)}"
    message = f"must be {FORMS[NAME]}" if field == "name" else needed(problem)
    return f"{message} (got {str(value)[:80]!r})" if field else message


def _suggestion(wrong: str, known: list[str]) -> str:
    """Suggest the same field of another part, or one with a similar name."""
    elsewhere = [name for name in known if name.split(".")[-1] == wrong.split(".")[-1]]
    hint = f"did you mean {elsewhere[0]}?" if elsewhere else suggest(wrong, known, others=False)
    return f"; {hint}" if hint else ""


def _models(name: str) -> list[type[BaseModel]]:
    """Return the models in the annotation of a field: one, an optional one, or the members of a union."""
    annotation = Recipe.model_fields[name].annotation if name in Recipe.model_fields else None
    parts = get_args(annotation) or (annotation,)
    return [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]


def _inner_fields(name: str) -> list[str]:
    return [f"{name}.{inner}" for model in _models(name) for inner in model.model_fields]


def _kinds(name: str) -> dict[str, type[BaseModel]]:
    """Return the members of a discriminated union by their `kind`; {} for another field."""
    return {part.model_fields["kind"].default: part for part in _models(name) if "kind" in part.model_fields}
