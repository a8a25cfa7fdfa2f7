"""What a data set is made of, once it is read. Knows no files, no formats and no codecs.

Every example knows its `place`, so that whatever is found wrong with it later can still be said with file and line.
A place is no part of an example's value: examples from two places are equal if their contents are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Example = TypeVar("Example", covariant=True)


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, counted from 1; where every step has a line of its own, those lines too."""

    file: str
    line: int
    lines: Sequence[int] = ()

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}"

    def of_step(self, step: int) -> "Place":
        """The line of one step, counted from 0; of the whole where steps have no lines of their own."""
        return Place(self.file, self.lines[step]) if self.lines else self


def where(example: object, step: int | None = None) -> str:
    """ "FILE, line N", of one step if it is given; "" for an example that was not read from a file."""
    place: Place | None = getattr(example, "place", None)
    if place is None:
        return ""
    return str(place if step is None else place.of_step(step))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tagged:
    """A sentence with one tag a token: both tuples have the same length, at least 1."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]
    place: Place | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A text, as given or already split into tokens, with its one label."""

    text: str | tuple[str, ...]
    label: str
    place: Place | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """A sentence with one tag a token and one label of the whole."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]
    label: str
    place: Place | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Framed:
    """A series of at least one frame, each of the same count of finite numbers, with its one label."""

    frames: tuple[tuple[float, ...], ...]
    label: str
    place: Place | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where data came from: goes into the manifest's provenance and the model card.

    `files` maps the path relative to the data set's folder to the sha256 of the bytes that were read.
    """

    name: str
    url: str
    licence: str
    files: dict[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits(Generic[Example]):
    """Training and development data. For language models both are one `str`, else a sequence of examples."""

    train: Sequence[Example]
    dev: Sequence[Example]
    source: Source
