"""Checks of a recipe's data before training: nothing to learn, unseen labels, likely typos, wrong columns.

Unusable data raises DataError. Suspicious data becomes a note. Both name the line.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

from models import codecs
from training.data.examples import (
    DataError,
    JointExample,
    LabeledExample,
    SequenceExample,
    SeriesExample,
    Splits,
    TaggedExample,
    TaggedSeries,
    inputs_of,
    label_names,
    label_of,
    tags_of,
    visible,
    where,
)
from training.data.tag_schemes import are_iob2
from training.data.tokenization import compare_tokens
from training.recipe import Recipe

LabelKind = Literal["tag", "label"]  # of a step, or of the whole sequence

LABEL_KINDS: dict[str, tuple[LabelKind, ...]] = {"tag": ("tag",), "classify": ("label",), "joint": ("tag", "label")}
EXAMPLE_TYPES: dict[str, tuple[type, ...]] = {
    "tag": (TaggedExample, TaggedSeries),
    "classify": (LabeledExample, SeriesExample),
    "joint": (JointExample,),
}
FEW_HELD_OUT = 20  # with fewer held-out examples, one more right is over 5 points of the score
SHORTEST_TEXT = 100  # characters of each part of a text
FREQUENT = 5  # a label this frequent is not a typo, and a rare label may be a typo of it
ENOUGH_EXAMPLES = 10  # from this count on, labels must repeat
SHORTEST_TYPO = 4  # letters: many shorter labels differ by one letter on purpose (NN, NNS)
RARE = 5  # a label with less than a fifth of an even share is rare
MISSING_VALUES = {"nan", "none", "null", "n/a", "<na>", "#n/a"}
QUOTES = "\"'\u201c\u201d\u2018\u2019\u201e"
INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u200b\u2060\ufeff]")  # not joiners, which emoji need
CONTEXT = 20  # characters around an invisible one
MOST_SHOWN = 10  # labels in a note, and notes about typos


def check_splits(recipe: Recipe, codec: codecs.Codec, splits: Splits[Any]) -> tuple[str, ...]:
    """Return notes about a recipe's data. Raises DataError if nothing can be learned or measured."""
    if recipe.task == "forecast":
        notes: tuple[str, ...] = ()  # the readers and the windows have checked series
    elif recipe.task == "caption":
        notes = tuple(_note_few(splits.dev))  # the readers have checked vectors
    elif recipe.task == "translate":
        notes = _check_pairs(recipe, codec, splits)
    else:
        notes = _check_text(splits) if recipe.task == "generate" else _check_examples(recipe, codec, splits)
    notes = (*splits.notes, *notes)
    if splits.source.note:
        notes = (*notes, f"the data set {splits.source.name} {splits.source.note}")
    return notes


def _check_text(splits: Splits[Any]) -> tuple[str, ...]:
    train, dev, name = splits.train, splits.dev, splits.source.name
    if min(len(train), len(dev)) < SHORTEST_TEXT:
        raise DataError(
            f"{name}: {len(train)} characters to train on and {len(dev)} held out; each part needs at least "
            f"{SHORTEST_TEXT}, and a good model some 100,000. Give more text, or hold out more (--set "
            "data.dev_share=0.3)"
        )
    unseen = sorted(set(dev) - set(train))
    if set(dev[1:]) <= set(unseen):
        raise DataError(f"{name}: the held-out part has no character in common with the rest; give a more even text")
    if unseen:
        shown = " ".join(map(repr, unseen[:MOST_SHOWN]))
        return (f"{len(unseen)} characters are only in the held-out part and do not count in its score: {shown}",)
    return ()


def _check_pairs(recipe: Recipe, codec: codecs.Codec, splits: Splits[Any]) -> tuple[str, ...]:
    for pair in (*splits.train, *splits.dev):
        _check_input(recipe, codec, pair, splits.source.name)
    notes = list(_note_few(splits.dev))
    if same := sum(pair.source == pair.target for pair in splits.train):
        notes.append(f"{same:,} of {len(splits.train):,} targets equal their source")
    if not recipe.languages:
        notes.append('the languages are not stated, so the card says und to und; --set \'languages=["en", "de"]\'')
    return tuple(notes)


