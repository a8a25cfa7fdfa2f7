"""Scores from labels: as scikit-learn, conlleval and the served code count them."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from models.tasks.tag import find_spans
from training import metrics
from training.metrics import ExampleLabels

EXPECTED = list("aaaabbbccd")
PREDICTED = list("aaabbbacce")
TAGS = ("O", "B-loc", "I-loc", "B-per", "I-per", "B-art-work", "I-art-work")

sentences = st.lists(st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS)), min_size=1), min_size=1)


def test_label_reports_have_every_expected_or_predicted_label() -> None:
    rows = {row.label: row for row in metrics.label_reports(EXPECTED, PREDICTED)}
    assert list(rows) == ["a", "b", "c", "d", "e"]
    assert (rows["a"].precision, rows["a"].recall, rows["a"].f1, rows["a"].support) == (75, 75, 75, 4)
    assert rows["b"].precision == rows["b"].recall == pytest.approx(200 / 3)
    assert (rows["c"].f1, rows["d"].f1, rows["e"].f1) == (100, 0, 0)
    assert (rows["d"].support, rows["e"].support) == (1, 0)
    assert metrics.accuracy(EXPECTED, PREDICTED) == 70


@given(sentences)
def test_span_scores_count_the_spans_that_the_served_code_finds(pairs: list[list[tuple[str, str]]]) -> None:
    expected = [[e for e, _ in sentence] for sentence in pairs]
    predicted = [[p for _, p in sentence] for sentence in pairs]
    right, wanted, given_ = Counter[str](), Counter[str](), Counter[str]()
    for e, p in zip(expected, predicted, strict=True):
        right.update(kind for kind, _, _ in set(find_spans(e)) & set(find_spans(p)))
        wanted.update(kind for kind, _, _ in find_spans(e))
        given_.update(kind for kind, _, _ in find_spans(p))
    total = wanted.total() + given_.total()
    assert metrics.span_f1(expected, predicted) == pytest.approx(200 * right.total() / max(total, 1))
    rows = metrics.span_reports(expected, predicted)
    assert [row.label for row in rows] == sorted(wanted | given_)
    for row in rows:
        kind = row.label
        assert row.support == wanted[kind]
        assert row.precision == pytest.approx(100 * right[kind] / max(given_[kind], 1))
        assert row.recall == pytest.approx(100 * right[kind] / max(wanted[kind], 1))
        assert row.f1 == pytest.approx(200 * right[kind] / max(wanted[kind] + given_[kind], 1))


def test_span_is_right_only_with_its_kind_and_both_ends() -> None:
    expected = [["B-per", "I-per", "O", "B-loc"], ["B-loc", "O"]]
    predicted = [["B-per", "I-per", "O", "B-per"], ["B-loc", "I-loc"]]
    # conlleval: 3 phrases, 3 found, 1 correct
    assert metrics.span_f1(expected, predicted) == pytest.approx(100 / 3)


def test_i_without_b_opens_a_span() -> None:
    assert metrics.span_f1([["O", "B-per", "I-per", "B-loc"]], [["O", "I-per", "I-per", "I-loc"]]) == 100


def test_no_spans_score_zero_and_have_no_reports() -> None:
    assert metrics.span_f1([["O", "O"]], [["O", "O"]]) == 0
    assert metrics.span_reports([["O", "O"]], [["O", "O"]]) == []
    assert metrics.span_reports([["NOUN", "VERB"]], [["NOUN", "NOUN"]]) == []


def test_joint_scores_have_exact_matches() -> None:
    expected = [ExampleLabels(steps=("O", "B-x"), text="a"), ExampleLabels(steps=("O",), text="b")]
    predicted = [ExampleLabels(steps=("O", "B-x"), text="b"), ExampleLabels(steps=("O",), text="b")]
    assert metrics.score_labels("joint", ("B-x", "O"), expected, predicted) == {"f1": 100, "accuracy": 50, "exact": 50}


def test_confusion_of_a_single_label_counts_it() -> None:
    assert metrics.confusion(["a", "a"], ["a", "a"]).counts.tolist() == [[2]]


def test_confusion_counts_pairs() -> None:
    matrix = metrics.confusion(EXPECTED, PREDICTED)
    assert matrix.labels == ("a", "b", "c", "d", "e")
    assert matrix.counts[0].tolist() == [3, 1, 0, 0, 0]
    assert matrix.counts[3].tolist() == [0, 0, 0, 0, 1]


def test_large_confusion_keeps_the_most_confused_labels_and_every_count() -> None:
    many = [f"l{number:02}" for number in range(72)]
    expected = [*many, "l40", "l40", "l41"]
    predicted = [*many, "l41", "l41", "l03"]
    matrix = metrics.confusion(expected, predicted, most=4)
    assert matrix.labels == ("l03", "l40", "l41", "69 others")
    assert matrix.counts.tolist() == [[1, 0, 0, 0], [0, 1, 2, 0], [1, 0, 1, 0], [0, 0, 0, 69]]


def test_variant_may_lose_a_little() -> None:
    assert metrics.loses_little("accuracy", 90, 89.7)
    assert not metrics.loses_little("accuracy", 90, 89.6)
    assert metrics.loses_little("nats_per_character", 1.5, 1.51)
    assert not metrics.loses_little("nats_per_character", 1.5, 1.5101)
    assert not metrics.loses_little("nats_per_character", 1.5, float("inf"))


def labeled(right: int, wrong: int) -> tuple[list[ExampleLabels], list[ExampleLabels]]:
    answers = ["a"] * right + ["b"] * wrong
    return [ExampleLabels(text="a")] * len(answers), [ExampleLabels(text=answer) for answer in answers]


@pytest.mark.parametrize(("right", "wrong"), [(12, 0), (95, 5), (1, 9), (0, 7)])
def test_interval_of_an_accuracy_is_wilson_s(right: int, wrong: int) -> None:
    found = binomtest(right, right + wrong).proportion_ci(method="wilson")
    interval = metrics.interval("accuracy", *labeled(right, wrong))
    assert interval == pytest.approx((100 * found.low, 100 * found.high), abs=0.01)


@pytest.mark.parametrize("metric", ["accuracy", "f1"])
def test_interval_is_not_narrower_for_equal_steps_of_one_example(metric: str) -> None:
    def interval(steps: int) -> tuple[float, float] | None:
        return metrics.interval(
            metric,
            [ExampleLabels(steps=("B-a",) * steps)] * 50,
            [ExampleLabels(steps=(("B-a" if number else "B-b"),) * steps) for number in range(50)],
        )

    assert interval(20) == pytest.approx(interval(1))


def test_only_shares_have_an_interval() -> None:
    assert metrics.interval(metrics.NATS, *labeled(3, 1)) is None
    assert metrics.interval("accuracy", [], []) is None
