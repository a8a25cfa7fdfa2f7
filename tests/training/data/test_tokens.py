"""What tokens say of a tagged file: ids instead of words, numbers, spaces."""

import pytest

from training.data import tokens
from training.data.examples import DataError, FileLocation, TaggedExample


def sentence(*words: str) -> TaggedExample:
    return TaggedExample(
        tokens=words, tags=("O",) * len(words), place=FileLocation("a.tsv", 3, range(3, 3 + len(words)))
    )


@pytest.mark.parametrize("first", [0, 1])
def test_tokens_that_number_themselves_are_refused(first: int) -> None:
    numbered = [sentence(*map(str, range(first, last))) for last in (4, 3, 6)]
    with pytest.raises(DataError, match=r"a.tsv, line 3: .* say which column has the words \(fit: --token-column 1\)"):
        tokens.check(numbered)


@pytest.mark.parametrize("numbers", [[sentence("1"), sentence("1")], [sentence("1", "2"), sentence("1", "3")]])
def test_other_numbers_are_noted(numbers: list[TaggedExample]) -> None:
    (note,) = tokens.check(numbers)
    assert note.endswith("say which with --token-column")


def test_numbers_among_words_are_nothing_to_note() -> None:
    assert tokens.check([sentence("1", "2"), sentence("chapter", "2")]) == ()


def test_tokens_with_spaces_are_counted_and_the_first_is_shown() -> None:
    (note,) = tokens.check([sentence("in", "New York"), sentence("10 000", "people")])
    assert note.startswith("2 tokens hold a space, the first 'New York' in a.tsv, line 4: each is one token here, but")
