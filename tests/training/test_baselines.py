"""Baselines on data small enough to predict their scores, and the formula of the n-gram model."""

import math
import random
from itertools import product

import pytest

from tests.support import tiny
from training import metrics
from training.baselines import ORDER, baselines, features, nats_per_character, ngram_probabilities
from training.data.examples import JointExample, LabeledExample, SeriesExample, TaggedExample, TaggedSeries


def tagged(text: str) -> TaggedExample:
    """Return a sentence given as "word/TAG word/TAG" pairs."""
    pairs = [pair.split("/") for pair in text.split()]
    return TaggedExample(tokens=tuple(word for word, _ in pairs), tags=tuple(tag for _, tag in pairs))


def test_tag_baselines_count_tags_of_words() -> None:
    train = [tagged("the/DET run/NOUN"), tagged("run/VERB run/VERB the/DET man/NOUN dog/NOUN cat/NOUN")]
    scores = baselines("tag", train, [tagged("the/DET run/VERB"), tagged("bird/NOUN the/VERB")])
    assert scores == {
        "majority": {"accuracy": 25, "macro_f1": pytest.approx(40 / 3)},
        "most frequent tag of each word": {"accuracy": 75, "macro_f1": pytest.approx(700 / 9)},
    }


def test_frames_are_labeled_by_their_neighbors() -> None:
    """The label of a frame is the sign of the number ten frames before it."""
    draw = random.Random(1)
    numbers = [[draw.choice((-1.0, 1.0)) for _ in range(300)] for _ in range(2)]
    train, dev = (
        TaggedSeries(
            frames=tuple((each,) for each in row[10:]), tags=tuple("up" if each > 0 else "down" for each in row[:-10])
        )
        for row in numbers
    )
    scores = baselines("tag", [train], [dev], codec="frames")
    assert list(scores) == ["majority", "logistic regression over each frame and 10 on either side"]
    assert scores["majority"]["accuracy"] < 70
    assert scores["logistic regression over each frame and 10 on either side"]["accuracy"] > 95


def test_tag_baselines_score_spans() -> None:
    train = [tagged("in/O Paris/B-loc now/O")] * 2
    scores = baselines("tag", train, [tagged("Paris/B-loc in/O in/O Rome/B-loc")])
    assert scores["majority"] == {"f1": 0, "accuracy": 50}
    assert scores["most frequent tag of each word"] == {"f1": pytest.approx(200 / 3), "accuracy": 75}


def test_bag_of_words_learns_from_single_words() -> None:
    train, dev = tiny.labeled(60), tiny.labeled(30, seed=1)
    scores = baselines("classify", train, dev)
    assert list(scores) == ["majority", "logistic regression over a bag of words"]
    assert 30 < scores["majority"]["accuracy"] < 70
    assert scores["logistic regression over a bag of words"] == {"accuracy": 100}
    split_up = [LabeledExample(text=tuple(str(row.text).upper().split()), label=row.label) for row in train]
    assert baselines("classify", split_up, dev)["logistic regression over a bag of words"]["accuracy"] == 100


def test_characters_are_classified_by_n_grams() -> None:
    train = [
        LabeledExample(text=stem + end, label=end) for stem in ("mal", "kor", "bin", "tus") for end in ("ski", "ez")
    ]
    dev = [LabeledExample(text="xyz" + end, label=end) for end in ("ski", "ez")]
    scores = baselines("classify", train, dev, codec="characters")
    assert scores["logistic regression over n-grams of 1 to 4 letters"] == {"accuracy": 100}


def dna(count: int, seed: int, *, ragged: bool) -> list[LabeledExample]:
    """The third base is the label; a ragged one is shifted."""
    draw = random.Random(seed)
    rows = ["".join(draw.choices("ACGT", k=6 + (draw.randrange(3) if ragged else 0))) for _ in range(count)]
    return [LabeledExample(text=row, label=row[2]) for row in rows]


def test_dna_of_one_length_is_classified_by_positions() -> None:
    scores = baselines("classify", dna(100, 0, ragged=False), dna(40, 1, ragged=False), codec="dna")
    assert scores["logistic regression over the base at each position"] == {"accuracy": 100}
    description, _, _ = features(dna(20, 0, ragged=True), dna(9, 1, ragged=True), "dna")
    assert description == "n-grams of 1 to 4 letters"


