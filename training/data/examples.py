"""What a data set is made of, once it is read. Knows no files, no formats and no codecs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Example = TypeVar("Example", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tagged:
    """A sentence with one tag a token: both tuples have the same length, at least 1."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A text, as given or already split into tokens, with its one label."""

    text: str | tuple[str, ...]
    label: str


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
