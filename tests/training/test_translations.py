"""Scores and baselines of translations."""

import pytest

from training import translations
from training.data.examples import PairExample

PAIRS = [
    PairExample(source="a dog sleeps .", target="ein Hund schläft ."),
    PairExample(source="a cat sleeps .", target="eine Katze schläft ."),
    PairExample(source="a dog runs .", target="ein Hund rennt ."),
    PairExample(source="the cat runs .", target="die Katze rennt ."),
    PairExample(source="the dog .", target="der Hund ."),
]


def test_equal_texts_have_full_scores() -> None:
    texts = ["Ein Hund schläft im Schnee.", "Zwei Kinder spielen im Park."]
    assert translations.score(texts, texts) == pytest.approx({"bleu": 100, "chrf": 100})
    assert translations.score(texts, texts[::-1])["bleu"] < 10


def test_case_counts() -> None:
    scores = translations.score(["ein hund schläft im schnee."], ["Ein Hund schläft im Schnee."])
    assert scores["bleu"] < 30


def test_equal_short_texts_have_full_scores() -> None:
    texts = ["a red circle", "a square"]
    assert translations.score(texts, texts) == pytest.approx({"bleu": 100, "chrf": 100})


def test_signatures_name_tokenizer_and_case() -> None:
    found = translations.signatures(["Ein Hund schläft im Schnee."])
    assert {"case:mixed", "tok:13a", "nrefs:1"} <= set(found["bleu"].split("|"))
    assert "nrefs:1" in found["chrf"]


def test_words_are_linked_by_their_neighbors() -> None:
    words = translations.WordTranslations(PAIRS)
    assert words.translate("dog cat sleeps runs") == "Hund Katze schläft rennt"


def test_unknown_words_stay_and_signs_join_the_word_before() -> None:
    words = translations.WordTranslations(PAIRS)
    assert words.translate("Rex runs.") == "Rex rennt."
    assert words.translate("") == ""


def test_baselines_of_texts_and_of_frames() -> None:
    found = translations.baselines(PAIRS, PAIRS)
    assert found[translations.WORD_BY_WORD]["bleu"] > found[translations.COPY]["bleu"]
    frames = [PairExample(source=((1.0, 2.0),), target=text) for text in ("a red circle", "a circle", "a circle")]
    assert set(translations.baselines(frames, frames)) == {translations.FREQUENT}
