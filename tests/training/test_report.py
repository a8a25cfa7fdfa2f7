"""Scores from labels: equal to scikit-learn's and to the spans that the served code reads."""

import itertools
import random
from pathlib import Path

import pytest
from matplotlib.image import imread
from sklearn.metrics import precision_recall_fscore_support

from models.tasks.tag import Tagging, TagRow, find_spans
from training import report

EXPECTED = list("aaaabbbccd")
FOUND = list("aaabbbacce")
TAGS = ("O", "B-loc", "I-loc", "B-per", "I-per", "I-")


def drawn(count: int, labels: tuple[str, ...], seed: int) -> list[str]:
    draw = random.Random(seed)
    return [draw.choice(labels) for _ in range(count)]


def test_the_table_by_label_is_that_of_scikit_learn() -> None:
    rows = report.per_label(EXPECTED, FOUND)
    labels = sorted({*EXPECTED, *FOUND})
    theirs = precision_recall_fscore_support(EXPECTED, FOUND, labels=labels, zero_division=0)
    assert [row.label for row in rows] == labels
    for row, precision, recall, f1, support in zip(rows, *theirs, strict=True):
        assert (row.precision, row.recall, row.f1) == pytest.approx((100 * precision, 100 * recall, 100 * f1))
        assert row.support == support


def test_macro_f1_gives_every_label_the_same_weight_and_accuracy_every_step() -> None:
    theirs = precision_recall_fscore_support(EXPECTED, FOUND, average="macro", zero_division=0)[2]
    assert report.macro_f1(EXPECTED, FOUND) == pytest.approx(100 * theirs)
    assert report.accuracy(EXPECTED, FOUND) == 70


@pytest.mark.parametrize("seed", range(5))
def test_spans_are_read_as_the_served_code_reads_them(seed: int) -> None:
    labels = drawn(200, TAGS, seed)
    tagging = Tagging(None, TAGS, "iob2")  # type: ignore[arg-type]  # spans ask no codec
    served = tagging.spans(TagRow([TAGS.index(label) for label in labels], [1.0] * len(labels)))
    assert find_spans(labels) == [span[:3] for span in served]


def test_an_i_without_a_beginning_opens_a_span_and_a_change_of_kind_another() -> None:
    labels = ["O", "I-per", "I-per", "I-loc", "B-loc", "I-loc", "O"]
    assert find_spans(labels) == [("per", 1, 3), ("loc", 3, 4), ("loc", 4, 6)]


def test_a_span_counts_only_where_kind_and_both_ends_are_right() -> None:
    expected = [["B-per", "I-per", "O", "B-loc"], ["B-loc", "O"]]
    found = [["B-per", "I-per", "O", "B-per"], ["B-loc", "I-loc"]]
    # conlleval of these: 3 phrases, found 3, correct 1
    assert report.span_f1(expected, found) == pytest.approx(100 / 3)
    rows = {row.label: row for row in report.per_kind(expected, found)}
    assert (rows["per"].precision, rows["per"].recall, rows["per"].support) == (50, 100, 1)
    assert (rows["loc"].precision, rows["loc"].recall, rows["loc"].support) == (0, 0, 2)


def test_no_span_at_all_scores_nothing() -> None:
    assert report.span_f1([["O", "O"]], [["O", "O"]]) == 0


def test_a_confusion_says_what_was_taken_for_what() -> None:
    matrix = report.confusion(EXPECTED, FOUND)
    assert matrix.labels == ("a", "b", "c", "d", "e")
    assert matrix.counts[0].tolist() == [3, 1, 0, 0, 0]
    assert matrix.counts[3].tolist() == [0, 0, 0, 0, 1]


def test_of_many_labels_the_most_confused_are_kept_and_no_count_is_lost() -> None:
    many = [f"l{number:02}" for number in range(72)]
    expected = [*many, "l40", "l40", "l41"]
    found = [*many, "l41", "l41", "l03"]
    matrix = report.confusion(expected, found, most=4)
    assert matrix.labels == ("l03", "l40", "l41", "69 others")
    assert matrix.counts.tolist() == [[1, 0, 0, 0], [0, 1, 2, 0], [1, 0, 1, 0], [0, 0, 0, 69]]


@pytest.mark.parametrize("count", [2, 72])
def test_a_confusion_is_drawn_whatever_the_labels_are_called(tmp_path: Path, count: int) -> None:
    odd = ["$x_$", "快乐", "B-" + "long" * 20, *(f"label {number}" for number in range(count))][:count]
    expected = list(itertools.islice(itertools.cycle(odd), 3 * count))
    report.draw(report.confusion(expected, expected[::-1]), tmp_path / "confusion.png", "a $ title $")
    picture = imread(tmp_path / "confusion.png")
    assert 300 < picture.shape[0] < 1500
    assert picture.std() > 0.01