def _check_examples(recipe: Recipe, codec: codecs.Codec, splits: Splits[Any]) -> tuple[str, ...]:
    name = splits.source.name
    notes: tuple[str, ...] = ()
    if recipe.task != "fill":
        notes = check_labels(recipe.task, splits.train, splits.dev, name=name, answered=tuple(recipe.merge))
    _, whole = label_names("joint", splits.train)
    if unknown := sorted({part for parts in recipe.merge.values() for part in parts} - set(whole)):
        raise DataError(f"{name}: merge has the label {unknown[0]!r}; the data has {', '.join(map(visible, whole))}")
    if recipe.task in ("tag", "joint") and recipe.codec.kind != "frames":
        notes = (*notes, *check_tokens([*splits.train, *splits.dev]))
    if (differences := compare_tokens(codec, splits.train)).count:
        notes = (*notes, str(differences))
    notes = (*notes, *note_invisible([*splits.train, *splits.dev]))
    if recipe.training.class_weights == "none" and recipe.task == "classify":
        notes = (*notes, *note_rare(splits.train))
    if not isinstance(splits.dev[0], TaggedSeries):
        notes = (*notes, *_note_few(splits.dev, of_labels=True))
    for example in (*splits.train, *splits.dev):
        _check_input(recipe, codec, example, name)
    return notes


def _note_few(dev: Sequence[Any], *, of_labels: bool = False) -> Iterator[str]:
    """Note few held-out examples. Those with labels can be cross-validated, and each counts the same."""
    if (count := len(dev)) < FEW_HELD_OUT:
        points = f", {100 / count:.0f} points each" if of_labels else ""
        remedy = "cross-validate" if of_labels else "name --dev FILE"
        yield f"only {count} held out for the scores{points}; give more data, or {remedy}"


def _check_input(recipe: Recipe, codec: codecs.Codec, example: SequenceExample, name: str) -> None:
    place = where(example) or name
    try:
        length = codec.encode(inputs_of(example), limit=recipe.max_length).length
    except codecs.InputError as error:
        hint = " (--set codec.features=N takes frames of N numbers)" if recipe.codec.kind == "frames" else ""
        raise DataError(f"{place}: {error}{hint}") from None
    if length > recipe.max_length:
        sentence = isinstance(example, TaggedExample | JointExample)
        hint = " (a blank line ends a sentence in CoNLL)" if sentence else ""
        raise DataError(
            f"{place}: the {'sentence' if sentence else 'input'} has more than {recipe.max_length} steps; split "
            f"it{hint}, or allow more with --set max_length=…"
        )


@dataclass(slots=True)
class LabelUse:
    """How often a label is in the data, and where first."""

    count: int
    place: str


def check_labels(
    task: str, train: Sequence[Any], dev: Sequence[Any], *, name: str = "", answered: Collection[str] = ()
) -> tuple[str, ...]:
    """Return notes about labels. Raises DataError if nothing can be learned from them.

    `name` is that of the data, for problems without a line. `answered` are merged labels, which the model gives
    although no training example has them.
    """
    for example in (*train, *dev):
        if not isinstance(example, EXAMPLE_TYPES[task]):
            wanted = " or ".join(each.__name__ for each in EXAMPLE_TYPES[task])
            raise DataError(
                f"{where(example) or name}: a {type(example).__name__}, but task {task!r} needs {wanted}; choose "
                "other data, or options of the published set that fit the task (docs/reference/data-sets.md)"
            )
    notes: list[str] = []
    for kind in LABEL_KINDS[task]:
        known, held_out = count_labels(kind, train), count_labels(kind, dev)
        if len(known) < 2:
            raise DataError(_single_label(kind, train, next(iter(known))))
        if kind == "label":
            _check_repeated(known, len(train))
        elif are_iob2(known) and set(held_out) == {"O"}:
            notes.append(
                "no development sentence has a span, so the F1 is 0 for every model; hold out more (--set "
                "data.dev_share=0.3), or give development data with spans (--dev FILE)"
            )
        else:
            notes += _note_missing_b((*train, *dev))
        notes += _note_unseen(kind, {*known, *answered}, held_out)
        notes += _note_suspicious(kind, known)
        likely = list(_note_typos(kind, count_labels(kind, (*train, *dev))))
        notes += likely[:MOST_SHOWN]
        if len(likely) > MOST_SHOWN:
            notes.append(f"{len(likely) - MOST_SHOWN} more {kind}s may be typos")
    return tuple(notes)


