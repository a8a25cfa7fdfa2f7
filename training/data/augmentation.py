"""Sentences as they might have been: other mentions in their places, words cut otherwise, everything in lower case.

An epoch sees each sentence in another form, so that a tagger of few sentences learns where mentions stand rather than
which they were. Knows tags in spans and words. Knows no codec and no network.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.tasks.tag import find_spans
from training import data
from training.data.examples import JointExample, TaggedExample, label_of, tags_of, text_of

CAPITALISED = 0.8  # of the borrowed mentions, which some data sets have in lower case
LONGEST = 4  # words of a borrowed mention
SPLIT = re.compile(r"#(?=\w)|'|\.(?=\.)|!(?=!)|\?(?=\?)|[^#'.!?]+|.")  # how others would cut a word: #tag, don't, ...

Mentions = Mapping[str, Sequence[tuple[str, ...]]]  # by kind
Sentence = TaggedExample | JointExample


class DonorDataset(BaseModel):
    """A published data set whose mentions (or whole texts) stand in for those of this one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    options: dict[str, Any] = {}
    kinds: dict[str, str] = Field(description="its kinds of spans, or its labels, and ours; '*' is all of its labels")


class AugmentationOptions(BaseModel):
    """Fields of [variation]: shares of what is changed in an epoch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    swap: float = Field(default=0.0, ge=0, le=1, description="of the mentions, replaced by another one of their kind")
    borrow: float = Field(default=0.0, ge=0, le=1, description="of the replacements, taken from `lenders`")
    split: float = Field(default=0.0, ge=0, le=1, description="of the sentences, cut into words at signs too")
    lowercase: float = Field(default=0.0, ge=0, le=1, description="of the sentences")
    join: int = Field(default=1, ge=1, description="most sentences in one, of those that follow each other")
    lenders: tuple[DonorDataset, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Augmenter:
    """What [variation] asks for, and the mentions to do it with."""

    variation: AugmentationOptions
    own: Mentions
    borrowed: Mentions
    known: frozenset[str]  # the tags of the training data: no others may come about

    def vary(self, examples: Sequence[Sentence], random: np.random.Generator) -> list[Sentence]:
        """The examples in other forms, in the same order; tags stay with their words. Fewer where they are joined."""
        varied = [self._vary(example, random) for example in examples]
        return _join(varied, self.variation.join, random) if self.variation.join > 1 else varied

    def _vary(self, example: Sentence, random: np.random.Generator) -> Sentence:
        words, tags = list(example.tokens), list(example.tags)
        if self.variation.swap:
            words, tags = self._swap(words, tags, random)
        if random.random() < self.variation.split:
            words, tags = _split(words, tags)
        if random.random() < self.variation.lowercase:
            words = [word.lower() for word in words]
        if not self.known.issuperset(tags):
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
            if mention and random.random() < self.variation.swap:
                mention = self._other(kind, random)
            new_words += mention
            new_tags += [f"{'I' if place else 'B'}-{kind}" for place in range(len(mention))]
            after = end
        return new_words, new_tags

    def _other(self, kind: str, random: np.random.Generator) -> list[str]:
        borrowed = self.borrowed.get(kind, ())
        if borrowed and random.random() < self.variation.borrow:
            mention = list(borrowed[random.integers(len(borrowed))])
            return [word.title() for word in mention] if random.random() < CAPITALISED else mention
        return list(self.own[kind][random.integers(len(self.own[kind]))])


def make_augmenter(variation: AugmentationOptions, train: Sequence[Sentence]) -> Augmenter:
    """With the mentions of the training data and of the lenders. Raises DataError for a lender that is not there."""
    own: dict[str, list[tuple[str, ...]]] = {}
    for example in train:
        for kind, first, end in find_spans(example.tags):
            own.setdefault(kind, []).append(tuple(example.tokens[first:end]))
    borrowed: dict[str, list[tuple[str, ...]]] = {}
    for lender in variation.lenders:
        for kind, mentions in _lent(lender).items():
            borrowed.setdefault(kind, []).extend(mentions)
    known = frozenset(tag for example in train for tag in example.tags)
    return Augmenter(variation=variation, own=own, borrowed=borrowed, known=known)


def _lent(lender: DonorDataset) -> dict[str, list[tuple[str, ...]]]:
    """The different mentions of a lender's training data under our kinds, in the order in which they come."""
    found: dict[str, dict[tuple[str, ...], None]] = {}
    for example in data.load({"name": lender.name, **lender.options}).train:
        whole = lender.kinds.get(label_of(example) or "", lender.kinds.get("*"))
        if whole is not None:
            found.setdefault(whole, {})[tuple(text_of(example).split())] = None
        for kind, first, end in find_spans(tags_of(example)):
            if kind in lender.kinds and end - first <= LONGEST:
                found.setdefault(lender.kinds[kind], {})[tuple(example.tokens[first:end])] = None
    return {kind: list(mentions) for kind, mentions in found.items()}


def _join(examples: Sequence[Sentence], most: int, random: np.random.Generator) -> list[Sentence]:
    """Runs of one to `most` examples, each as one: a tagger of streams learns what follows a full stop."""
    joined: list[Sentence] = []
    start = 0
    while start < len(examples):
        run = examples[start : start + int(random.integers(1, most + 1))]
        start += len(run)
        words = tuple(chain.from_iterable(example.tokens for example in run))
        tags = tuple(chain.from_iterable(example.tags for example in run))
        joined.append(replace(run[0], tokens=words, tags=tags))
    return joined


def _split(words: Sequence[str], tags: Sequence[str]) -> tuple[list[str], list[str]]:
    new_words: list[str] = []
    new_tags: list[str] = []
    for word, tag in zip(words, tags, strict=True):
        parts = SPLIT.findall(word) if any(sign in word for sign in "#'.!?") and "//" not in word else [word]
        new_words += parts
        new_tags += [tag] + [tag if tag[:2] != "B-" else f"I-{tag[2:]}"] * (len(parts) - 1)
    return new_words, new_tags
