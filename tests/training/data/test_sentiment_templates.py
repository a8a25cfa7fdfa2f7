"""Sentences from templates: negation turns the label, and given sentences are left out."""

from models.codecs.words import tokenize
from training.data.sentiment_templates import make_sentences

SENTENCES = {" ".join(words): label for label, words in make_sentences(60_000, seed=0)}


def test_negation_moves_the_label_to_the_other_side() -> None:
    assert [SENTENCES[text] for text in ("not great", "never dull", "hardly fantastic")] == [1, 3, 1]
    negated = {text: label for text, label in SENTENCES.items() if text.startswith("i do n't ")}
    assert all((label == 1) != any(word in text for word in ("hate", "despise", "detest", "dislike", "regret"))
               for text, label in negated.items() if "think" not in text)  # fmt: skip


def test_common_phrases_have_the_label_of_their_meaning() -> None:
    texts = ("worth seeing", "not worth seeing", "could n't be nicer", "could n't be worse")
    assert [SENTENCES[text] for text in texts] == [3, 1, 4, 0]


def test_article_fits_the_next_word() -> None:
    assert not [text for text in SENTENCES if " a amazing" in text or " an useful" in text]
    assert [text for text in SENTENCES if " an amazing" in text]


def test_same_seed_gives_the_same_sentences_and_some_are_left_out() -> None:
    first, *_ = made = make_sentences(50, seed=3)
    assert make_sentences(50, seed=3) == made != make_sentences(50, seed=4)
    assert make_sentences(50, seed=3, without=[first[1]]) == made[1:]


def test_sentences_are_tokenized_like_texts() -> None:
    texts = [" ".join(words).replace(" n't", "n't") for _, words in make_sentences(300, seed=1)]
    assert [tokenize(text, "words")[0] for text in texts] == [list(words) for _, words in make_sentences(300, seed=1)]
