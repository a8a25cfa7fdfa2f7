"""Augmentation of sentences, texts and frames: swapped mentions, other spellings, joined sentences, windows.

Each epoch has another form of each example. A tagger trained on few sentences so learns where mentions occur rather
than which they were. A classifier of names learns the forms that people type: without capitals or accents.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.codecs.words import tokenize
from models.files.text_files import read_lines
from models.tasks.tag import find_spans
from training.data import published
from training.data.examples import (
    DataError,
    JointExample,
    LabeledExample,
    SequenceExample,
    TaggedExample,
    TaggedSeries,
    label_of,
    tags_of,
    text_of,
)

GAZETTEERS = Path(__file__).with_name("gazetteers")
CAPITALIZED = 0.8  # share of the borrowed mentions, which some data sets have in lower case
LONGEST_MENTION = 4  # words of a borrowed mention
TOKEN_PARTS = re.compile(r"#(?=\w)|'|\.(?=\.)|!(?=!)|\?(?=\?)|[^#'.!?]+|.")  # other tokenizations of #tag, don't, ...

Mentions = Mapping[str, Sequence[tuple[str, ...]]]  # by kind
Sentence = TaggedExample | JointExample


class DonorDataset(BaseModel):
    """A data set whose mentions, or whole texts, replace those of the training data."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default="", description="a published data set; empty: the training data, for other kinds")
    options: dict[str, Any] = {}  # for the data set's reader
    kinds: dict[str, str] = Field(
        description="maps its kinds of spans, or its labels, to kinds of the recipe's data; '*' is every label"
    )


