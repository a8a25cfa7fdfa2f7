"""Examples: the output of every reader and the input of codecs and objectives, with the place of each.

Every example knows its `place`, so that a later error can still name the file and the line. A place is not part of an
example's value: two examples with the same content are equal.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from models.files.text_files import DataError as DataError

T = TypeVar("T", covariant=True)


@dataclass(frozen=True, slots=True)
class FileLocation:
    """A line of a file, counted from 1. `lines` holds the line of each step where every step has its own."""

    file: str
    line: int
    lines: Sequence[int] = ()

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}"

    def of_step(self, step: int) -> "FileLocation":
        """Return the location of one step, counted from 0, or of the whole example if steps share a line."""
        return FileLocation(self.file, self.lines[step]) if self.lines else self


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceExample:
    """An example of any kind, and where it was read."""

    place: FileLocation | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedExample(SequenceExample):
    """A sentence with one tag for each token: both tuples have the same length, at least 1."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledExample(SequenceExample):
    """A text, as given or already split into tokens, with one label."""

    text: str | tuple[str, ...]
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JointExample(SequenceExample):
    """A sentence with one tag for each token and one label for the sentence."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TextExample(SequenceExample):
    """A text without a label."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesExample(SequenceExample):
    """A series of one or more frames with one label. All frames have the same count of finite numbers."""

    frames: tuple[tuple[float, ...], ...]
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedSeries(SequenceExample):
    """A series of one or more frames with one tag for each. All frames have the same count of finite numbers."""

    frames: tuple[tuple[float, ...], ...]
    tags: tuple[str, ...]

    def part(self, start: int, end: int | None = None) -> "TaggedSeries":
        """Return the frames from `start` to before `end`, as of a slice."""
        lines = self.place.lines[start:end] if self.place else ()
        place = FileLocation(self.place.file, lines[0] if lines else self.place.line, lines) if self.place else None
        return TaggedSeries(frames=self.frames[start:end], tags=self.tags[start:end], place=place)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairExample(SequenceExample):
    """A text, a series of frames, or the file of a picture, and the text to be written for it."""

    source: str | tuple[tuple[float, ...], ...] | bytes
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSeries(SequenceExample):
    """A series of numbers at equal distances in time; None is a missing value. Forecasts begin at `first` or later."""

    name: str
    values: tuple[float | None, ...]
    start: str  # ISO 8601
    frequency: str  # as pandas spells it: "h", "D"
    first: int = 0

    def until(self, end: int) -> "TimeSeries":
        """Return the series without the values from `end` on."""
        return replace(self, values=self.values[:end])

    def starting_at(self, first: int) -> "TimeSeries":
        """Return the whole series, with forecasts from `first` on."""
        return replace(self, first=first)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastWindow(SequenceExample):
    """A history of one series and the values that follow it. `unit` is the deviation of the series in training."""

    series: str
    history: tuple[float | None, ...]
    future: tuple[float | None, ...]
    unit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The origin of data, for the manifest's provenance and the model card.

    `files` maps paths relative to the data set's folder to the sha256 of the bytes that were read.
    """

    name: str
    url: str
    licence: str  # spelled as in the bundle format
    files: dict[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits(Generic[T]):
    """Training and development data. Both are one `str` for language models, else a sequence of examples."""

    train: Sequence[T]
    dev: Sequence[T]
    source: Source
    notes: tuple[str, ...] = ()  # about how the files were read
    choice: Sequence[T] = ()  # held out to choose the epoch, so that `dev` only scores; if empty, `dev` does both
    elsewhere: Mapping[str, Sequence[T]] = field(default_factory=dict)  # held-out examples of further data sets

    @property
    def choosing(self) -> Sequence[T]:
        """The examples that choose the epoch."""
        return self.choice or self.dev


def where(example: object, step: int | None = None) -> str:
    """Return "FILE, line N" of an example or of one step; "" for an example that was not read from a file."""
    place: FileLocation | None = getattr(example, "place", None)
    if place is None:
        return ""
    return str(place if step is None else place.of_step(step))


def visible(text: str) -> str:
    r"""Return a text as it is, or as '\xa0' and the like if it has invisible characters."""
    return text if text.isprintable() else repr(text)


def inputs_of(example: SequenceExample) -> Any:
    """Return the input as codecs take it: tokens, a text, frames or a series."""
    if isinstance(example, ForecastWindow | TimeSeries):
        return example.history if isinstance(example, ForecastWindow) else example.values
    if isinstance(example, LabeledExample | TextExample):
        return example.text
    if isinstance(example, PairExample):
        return example.source
    return example.frames if isinstance(example, SeriesExample | TaggedSeries) else example.tokens


def text_of(example: SequenceExample) -> str:
    """Return the input as one string."""
    inputs = inputs_of(example)
    return inputs if isinstance(inputs, str) else " ".join(inputs)


def tags_of(example: SequenceExample) -> tuple[str, ...]:
    """Return the label of each step; () if steps have none."""
    return getattr(example, "tags", ())


def label_of(example: SequenceExample) -> str | None:
    """Return the label of the whole sequence, if it has one. For a pair it is the target."""
    return example.target if isinstance(example, PairExample) else getattr(example, "label", None)


def label_names(task: str, train: Iterable[SequenceExample]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return `labels` and `text_labels` of a manifest: the labels of the training data in alphabetical order."""
    train = list(train)
    steps = sorted({tag for example in train for tag in tags_of(example)})
    whole = sorted({label for example in train if (label := label_of(example)) is not None})
    if task == "classify":
        return tuple(whole), ()
    return tuple(steps), tuple(whole) if task == "joint" else ()


def merge_labels(examples: Iterable[SequenceExample], merge: Mapping[str, Sequence[str]]) -> list[SequenceExample]:
    """Return the examples under the merged labels. Examples whose label is merged into none are left out."""
    merged = {part: whole for whole, parts in merge.items() for part in parts}
    return [
        replace(example, label=merged[label]) for example in examples if (label := label_of(example) or "") in merged
    ]


def digest_of(examples: Splits[Any]) -> str:
    """Return the sha256 of all training and development examples. Folds and other options give other digests."""
    digest = hashlib.sha256()
    for part in filter(None, (examples.train, examples.dev, examples.choice)):
        rows = [part] if isinstance(part, str) else [repr((inputs_of(e), tags_of(e), label_of(e))) for e in part]
        digest.update("\n".join(rows).encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()
