"""What the tokens of tagged sentences say of a file: that another column has the words, or that tokens hold spaces.

Knows examples and where they came from. Knows no format.
"""

from collections.abc import Iterator, Sequence

from training.data.examples import DataError, JointExample, TaggedExample, where

Sentence = TaggedExample | JointExample


def check(sentences: Sequence[Sentence]) -> tuple[str, ...]:
    """What the user should know; DataError where every token is its place in its sentence, as the ids of CoNLL are."""
    if all(token.isdecimal() for sentence in sentences for token in sentence.tokens):
        if any(_are_places(sentences, first) for first in (0, 1)):
            raise DataError(
                f"{where(sentences[0])}: from here on every token is its number in its sentence: say which column has "
                "the words (fit: --token-column 1)"
            )
        return ("the tokens are all numbers: if another column has the words, say which with --token-column",)
    return tuple(_with_spaces(sentences))


def _are_places(sentences: Sequence[Sentence], first: int) -> bool:
    """Whether the tokens of each sentence count from `first`. A file of single tokens shows nothing."""
    longest = max(len(sentence.tokens) for sentence in sentences)
    places = tuple(map(str, range(first, first + longest)))
    return longest > 1 and all(sentence.tokens == places[: len(sentence.tokens)] for sentence in sentences)


def _with_spaces(sentences: Sequence[Sentence]) -> Iterator[str]:
    found = [(s, step) for s in sentences for step, token in enumerate(s.tokens) if " " in token]
    if found:
        sentence, step = found[0]
        place = f" in {where(sentence, step)}" if sentence.place else ""
        yield (
            f"{len(found)} tokens hold a space, the first {sentence.tokens[step]!r}{place}: each is one token here, "
            "but a text that is sent to the service is cut at spaces (a list of tokens is not)"
        )
