"""The language of a text by its trigrams."""

from itertools import pairwise

import pytest

from models.languages import MILLION, detect, profile, trigrams

ENGLISH = "the dog sleeps in the house, and the children are with their mother at the table"
GERMAN = "der hund schläft in dem haus, und die kinder sind mit ihrer mutter am tisch"
PROFILES = {"en": profile([ENGLISH]), "de": profile([GERMAN])}


@pytest.mark.parametrize(
    ("text", "language"),
    [("The children sleep.", "en"), ("Die Kinder schlafen", "de"), ("THE MOTHER", "en"), ("2 Hunde!", "de")],
)
def test_the_most_likely_language_comes_first(text: str, language: str) -> None:
    found = detect(text, PROFILES)
    assert found[0].language == language
    assert all(first.confidence >= second.confidence for first, second in pairwise(found))
    assert 0.2 < found[0].confidence <= 1


def test_a_text_in_another_language_has_a_low_confidence() -> None:
    assert detect("que passa aqui hoje amigos", PROFILES)[0].confidence < 0.2


@pytest.mark.parametrize("text", ["", "123 ☃", "你好"])
def test_nothing_is_known_about_a_text_without_known_letters(text: str) -> None:
    assert [(each.language, each.confidence) for each in detect(text, PROFILES)] == [("en", 0), ("de", 0)]


def test_there_can_be_no_language() -> None:
    assert detect("a", {}) == []


def test_words_are_between_blanks() -> None:
    assert list(trigrams("An ox")) == [" an", "an ", " ox", "ox "]


def test_a_profile_does_not_depend_on_the_order_of_its_texts() -> None:
    first, second = profile(["ab cd", "cd"]), profile(["cd", "cd ab"])
    assert (
        list(first.items())
        == list(second.items())
        == [
            (" cd", round(MILLION / 3)),
            ("cd ", round(MILLION / 3)),
            (" ab", round(MILLION / 6)),
            ("ab ", round(MILLION / 6)),
        ]
    )


def test_a_long_text_underflows_to_no_error() -> None:
    assert detect("the dog " * 10_000, PROFILES)[0].language == "en"
