"""What of an example goes into the network, and what ought to come out. Knows the kinds of examples, no codec."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from training.data.examples import Framed, Joint, Labelled, Splits, Tagged

Sequenced = Tagged | Labelled | Joint | Framed


def raw(example: Sequenced) -> Any:
    """The input as a codec takes it: words, a text or frames."""
    if isinstance(example, Labelled):
        return example.text
    return example.frames if isinstance(example, Framed) else example.tokens


def text(example: Sequenced) -> str:
    """The input of an example as one string."""
    found = raw(example)
    return found if isinstance(found, str) else " ".join(found)


def tags(example: Sequenced) -> tuple[str, ...]:
    """The label of each step; none where only the whole has one."""
    return example.tags if isinstance(example, Tagged | Joint) else ()


def label(example: Sequenced) -> str | None:
    """The label of the whole, if it has one."""
    return None if isinstance(example, Tagged) else example.label


def merge(examples: Iterable[Sequenced], parts: Mapping[str, Sequence[str]]) -> list[Sequenced]:
    """The examples with the labels that they are answered with; those that are never answered are left out."""
    answered = {part: whole for whole, labels in parts.items() for part in labels}
    return [
        replace(example, label=answered[found]) for example in examples if (found := label(example) or "") in answered
    ]


def digest(examples: Splits[Any]) -> str:
    """sha256 of what is trained on and what is held out: of a fold, of a share held out, of what options chose."""
    found = hashlib.sha256()
    for part in (examples.train, examples.dev):
        rows = [part] if isinstance(part, str) else [repr((raw(e), tags(e), label(e))) for e in part]
        found.update("\n".join(rows).encode("utf-8", "surrogatepass") + b"\0")
    return found.hexdigest()


def labels_of(task: str, train: Iterable[Sequenced]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`labels` and `text_labels` of a manifest: what training saw, in alphabetical order."""
    train = list(train)
    steps = sorted({tag for example in train for tag in tags(example)})
    whole = sorted({found for example in train if (found := label(example)) is not None})
    if task == "classify":
        return tuple(whole), ()
    return tuple(steps), tuple(whole) if task == "joint" else ()