def test_rare_labels_cause_no_solver_warning() -> None:
    rows = [LabeledExample(text=f"word {i}", label=f"label {i % 20}") for i in range(30)]
    assert baselines("classify", rows, rows)


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_frames_are_classified_in_any_unit(scale: float) -> None:
    draw = random.Random(0)

    def series(label: str) -> SeriesExample:
        spread, steps = {"calm": 0.1, "wild": 2.0}[label] * scale, draw.randint(5, 9)
        return SeriesExample(frames=tuple((draw.gauss(0, spread), draw.gauss(0, 1)) for _ in range(steps)), label=label)

    train, dev = [[series(label) for label in ("calm", "wild") * 10] for _ in range(2)]
    scores = baselines("classify", train, dev, codec="frames")
    assert scores["logistic regression over mean and deviation of each feature"]["accuracy"] >= 90


def test_joint_baselines_combine_tags_and_labels() -> None:
    train = [
        JointExample(tokens=("play", "jazz"), tags=("O", "B-genre"), label="play"),
        JointExample(tokens=("play", "it", "now"), tags=("O", "O", "O"), label="play"),
        JointExample(tokens=("rate", "it"), tags=("O", "O"), label="rate"),
    ]
    dev = [
        JointExample(tokens=("rate", "jazz"), tags=("O", "B-genre"), label="rate"),
        JointExample(tokens=("play", "blues"), tags=("O", "B-genre"), label="play"),
    ]
    scores = baselines("joint", train * 10, dev)
    name = "most frequent tag of each word; logistic regression over a bag of words"
    assert scores["majority"] == {"f1": 0, "accuracy": 50, "exact": 0}
    assert scores[name] == {"f1": pytest.approx(200 / 3), "accuracy": 100, "exact": 50}


def test_language_model_baseline_is_an_n_gram_model() -> None:
    scores = baselines("generate", tiny.TEXT, tiny.TEXT[:200])
    assert scores == {"5-grams of characters": {metrics.NATS: nats_per_character(tiny.TEXT, tiny.TEXT[:200], ORDER)}}


TEXT = "abracadabra, abracadabra! a barbarian bazaar"


def probability(train: str, context: str, character: str, order: int) -> float:
    return ngram_probabilities(train, context + character, order)[-1]


@pytest.mark.parametrize("context", ["", "a", "ab", "bra", "abra", "zzzz", "zab"])
@pytest.mark.parametrize("order", [1, 2, 5])
def test_ngram_probabilities_sum_to_one(context: str, order: int) -> None:
    found = [probability(TEXT, context, letter, order) for letter in sorted(set(TEXT))]
    assert sum(found) == pytest.approx(1)
    assert min(found) > 0


def test_ngram_probabilities_follow_the_formula() -> None:
    # Single characters, counted by the characters before them: a 2, b 1, so D = 1 / (1 + 2).
    assert probability("aabab", "", "b", 2) == pytest.approx((1 - 1 / 3) / 3 + 1 / 3 * 2 / 3 / 2)
    # After a: a 1, b 2; after b: a 1, so D = 2 / (2 + 2).
    assert probability("aabab", "a", "b", 2) == pytest.approx((2 - 0.5) / 3 + 0.5 * 2 / 3 / 3)


def test_longer_ngram_contexts_help_where_the_text_depends_on_them() -> None:
    text = "".join(f"{a}{b}{'even' if (a + b) % 2 == 0 else 'odd'};" for a, b in product(range(10), repeat=2))
    scores = [nats_per_character(text, text[:200], order) for order in (1, 2, 3)]
    assert scores[0] > scores[1] > scores[2]


def test_ngrams_read_unknown_characters_but_do_not_count_them() -> None:
    with_unknown = nats_per_character(TEXT, "b☃ab", 3)
    expected = [probability(TEXT, "", "a", 3), probability(TEXT, "a", "b", 3)]
    assert with_unknown == pytest.approx(-sum(map(math.log, expected)) / 2)
    assert with_unknown != nats_per_character(TEXT, "bab", 3)


@pytest.mark.parametrize(("train", "dev"), [("ab" * 50, "abba"), ("aaaa", "aaa")])
def test_ngrams_need_no_rare_characters(train: str, dev: str) -> None:
    assert math.isfinite(nats_per_character(train, dev, 5))
