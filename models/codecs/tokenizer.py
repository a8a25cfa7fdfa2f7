"""Text to words with their places in the text. `text[start:end]` is the word, whatever the Unicode.

Knows no vocabulary. The expressions are named, never read from a bundle: a bundle cannot bring one that hangs.
"""

import re
from collections.abc import Iterable
from itertools import accumulate, count
from operator import add, sub

# A word is a run of what is neither space nor punctuation: so letters of every script keep their combining
# marks (which Python's \w lacks), and an emoji with its joiners (U+200C, U+200D) stays one word. Signs of Latin-1
# that count as letters or digits (ª ² ½) are left out: whatever str.isalnum accepts must be a letter here.
_PUNCTUATION = (
    r"!-/:-@\[-`{-~\xa1-\xa9\xab-\xb1\xb4\xb6-\xb8\xbb\xbf\u2000-\u200b\u200e-\u206f\u3000-\u303f\uff01-\uff0f"
)
_LETTER = rf"[^\s{_PUNCTUATION}]"
_APOSTROPHE = "['\u2019]"

_WORDS = re.compile(
    rf"""
      (?:https?://|www\.)[^\s<>"]+                   # a link
    | {_LETTER}[\w.+-]{{0,63}}@[\w-]{{1,63}}\.[\w.-]{{0,188}}\w  # an address; bounds keep the search linear
    | \d+(?:[.,:/]\d+)+                              # 10,000  3.14  5:30
    | (?:[A-Za-z]\.){{2,}}                           # U.S.
    | (?:Mr|Mrs|Ms|Dr|St|Jr|Sr|vs|etc|Inc|Co|Corp)\.
    | {_LETTER}+?(?=n{_APOSTROPHE}t\b)                        # do|n't
    | n{_APOSTROPHE}t\b
    | {_APOSTROPHE}(?:s|S|re|ve|ll|d|m)\b                     # it|'s
    | {_LETTER}+
    | \.{{2,}} | -{{2,}} | [!?]{{2,}} | [:;]-?[()DPp]  # ... -- !? :-)
    | \S
    """,
    re.VERBOSE,
)
_WHITESPACE = re.compile(r"\S+")

TOKENIZERS = ("words", "whitespace")


_SPACED_AT_MOST = 8192  # characters; beyond, the limit on words is worth watching from the first word on


def runs(text: str) -> tuple[list[str], list[int], list[int]]:
    """The runs of what is not space, with their starts and ends in characters."""
    spaced = text.split() if len(text) <= _SPACED_AT_MOST else []
    if not spaced or " ".join(spaced) != text:
        found = list(_WHITESPACE.finditer(text))
        return [match.group() for match in found], [match.start() for match in found], [match.end() for match in found]
    # As most texts are: one space between two words, so that their places follow from their lengths.
    lengths = list(map(len, spaced))
    ends = list(map(add, accumulate(lengths), count()))
    return spaced, list(map(sub, ends, lengths)), ends


def tokenize(text: str, kind: str, limit: int | None = None) -> tuple[list[str], list[int], list[int]]:
    """The words of `text` with their starts and ends, in characters; `kind` is a name of TOKENIZERS.

    A word lies in one run of what is not space, and what the run is cut into depends on nothing around it. Stops soon
    after `limit` words: enough to see that a text is too long, without walking through a megabyte.
    """
    if len(text) > _SPACED_AT_MOST:
        spans = ((match.group(), *match.span()) for match in _WHITESPACE.finditer(text))
        return _words(text, spans, kind == "whitespace", limit)
    return _words(text, zip(*runs(text), strict=True), kind == "whitespace", limit)


def _words(
    text: str, runs: Iterable[tuple[str, int, int]], whole: bool, limit: int | None
) -> tuple[list[str], list[int], list[int]]:
    """The words in runs of what is not space; `whole`: every run is one."""
    tokens: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for run, start, end in runs:
        # One character, or letters and digits alone, is never split: most need only this look.
        if whole or len(run) == 1 or run.isalnum():
            tokens.append(run)
            starts.append(start)
            ends.append(end)
        else:
            for part in _WORDS.finditer(text, start, end):
                tokens.append(part.group())
                starts.append(part.start())
                ends.append(part.end())
                if limit is not None and len(tokens) > limit:
                    break
        if limit is not None and len(tokens) > limit:
            break
    return tokens, starts, ends
