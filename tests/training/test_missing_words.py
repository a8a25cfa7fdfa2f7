"""Scores of filled gaps, and the baselines next to them."""

import numpy as np
import pytest

from models.codecs.words import WordsCodec
from models.manifest import WordsSpec
from training import metrics
from training.missing_words import FREQUENCIES, TRIGRAM, Gaps, GapScores, baselines, without_last_word

CODEC = WordsCodec(WordsSpec(lowercase=True), ("a", "dog", "cat", "runs", "sleeps", "."))


def gaps(*rows: int) -> Gaps:
    return Gaps(steps=np.arange(len(rows), dtype=np.int32), rows=np.array(rows, np.int32))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A man on a couch.", "A man on a [MASK]."),
        ("A truck", "A [MASK]"),
        ('He said "go!" ...', 'He said "[MASK]!" ...'),
        ("Room 12 )", "Room [MASK] )"),
        ("...", None),
        ("", None),
    ],
)
def test_the_last_word_is_before_the_punctuation(text: str, expected: str | None) -> None:
    assert without_last_word(text, "words") == expected


def test_punctuation_is_no_gap() -> None:
    item = CODEC.encode("A dog, a cat .")
    assert Gaps.of(item.tokens, item.rows).steps.tolist() == [0, 1, 3, 4]


def test_shares_count_all_gaps_and_the_last_of_each_text() -> None:
    scores = GapScores()
    scores.add(gaps(2, 3), [0, 4], [0.0, 0.0])
    scores.add(gaps(2, 3), [5, 0], [0.0, 0.0])
    assert scores.scores() == {
        metrics.TOP1: 50.0,
        metrics.TOP5: 75.0,
        metrics.LAST_TOP1: 50.0,
        metrics.LAST_TOP5: 100.0,
        metrics.PERPLEXITY: 1.0,
    }


def test_a_word_without_a_row_is_wrong_and_not_in_the_perplexity() -> None:
    scores = GapScores()
    scores.add(gaps(1, 2), [0, 0], [9.0, float(np.log(4))])
    found = scores.scores()
    assert (found[metrics.TOP1], found[metrics.PERPLEXITY]) == (50.0, pytest.approx(4.0))


def test_trigrams_use_the_words_before_a_gap() -> None:
    train = [CODEC.encode(text) for text in ["a dog runs ."] * 3 + ["a cat sleeps ."] * 2]
    dev = [CODEC.encode("a cat sleeps .")]
    found = baselines(train, dev, CODEC.table_rows)
    assert found[TRIGRAM][metrics.LAST_TOP1] == 100.0
    assert found[FREQUENCIES][metrics.LAST_TOP1] == 0.0
    assert found[FREQUENCIES][metrics.TOP1] == pytest.approx(100 / 3)


def test_trigrams_back_off_to_words_that_never_followed() -> None:
    train = [CODEC.encode(text) for text in ["a dog runs .", "a cat sleeps ."]]
    (scores,) = [baselines(train, [CODEC.encode("dog sleeps")], CODEC.table_rows)[TRIGRAM]]
    assert np.isfinite(scores[metrics.PERPLEXITY])
    assert scores[metrics.PERPLEXITY] > 1


def test_unknown_words_have_no_share_in_the_perplexity_of_a_baseline() -> None:
    train = [CODEC.encode(text) for text in ["a dog", "a bird"]]
    scores = baselines(train, [CODEC.encode("a dog")], CODEC.table_rows)[FREQUENCIES]
    a, dog = 2 / 3, 0.475 / (0.475 + 0.05)  # of the last words, 0.1 is spread over all words
    assert scores[metrics.PERPLEXITY] == pytest.approx((a * dog) ** -0.5)
