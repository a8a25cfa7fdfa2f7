"""The n-gram model of characters: a distribution, the numbers of its formula, and what it cannot know."""

import math
from itertools import product

import numpy as np
import pytest

from training.ngrams import nats_per_character, probabilities

TRAIN = "abracadabra, abracadabra! a barbarian bazaar"


def given(train: str, context: str, character: str, order: int) -> float:
    letters = sorted(set(train))
    text = np.array([letters.index(letter) for letter in context + character])
    seen = np.array([letters.index(letter) for letter in train])
    return float(probabilities(seen, text, len(letters), order)[-1])


@pytest.mark.parametrize("context", ["", "a", "ab", "bra", "abra", "zzzz", "zab"])
@pytest.mark.parametrize("order", [1, 2, 5])
def test_the_probabilities_after_any_context_sum_to_one(context: str, order: int) -> None:
    found = [given(TRAIN, context, letter, order) for letter in sorted(set(TRAIN))]
    assert sum(found) == pytest.approx(1)
    assert min(found) > 0


def test_the_numbers_are_those_of_the_formula() -> None:
    # Of single characters, counted by what stands before them: a 2, b 1, so D = 1 / (1 + 2).
    assert given("aabab", "", "b", 2) == pytest.approx((1 - 1 / 3) / 3 + 1 / 3 * 2 / 3 / 2)
    # After a: a 1, b 2; after b: a 1, so D = 2 / (2 + 2).
    assert given("aabab", "a", "b", 2) == pytest.approx((2 - 0.5) / 3 + 0.5 * 2 / 3 / 3)


def test_longer_contexts_help_where_the_text_depends_on_them() -> None:
    text = "".join(f"{a}{b}{'even' if (a + b) % 2 == 0 else 'odd'};" for a, b in product(range(10), repeat=2))
    scores = [nats_per_character(text, text[:200], order) for order in (1, 2, 3)]
    assert scores[0] > scores[1] > scores[2]


def test_characters_that_training_never_saw_are_read_but_not_counted() -> None:
    known = nats_per_character(TRAIN, "bab", 3)
    two_alone = nats_per_character(TRAIN, "b☃ab", 3)
    assert math.isfinite(two_alone)
    letters = [given(TRAIN, "", "a", 3), given(TRAIN, "a", "b", 3)]
    assert two_alone == pytest.approx(-sum(map(math.log, letters)) / 2)
    assert known != two_alone


def test_a_text_without_rare_characters_leaves_all_possible() -> None:
    assert math.isfinite(nats_per_character("ab" * 50, "abba", 5))
    assert math.isfinite(nats_per_character("aaaa", "aaa", 5))
