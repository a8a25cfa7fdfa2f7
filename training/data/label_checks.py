"""What the labels of examples say of the data, with the lines: too few to learn from, unseen in training, or mistyped.

Knows examples and where they came from. Knows no codec and no network.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

from training.data.examples import DataError, JointExample, LabeledExample, SeriesExample, TaggedExample, where

Thing = Literal["tag", "label"]  # of a step, of the whole

THINGS: dict[str, tuple[Thing, ...]] = {"tag": ("tag",), "classify": ("label",), "joint": ("tag", "label")}
KINDS: dict[str, tuple[type, ...]] = {
    "tag": (TaggedExample,),
    "classify": (LabeledExample, SeriesExample),
    "joint": (JointExample,),
}
FREQUENT = 5  # occurrences from which on a label is not taken for a typo, and a rare one for a typo of it
ENOUGH = 10  # examples from which on labels ought to come again
SHORTEST = 4  # letters: among shorter labels many that are meant are one letter apart (NN, NNS)
SHOWN = 10  # labels in a note, and notes of typos


@dataclass(slots=True)
class Seen:
    """How often a label stands in the data, and where first."""

    count: int
    place: str


def check(
    task: str, train: Sequence[Any], dev: Sequence[Any], *, name: str = "", answered: Collection[str] = ()
) -> tuple[str, ...]:
    """What the user should know of the labels; raises DataError where nothing can be learnt from them.

    `name` is the data's, for a problem that has no line. `answered` are labels of wholes that a model gives though no
    training example has them, as it may for several that are merged into one.
    """
    for example in (*train, *dev):
        if not isinstance(example, KINDS[task]):
            wanted = " or ".join(kind.__name__ for kind in KINDS[task])
            raise DataError(
                f"{where(example) or name}: a {type(example).__name__}, but task {task!r} learns from {wanted} "
                ": take other data, or of a published set the options that give them (docs/data.md)"
            )
    notes: list[str] = []
    for thing in THINGS[task]:
        known, held_out = seen(thing, train), seen(thing, dev)
        if len(known) < 2:
            raise DataError(_too_few(thing, train, next(iter(known))))
        if thing == "label":
            _check_repeated(known, len(train))
        else:
            notes += _without_beginning((*train, *dev))
        notes += _unseen(thing, {*known, *answered}, held_out)
        likely = list(typos(thing, seen(thing, (*train, *dev))))
        notes += likely[:SHOWN] + ([f"{len(likely) - SHOWN} more {thing}s may be typos"] if likely[SHOWN:] else [])
    return tuple(notes)


def seen(thing: Thing, examples: Iterable[Any]) -> dict[str, Seen]:
    """Every label, in the order in which they come."""
    found: dict[str, Seen] = {}
    for example in examples:
        for step, label in _labels(thing, example):
            if before := found.get(label):
                before.count += 1
            else:
                found[label] = Seen(1, where(example, step))
    return found


def typos(thing: Thing, known: Mapping[str, Seen]) -> Iterator[str]:
    """A note for each label that looks like another one mistyped.

    That is one which differs from a more frequent one by case or spaces alone, or one that stands there once and is
    one letter from a frequent one: a letter more, less, another, or two that changed places.
    """
    by_count = sorted(known, key=lambda label: (-known[label].count, label))
    usual = {_folded(label): label for label in reversed(by_count)}  # the most frequent of those that read the same
    frequent = [label for label in by_count if known[label].count >= FREQUENT]
    for label, here in known.items():
        other = usual[_folded(label)]
        if other == label and here.count == 1:
            other = next((each for each in frequent if _one_letter_apart(label, each)), label)
        if other != label:
            times = "once" if here.count == 1 else f"{here.count} times, first"
            place = f" in {here.place}" if here.place else ""
            yield f"{thing} {label!r} ({times}{place}) may be a typo of {other!r} ({known[other].count} times)"


def _labels(thing: Thing, example: Any) -> Iterator[tuple[int | None, str]]:
    if thing == "tag":
        yield from enumerate(example.tags)
    else:
        yield None, example.label


def _too_few(thing: Thing, train: Sequence[Any], label: str) -> str:
    last = train[-1].place
    reach = f" from here to line {last.line}" if last else ""
    option = "--tag-column" if thing == "tag" else "--label"
    return (
        f"{where(train[0])}: every training example{reach} has the {thing} {label!r}; at least two are needed to learn "
        f"from: give examples of another, or name another column with {option}"
    )


def _unseen(thing: Thing, known: Set[str], held_out: Mapping[str, Seen]) -> Iterator[str]:
    unseen = sorted(held_out.keys() - known)
    if unseen:
        shown = [f"{label} ({held_out[label].place})" if held_out[label].place else label for label in unseen[:SHOWN]]
        more = f" and {len(unseen) - SHOWN} more" if len(unseen) > SHOWN else ""
        yield f"{thing}s only in the development data, which count as errors: {', '.join(shown)}{more}"


def _check_repeated(known: Mapping[str, Seen], count: int) -> None:
    """Labels that hardly come again are no classes. Mostly they are numbers that somebody wants predicted."""
    numbers = all(map(_is_number, known))
    if count < ENOUGH or len(known) <= (count // 2 if numbers else count - 1):
        return
    what = (
        ", all of them numbers: is this a number to predict? That is not supported, a classifier chooses among labels "
        "that come again: write one for each range of numbers"
        if numbers
        else ": nothing can be learnt of a label that comes once: give labels that come again"
    )
    place = next(iter(known.values())).place
    raise DataError(
        f"{place}: {len(known)} labels for {count} training examples{what}, or name another column with --label"
    )


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True


def _without_beginning(examples: Iterable[Any]) -> Iterator[str]:
    """A note if spans go on (I-x) that never began (B-x), as in files of IOB1, or where a line is wrong."""
    count, first = 0, ""
    for example in examples:
        for step, tag in enumerate(example.tags):
            before = example.tags[step - 1] if step else "O"
            if tag.startswith("I-") and before not in (tag, f"B-{tag[2:]}"):
                count, first = count + 1, first or f"{tag} ({where(example, step)})" if example.place else tag
    if count:
        times = "once" if count == 1 else f"{count} times"
        yield f"I- without B- before it, {times}, first {first}: taken for the beginning of a span, as conlleval does"


def _folded(label: str) -> str:
    return "".join(label.casefold().split())


def _one_letter_apart(a: str, b: str) -> bool:
    """Damerau's distance of 1. Not the B- and I- of one kind, nor labels that differ by a digit, which are meant."""
    if min(len(a), len(b)) < SHORTEST or abs(len(a) - len(b)) > 1 or a == b:
        return False
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    differing = a[start : start + 1] + b[start : start + 1]
    if any(letter.isdigit() for letter in differing) or (start == 0 and a[1:2] == "-" == b[1:2]):
        return False
    if len(a) == len(b):
        swapped = a[start : start + 2] == b[start : start + 2][::-1] and a[start + 2 :] == b[start + 2 :]
        return a[start + 1 :] == b[start + 1 :] or swapped
    longer, shorter = (a, b) if len(a) > len(b) else (b, a)
    return longer[start + 1 :] == shorter[start:]
