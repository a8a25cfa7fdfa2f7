"""Recognition of tag schemes, and their conversion to IOB2: O, B-x, and I-x.

Taggers learn, score, and serve spans as IOB2. A file may mark them in another way: BIOES, BILOU, BMES, or IOE, with
other separators, in lower case, or with a few wrong tags. Every decision becomes a note.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from training.data.examples import JointExample, TaggedExample, where

TagScheme = Literal["auto", "io", "none"]
Sentence = TaggedExample | JointExample

# M and W are the I and S of BMES, L and U the E and S of BILOU.
POSITIONS = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S", "W": "S"}
NAMES = (("BILOU", "LU"), ("BMES", "MW"), ("BIOES", "S"), ("IOE", "E"))  # the first one with one of its letters
FORMS = (
    re.compile(r"(?P<position>[BIESLUMW])[-_:](?P<kind>.+)", re.IGNORECASE),
    re.compile(r"(?P<kind>.+)[-_:](?P<position>[BIESLUMW])"),
    re.compile(r"(?P<position>[BIESLUMW])(?P<kind>)"),
)
KIND_OF_BARE_TAGS = "SPAN"
OUTSIDE = ("O", "o", "0", "OUT", "_")
MOST_STRAYS = 0.02  # of the tokens: if more do not fit, the tags mean something else
MOST_SHOWN = 5
KEEP = "keep the tags as they are with --set data.tag_scheme=none"


class ParsedTag(NamedTuple):
    """A position in a span, one of B I E S, and the kind of the span. Both are "" outside of spans."""

    position: str
    kind: str


OUT = ParsedTag("", "")


def are_iob2(tags: Iterable[str]) -> bool:
    """Return whether tags are B-x, I-x and usually O. If every token is in a span, there is no O."""
    kinds = set(tags) - {"O"}
    return bool(kinds) and all(tag[:2] in ("B-", "I-") and tag[2:] not in ("", "O") for tag in kinds)


def convert(parts: Sequence[Sequence[Sentence]], scheme: TagScheme) -> tuple[list[Sequence[Sentence]], tuple[str, ...]]:
    """Return the parts of a data set under IOB2 tags, with notes. Tags of another meaning stay as they are.

    "auto" recognizes the scheme by the tags of all parts. "io" makes a span of each run of equal tags that are not O.
    "none" changes nothing.
    """
    counts = Counter(tag for part in parts for example in part for tag in example.tags)
    if scheme == "none" or are_iob2(counts):
        return list(parts), ()
    if scheme == "io":
        return _under(parts, {tag: OUT if tag == "O" else ParsedTag("I", tag) for tag in counts}), ()
    recognized = next(filter(None, (_parse(counts, form) for form in FORMS)), None)
    if recognized is None:
        return list(parts), tuple(_explain_labels(parts, counts))
    letters, parsed = recognized
    strays = [tag for tag in counts if tag not in parsed]
    notes = [_explain_scheme(letters, parsed)] if not are_iob2(parsed) else []
    kinds = {tag.kind.casefold(): tag.kind for tag in parsed.values() if tag.kind}
    for tag in strays:
        kind = kinds.get(tag.casefold(), "")
        parsed[tag] = ParsedTag("I", kind) if kind else OUT
        notes.append(f"{_first(parts, tag, counts)} is not a tag like the others; read as {kind or 'O'}; correct it")
    if len(strays) > MOST_SHOWN:
        notes[-len(strays) + MOST_SHOWN :] = [f"{len(strays) - MOST_SHOWN} more tags are not like the others"]
    return _under(parts, parsed), tuple(notes)


def _parse(counts: Counter[str], form: re.Pattern[str]) -> tuple[set[str], dict[str, ParsedTag]] | None:
    """Return the letters of the positions in use and the tags that have this form; None if too few tags have it."""
    like = {tag: match for tag in counts if tag not in OUTSIDE and (match := form.fullmatch(tag))}
    matches = {tag: match for tag, match in like.items() if match["kind"] != "O"}  # B-O is a slip for O
    unlike = [tag for tag in counts if tag not in matches]
    few = max(1, MOST_STRAYS * counts.total())
    outside = next((tag for tag in OUTSIDE if tag in unlike), None)
    if outside is None and len(unlike) == 1 and counts[unlike[0]] > few:
        (outside,) = unlike
    kinds = {match["kind"].casefold() for match in matches.values()}
    if not matches or sum(counts[tag] for tag in unlike if tag != outside and tag.casefold() not in kinds) > few:
        return None
    letters = {match["position"].upper() for match in matches.values()}
    if form is FORMS[-1] and not ("B" in letters and letters & {"I", "M"}):
        return None  # single letters have many meanings: E and I are exons and introns
    parsed = {
        tag: ParsedTag(POSITIONS[match["position"].upper()], match["kind"] or KIND_OF_BARE_TAGS)
        for tag, match in matches.items()
    }
    return letters, parsed if outside is None else parsed | {outside: OUT}


def parse_iob(tag: str) -> ParsedTag:
    """Parse O, B-x or I-x."""
    return OUT if tag == "O" else ParsedTag(tag[0], tag[2:])


def to_iob2(tags: Iterable[ParsedTag]) -> tuple[str, ...]:
    """Return IOB2 tags. As in conlleval, a span also starts after E or S, after another kind, and after no span."""
    found: list[str] = []
    before = OUT
    for tag in tags:
        starts = tag.position in ("B", "S") or before.position in ("", "E", "S") or tag.kind != before.kind
        found.append("O" if tag == OUT else f"{'B' if starts else 'I'}-{tag.kind}")
        before = tag
    return tuple(found)


def rename_kinds(examples: Sequence[TaggedExample], kinds: Mapping[str, str]) -> list[TaggedExample]:
    """Return the examples with other names of the kinds of spans. A span of a kind without a name becomes O."""

    def renamed(tag: str) -> ParsedTag:
        position, kind = parse_iob(tag)
        return ParsedTag(position, kinds[kind]) if kind in kinds else OUT

    return [replace(example, tags=to_iob2(map(renamed, example.tags))) for example in examples]


def _under(parts: Sequence[Sequence[Sentence]], parsed: dict[str, ParsedTag]) -> list[Sequence[Sentence]]:
    return [
        [replace(example, tags=to_iob2([parsed[tag] for tag in example.tags])) for example in part] for part in parts
    ]


def _explain_scheme(letters: Collection[str], parsed: dict[str, ParsedTag]) -> str:
    name = next((name for name, own in NAMES if letters & set(own)), "IOB in another spelling")
    name = "BIOES" if name == "IOE" and "B" in letters else name
    inside = {"I": "I", "E": "I"}
    changed = [(tag, f"{inside.get(each.position, 'B')}-{each.kind}") for tag, each in parsed.items() if each != OUT]
    example = next((f": {old!r} becomes {new!r}" for old, new in changed if old != new), "")
    return f"the tags are {name}, converted to IOB2{example}. Answers have spans, or IOB2 tags; {KEEP}"


def _explain_labels(parts: Sequence[Sequence[Sentence]], counts: Counter[str]) -> Iterator[str]:
    """Yield a note if tags look like spans but are scored one by one."""
    like = [tag for tag in counts if FORMS[0].fullmatch(tag)]
    unlike = [tag for tag in counts if tag not in like and tag not in OUTSIDE]
    if any(tag[0] in "Bb" for tag in like) and unlike:
        yield (
            f"{_first(parts, max(unlike, key=counts.__getitem__), counts)} is not O, B-x or I-x, so tags are scored "
            "one by one and not merged to spans; write B-x for the first token of a span and I-x for the others"
        )
    elif counts["O"] * 2 > counts.total():
        yield (
            "the tags have no B- and I-, so they are scored one by one and not merged to spans; make a span of each "
            "run of equal tags with --set data.tag_scheme=io"
        )


def _first(parts: Sequence[Sequence[Sentence]], tag: str, counts: Counter[str]) -> str:
    example, step = next(
        (example, example.tags.index(tag)) for part in parts for example in part if tag in example.tags
    )
    times = "once" if counts[tag] == 1 else f"{counts[tag]} times, first"
    place = where(example, step)
    return f"tag {tag!r} ({times}{f' in {place}' if place else ''})"
