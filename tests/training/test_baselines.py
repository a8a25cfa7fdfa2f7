"""Baselines: what they predict, on data small enough to see it, in the units of a network's scores."""

import random

import pytest

from tests.support import tiny
from training import metrics
from training.baselines import ORDER, baselines, features
from training.data.examples import JointExample, LabeledExample, SeriesExample, TaggedExample
from training.ngrams import nats_per_character


def tagged(text: str) -> TaggedExample:
    """ "word/TAG word/TAG" """
    pairs = [pair.split("/") for pair in text.split()]
    return TaggedExample(tokens=tuple(word for word, _ in pairs), tags=tuple(tag for _, tag in pairs))


def test_tags_are_those_that_a_word_has_most_often_else_the_most_frequent() -> None:
    train = [tagged("the/DET run/NOUN"), tagged("run/VERB run/VERB the/DET man/NOUN dog/NOUN cat/NOUN")]
    scores = baselines("tag", train, [tagged("the/DET run/VERB"), tagged("bird/NOUN the/VERB")])
    assert scores == {
        "majority": {"accuracy": 25},
        "most frequent tag of each word": {"accuracy": 75},
    }


def test_tags_that_are_spans_are_scored_as_spans_too() -> None:
    train = [tagged("in/O Paris/B-loc now/O")] * 2
    scores = baselines("tag", train, [tagged("Paris/B-loc in/O in/O Rome/B-loc")])
    assert scores["majority"] == {"f1": 0, "accuracy": 50}
    assert scores["most frequent tag of each word"] == {"f1": pytest.approx(200 / 3), "accuracy": 75}


def test_a_bag_of_words_finds_what_single_words_tell() -> None:
    train, dev = tiny.labelled(60), tiny.labelled(30, seed=1)
    scores = baselines("classify", train, dev)
    assert list(scores) == ["majority", "logistic regression over a bag of words"]
    assert 30 < scores["majority"]["accuracy"] < 70
    assert scores["logistic regression over a bag of words"] == {"accuracy": 100}
    split_up = [LabeledExample(text=tuple(str(row.text).upper().split()), label=row.label) for row in train]
    assert baselines("classify", split_up, dev)["logistic regression over a bag of words"]["accuracy"] == 100


def test_characters_are_a_bag_of_their_n_grams() -> None:
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


def test_dna_of_one_length_is_told_by_its_places_and_other_dna_by_its_n_grams() -> None:
    scores = baselines("classify", dna(100, 0, ragged=False), dna(40, 1, ragged=False), codec="dna")
    assert scores["logistic regression over the base at each place"] == {"accuracy": 100}
    of, _, _ = features(dna(20, 0, ragged=True), dna(9, 1, ragged=True), "dna")
    assert of == "n-grams of 1 to 4 letters"


def test_labels_that_seldom_come_again_bring_no_warning_of_the_solver() -> None:
    rows = [LabeledExample(text=f"word {i}", label=f"label {i % 20}") for i in range(30)]
    assert baselines("classify", rows, rows)


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_frames_are_told_by_mean_and_deviation_in_any_unit(scale: float) -> None:
    draw = random.Random(0)

    def series(label: str) -> SeriesExample:
        spread, steps = {"calm": 0.1, "wild": 2.0}[label] * scale, draw.randint(5, 9)
        return SeriesExample(frames=tuple((draw.gauss(0, spread), draw.gauss(0, 1)) for _ in range(steps)), label=label)

    train, dev = [[series(label) for label in ("calm", "wild") * 10] for _ in range(2)]
    scores = baselines("classify", train, dev, codec="frames")
    assert scores["logistic regression over mean and deviation of each feature"]["accuracy"] >= 90


def test_joint_examples_get_both_with_the_scores_of_a_network() -> None:
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


def test_a_language_model_has_to_beat_n_grams() -> None:
    scores = baselines("generate", tiny.TEXT, tiny.TEXT[:200])
    assert scores == {"5-grams of characters": {metrics.NATS: nats_per_character(tiny.TEXT, tiny.TEXT[:200], ORDER)}}