class AugmentationOptions(BaseModel):
    """Random changes of the training sentences, texts or series, different in every epoch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    swap: float = Field(default=0.0, ge=0, le=1, description="share of mentions replaced by another of their kind")
    borrow: float = Field(default=0.0, ge=0, le=1, description="share of replacements taken from `lenders`")
    split: float = Field(default=0.0, ge=0, le=1, description="share of sentences tokenized at signs too")
    lowercase: float = Field(default=0.0, ge=0, le=1, description="share of sentences in lower case")
    uppercase: float = Field(default=0.0, ge=0, le=1, description="share of sentences in upper case")
    join: int = Field(default=1, ge=1, description="most consecutive sentences joined into one")
    lenders: tuple[DonorDataset, ...] = Field(default=(), description="data sets to borrow mentions from")
    gazetteer: str = Field(
        default="",
        description="file with a kind, a tab and a mention of that kind on each line, or the name of a list in "
        "training/data/gazetteers; its words also get their own vectors",
    )
    recall: float = Field(default=0.0, ge=0, le=1, description="share of replacements taken from `gazetteer`")
    unaccent: float = Field(default=0.0, ge=0, le=1, description="share of texts without accents (classify)")
    prefix: float = Field(default=0.0, ge=0, le=1, description="share of texts with one of their label's `prefixes`")
    prefixes: dict[str, tuple[str, ...]] = {}  # words before the texts of a label, e.g. {Dutch = ['van']} (classify)
    window: int = Field(
        default=0,
        ge=0,
        description="frames of the windows that series are cut into, the first one at a random frame (tag, frames); "
        "0: whole series",
    )

    @property
    def for_tags(self) -> bool:
        """Whether an option needs tagged sentences."""
        return bool(self.swap or self.split or self.join > 1 or self.lenders or self.gazetteer)

    @property
    def for_texts(self) -> bool:
        """Whether an option needs labeled texts."""
        return bool(self.unaccent or self.prefix)

    @property
    def for_frames(self) -> bool:
        """Whether the options are the ones for series of frames, and no others."""
        return bool(self.window) and self == AugmentationOptions(window=self.window)


@dataclass(frozen=True, kw_only=True)
class TextAugmenter:
    """The options of [variation] for texts with one label each."""

    options: AugmentationOptions

    def augment(self, examples: Sequence[LabeledExample], random: np.random.Generator) -> list[LabeledExample]:
        """Return the examples in other forms, in the same order."""
        return [self._augment(example, random) for example in examples]

    def _augment(self, example: LabeledExample, random: np.random.Generator) -> LabeledExample:
        chances = random.random(3)
        words = [example.text] if isinstance(example.text, str) else list(example.text)
        prefixes = self.options.prefixes.get(example.label)
        if prefixes and chances[0] < self.options.prefix:
            prefix = prefixes[random.integers(len(prefixes))]
            words = [f"{prefix} {words[0]}"] if isinstance(example.text, str) else [prefix, *words]
        if chances[1] < self.options.unaccent:
            words = [published.without_accents(word) for word in words]
        if chances[2] < self.options.lowercase:
            words = [word.lower() for word in words]
        if self.options.uppercase and random.random() < self.options.uppercase:
            words = [word.upper() for word in words]
        return replace(example, text=words[0] if isinstance(example.text, str) else tuple(words))


@dataclass(frozen=True, kw_only=True)
class WindowCutter:
    """The option of [variation] for series with a tag for each frame. A network learns little from very long ones."""

    window: int

    def augment(self, examples: Sequence[TaggedSeries], random: np.random.Generator) -> list[TaggedSeries]:
        """Return the windows of all examples in order. Every frame is in one of them."""
        parts: list[TaggedSeries] = []
        for example in examples:
            length = len(example.frames)
            cuts = range(int(random.integers(1, self.window + 1)), length, self.window)
            parts += [example.part(start, end) for start, end in pairwise((0, *cuts, length))]
        return parts


@dataclass(frozen=True, kw_only=True)
class Augmenter:
    """The options of [variation] for tagged sentences, and the mentions that they need."""

    options: AugmentationOptions
    own: Mentions
    borrowed: Mentions
    listed: Mentions  # in the gazetteer
    known_tags: frozenset[str]  # of the training data; augmentation makes no others

    def augment(self, examples: Sequence[Sentence], random: np.random.Generator) -> list[Sentence]:
        """Return the examples in other forms, in the same order. Joining reduces their number."""
        augmented = [self._augment(example, random) for example in examples]
        return _join(augmented, self.options.join, random) if self.options.join > 1 else augmented

    def _augment(self, example: Sentence, random: np.random.Generator) -> Sentence:
        words, tags = list(example.tokens), list(example.tags)
        if self.options.swap:
            words, tags = self._swap(words, tags, random)
        if random.random() < self.options.split:
            words, tags = _split(words, tags)
        if random.random() < self.options.lowercase:
            words = [word.lower() for word in words]
        elif self.options.uppercase and random.random() < self.options.uppercase:
            words = [word.upper() for word in words]
        if not self.known_tags.issuperset(tags):
            return example
        return replace(example, tokens=tuple(words), tags=tuple(tags))

    def _swap(self, words: list[str], tags: list[str], random: np.random.Generator) -> tuple[list[str], list[str]]:
        new_words: list[str] = []
        new_tags: list[str] = []
        after = 0
        for kind, first, end in [*find_spans(tags), ("", len(words), len(words))]:
            new_words += words[after:first]
            new_tags += tags[after:first]
            mention = list(words[first:end])
            if mention and random.random() < self.options.swap:
                mention = self._other_mention(kind, random)
            new_words += mention
            new_tags += [f"{'I' if place else 'B'}-{kind}" for place in range(len(mention))]
            after = end
        return new_words, new_tags

    def _other_mention(self, kind: str, random: np.random.Generator) -> list[str]:
        listed, borrowed = self.listed.get(kind, ()), self.borrowed.get(kind, ())
        if listed and random.random() < self.options.recall:
            return list(listed[random.integers(len(listed))])
        if borrowed and random.random() < self.options.borrow:
            mention = list(borrowed[random.integers(len(borrowed))])
            return [word.title() for word in mention] if random.random() < CAPITALIZED else mention
        return list(self.own[kind][random.integers(len(self.own[kind]))])


def make_augmenter(
    options: AugmentationOptions, train: Sequence[SequenceExample]
) -> Augmenter | TextAugmenter | WindowCutter:
    """Collect the mentions of the training data and of the donors. Raises DataError for an unknown donor."""
    if isinstance(train[0], LabeledExample):
        return TextAugmenter(options=options)
    if isinstance(train[0], TaggedSeries):
        return WindowCutter(window=options.window)
    own: dict[str, list[tuple[str, ...]]] = {}
    for example in train:
        for kind, first, end in find_spans(example.tags):
            own.setdefault(kind, []).append(tuple(example.tokens[first:end]))
    known_tags = frozenset(tag for example in train for tag in example.tags)
    borrowed = _borrowed_mentions(options.lenders, train)
    listed = read_gazetteer(options.gazetteer) if options.gazetteer else {}
    return Augmenter(options=options, own=own, borrowed=borrowed, listed=listed, known_tags=known_tags)


def _borrowed_mentions(lenders: Sequence[DonorDataset], train: Sequence[SequenceExample]) -> Mentions:
    borrowed: dict[str, list[tuple[str, ...]]] = {}
    for donor in lenders:
        mentions: dict[tuple[str, tuple[str, ...]], None] = {}  # distinct kinds and words, in order of appearance
        examples = published.load({"name": donor.name, **donor.options}).train if donor.name else train
        for example in examples:
            whole = donor.kinds.get(label_of(example) or "", donor.kinds.get("*"))
            if whole is not None:
                mentions[whole, tuple(text_of(example).split())] = None
            for kind, first, end in find_spans(tags_of(example)):
                if kind in donor.kinds and end - first <= LONGEST_MENTION:
                    mentions[donor.kinds[kind], tuple(example.tokens[first:end])] = None
        for kind, words in mentions:
            borrowed.setdefault(kind, []).append(words)
    return borrowed


def read_gazetteer(name_or_path: str) -> Mentions:
    """Read the mentions of each kind, split into words as a served text is.

    Raises DataError for a file that cannot be read, and for a line without a kind, a tab and a mention.
    """
    packaged = GAZETTEERS / f"{name_or_path}.tsv"
    path = packaged if packaged.is_file() else Path(name_or_path)
    listed: dict[str, list[tuple[str, ...]]] = {}
    for line_number, line in enumerate(read_lines(path), start=1):
        kind, _, mention = line.partition("\t")
        if not (words := tokenize(mention, "words")[0]):
            raise DataError(f"{path}, line {line_number}: {line[:60]!r}; write a kind, a tab and a mention")
        listed.setdefault(kind, []).append(tuple(words))
    return listed


def _join(examples: Sequence[Sentence], most: int, random: np.random.Generator) -> list[Sentence]:
    """Join one to `most` consecutive examples into one, so that a tagger of streams learns what follows a full stop."""
    joined: list[Sentence] = []
    start = 0
    while start < len(examples):
        part = examples[start : start + int(random.integers(1, most + 1))]
        start += len(part)
        words = tuple(chain.from_iterable(example.tokens for example in part))
        tags = tuple(chain.from_iterable(example.tags for example in part))
        joined.append(replace(part[0], tokens=words, tags=tags))
    return joined


def _split(words: Sequence[str], tags: Sequence[str]) -> tuple[list[str], list[str]]:
    new_words: list[str] = []
    new_tags: list[str] = []
    for word, tag in zip(words, tags, strict=True):
        parts = TOKEN_PARTS.findall(word) if any(sign in word for sign in "#'.!?") and "//" not in word else [word]
        new_words += parts
        new_tags += [tag] + [tag if tag[:2] != "B-" else f"I-{tag[2:]}"] * (len(parts) - 1)
    return new_words, new_tags