def count_labels(kind: LabelKind, examples: Iterable[Any]) -> dict[str, LabelUse]:
    """Return every label with its count and first place, in order of appearance."""
    uses: dict[str, LabelUse] = {}
    for example in examples:
        for step, label in enumerate(example.tags) if kind == "tag" else ((None, example.label),):
            if use := uses.get(label):
                use.count += 1
            else:
                uses[label] = LabelUse(1, where(example, step))
    return uses


def _single_label(kind: LabelKind, train: Sequence[Any], label: str) -> str:
    last = train[-1].place
    reach = f" from here to line {last.line}" if last else ""
    option = "--tag-column" if kind == "tag" else "--label"
    return (
        f"{where(train[0])}: every training example{reach} has the {kind} {label!r}; add examples of a second one, or "
        f"choose another column with {option}"
    )


def _check_repeated(known: Mapping[str, LabelUse], count: int) -> None:
    """Refuse labels that hardly repeat. Most of them are regression targets."""
    numbers = all(map(_is_number, known))
    if count < ENOUGH_EXAMPLES or len(known) <= (count // 2 if numbers else count - 1):
        return
    problem = (
        ", all of them numbers. A classifier cannot predict numbers: write a label for each range of numbers"
        if numbers
        else ", and labels that occur once cannot be learned: give labels that repeat"
    )
    place = next(iter(known.values())).place
    raise DataError(
        f"{place}: {len(known)} labels for {count} training examples{problem}, or choose another column with --label"
    )


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True


def _note_unseen(kind: LabelKind, known: Set[str], held_out: Mapping[str, LabelUse]) -> Iterator[str]:
    unseen = sorted(held_out.keys() - known)
    if unseen:
        shown = [
            f"{visible(label)} ({held_out[label].place})" if held_out[label].place else visible(label)
            for label in unseen[:MOST_SHOWN]
        ]
        more = f" and {len(unseen) - MOST_SHOWN} more" if len(unseen) > MOST_SHOWN else ""
        yield f"{kind}s only in the development data, which count as errors: {', '.join(shown)}{more}"


def _note_suspicious(kind: LabelKind, uses: Mapping[str, LabelUse]) -> Iterator[str]:
    """Note labels that may be missing values, or that have quotes."""
    for label, use in uses.items():
        problem = "a missing value; if so, leave these rows out" if label.casefold() in MISSING_VALUES else ""
        if len(label) > 2 and label[0] in QUOTES and label[-1] in QUOTES:
            problem = "quoted by mistake; if so, remove the quotes"
        if problem:
            yield f"{kind} {label!r} ({_times(use)}) may be {problem}"


def _times(use: LabelUse) -> str:
    return ("once" if use.count == 1 else f"{use.count} times, first") + (f" in {use.place}" if use.place else "")


def note_rare(train: Sequence[Any]) -> Iterator[str]:
    """Note labels with few training examples, which a network may never predict."""
    uses = count_labels("label", train)
    limit = len(train) / (RARE * len(uses))
    rare = sorted((use.count, label) for label, use in uses.items() if use.count < limit)
    if rare:
        shown = ", ".join(f"{label!r} ({count:,})" for count, label in rare[:MOST_SHOWN])
        yield (
            f"{len(rare)} of {len(uses)} labels are rare in {len(train):,} training examples: {shown}; if they matter "
            "as much as the others, --set training.class_weights=balanced"
        )


def note_invisible(examples: Iterable[SequenceExample]) -> Iterator[str]:
    """Note inputs and labels with invisible characters, such as a byte order mark between joined files."""
    count, first = 0, ""
    for example in examples:
        inputs = () if isinstance(example, SeriesExample | TaggedSeries) else inputs_of(example)
        texts = [(None, inputs)] if isinstance(inputs, str) else list(enumerate(inputs))
        labels = [*enumerate(tags_of(example)), (None, label_of(example) or "")]
        if "".join(label for _, label in labels).isprintable() and not INVISIBLE.search("".join(inputs)):
            continue
        wrong = [(step, text) for step, text in texts if INVISIBLE.search(text)]
        wrong += [(step, label) for step, label in labels if not label.isprintable()]
        count += len(wrong)
        if not first:
            step, text = wrong[0]
            at = match.start() if (match := INVISIBLE.search(text)) else 0
            place = f" ({where(example, step)})" if example.place else ""
            first = f"{text[max(at - CONTEXT, 0) : at + CONTEXT]!r}{place}"
    if count:
        yield f"{count} tokens, texts or labels with invisible characters, first {first}; remove these"


def _note_missing_b(examples: Iterable[Any]) -> Iterator[str]:
    """Note spans that start with I-, as in IOB1 files."""
    count, first = 0, ""
    for example in examples:
        for step, tag in enumerate(example.tags):
            before = example.tags[step - 1] if step else "O"
            if tag.startswith("I-") and before not in (tag, f"B-{tag[2:]}"):
                place = f" ({where(example, step)})" if example.place else ""
                count, first = count + 1, first or visible(tag) + place
    if count:
        times = "once" if count == 1 else f"{count} times"
        yield f"I- without B- before it, {times}, first {first}: read as the start of a span, as conlleval does"


def _note_typos(kind: LabelKind, uses: Mapping[str, LabelUse]) -> Iterator[str]:
    """Note labels that look like a typo of another one.

    Such a label differs from a more frequent one only in case or spaces, or it occurs once and is one edit from a
    frequent one: a letter added, removed, replaced, or swapped with the next.
    """
    by_count = sorted(uses, key=lambda label: (-uses[label].count, label))
    usual = {_folded(label): label for label in reversed(by_count)}  # the most frequent of each spelling
    frequent = [label for label in by_count if uses[label].count >= FREQUENT]
    for label, use in uses.items():
        other = usual[_folded(label)]
        if other == label and use.count == 1:
            other = next((each for each in frequent if _one_edit_apart(label, each)), label)
        if other != label:
            yield f"{kind} {label!r} ({_times(use)}) may be a typo of {other!r} ({uses[other].count} times)"


def _folded(label: str) -> str:
    return "".join(label.casefold().split())


def _one_edit_apart(a: str, b: str) -> bool:
    """Return whether the Damerau-Levenshtein distance is 1.

    B- and I- of one kind, and labels that differ by a digit, are distinct on purpose.
    """
    if min(len(a), len(b)) < SHORTEST_TYPO or abs(len(a) - len(b)) > 1 or a == b:
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


def check_tokens(sentences: Sequence[TaggedExample | JointExample]) -> tuple[str, ...]:
    """Return notes about tokens. Raises DataError if every token is its position, as the ids of CoNLL-U are."""
    if all(token.isdecimal() for sentence in sentences for token in sentence.tokens):
        if any(_are_positions(sentences, first) for first in (0, 1)):
            raise DataError(
                f"{where(sentences[0])}: from here on every token is its position in the sentence; choose the column "
                "of the words (--token-column 1)"
            )
        return ("all tokens are numbers; if another column has the words, choose it with --token-column",)
    return ()


def _are_positions(sentences: Sequence[TaggedExample | JointExample], first: int) -> bool:
    """Return whether the tokens of each sentence count from `first`. A file of single tokens proves nothing."""
    longest = max(len(sentence.tokens) for sentence in sentences)
    positions = tuple(map(str, range(first, first + longest)))
    return longest > 1 and all(sentence.tokens == positions[: len(sentence.tokens)] for sentence in sentences)
