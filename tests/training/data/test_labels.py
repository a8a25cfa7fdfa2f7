"""What labels say of the data: nothing to learn, unseen ones and likely typos, each with its line."""

import pytest

from training.data import label_checks as labels
from training.data.examples import DataError, FileLocation, JointExample, LabeledExample, TaggedExample


def texts(*names: str, start: int = 2, file: str = "a.csv") -> list[LabeledExample]:
    return [
        LabeledExample(text="t", label=name, place=FileLocation(file, line)) for line, name in enumerate(names, start)
    ]


def test_a_single_label_is_refused_with_the_lines_that_have_it() -> None:
    with pytest.raises(DataError, match=r"a.csv, line 2: every training example from here to line 6 has the label 'x'"):
        labels.check("classify", texts(*"xxxxx"), texts("y"))


def test_a_single_tag_is_refused_with_the_option_that_names_another_column() -> None:
    sentence = TaggedExample(tokens=("a", "b"), tags=("X", "X"), place=FileLocation("a.conll", 4, (4, 5)))
    with pytest.raises(DataError, match=r"a.conll, line 4: .* the tag 'X'; at least two .*--tag-column"):
        labels.check("tag", [sentence], [])


def test_labels_that_training_never_saw_are_noted_with_their_lines() -> None:
    notes = labels.check("classify", texts(*"xy"), texts(*"xzqz", file="dev.csv"))
    assert notes == (
        "labels only in the development data, which count as errors: q (dev.csv, line 4), z (dev.csv, line 3)",
    )


def test_labels_that_are_answered_all_the_same_are_not_noted() -> None:
    assert labels.check("classify", texts(*"xy"), texts(*"xz"), answered="z") == ()


def test_a_tag_that_training_never_saw_is_noted_with_the_line_of_its_token() -> None:
    train = [JointExample(tokens=("a", "b"), tags=("O", "X"), label=label) for label in "pq"]
    dev = [
        JointExample(
            tokens=("a", "b", "c"), tags=("O", "X", "Y"), label="p", place=FileLocation("d.conll", 3, (3, 4, 6))
        )
    ]
    assert labels.check("joint", train, dev) == (
        "tags only in the development data, which count as errors: Y (d.conll, line 6)",
    )


def test_of_many_unseen_labels_some_are_shown() -> None:
    (note,) = labels.check("classify", texts(*"xy"), texts(*"abcdefghijkl"))
    assert note.endswith("j (a.csv, line 11) and 2 more")


@pytest.mark.parametrize("typo", ["postive", "positivve", "pozitive", "positiev"])
def test_a_label_one_letter_from_a_frequent_one_is_noted(typo: str) -> None:
    (note,) = labels.check("classify", texts(*["positive"] * 5, "negative", typo), [])
    assert note == f"label {typo!r} (once in a.csv, line 8) may be a typo of 'positive' (5 times)"


@pytest.mark.parametrize("typo", ["Spam", "spa m", "SPAM"])
def test_a_label_that_differs_by_case_or_spaces_is_noted_however_often_it_comes(typo: str) -> None:
    (note,) = labels.check("classify", texts("ham", "spam", typo, "spam", typo, "spam"), [])
    assert note == f"label {typo!r} (2 times, first in a.csv, line 4) may be a typo of 'spam' (3 times)"


def test_of_many_likely_typos_some_are_shown() -> None:
    doubles = [name for number in range(12) for name in (f"Name{number}", f"name{number}", f"name{number}")]
    notes = labels.check("classify", texts(*doubles), [])
    assert len(notes) == 11
    assert notes[-1] == "2 more labels may be typos"


@pytest.mark.parametrize(
    "names",
    [
        ["positive"] * 5 + ["postive"] * 2,  # twice: meant
        ["positive"] * 4 + ["postive"],  # both are rare
        ["NNS"] * 9 + ["NNPS"],  # short
        ["item1"] * 9 + ["item2"],  # numbered
        ["B-place"] * 9 + ["I-place"],  # of one kind
        ["positive"] * 9 + ["pasitiva"],  # two letters
    ],
)
def test_labels_that_are_meant_are_not_taken_for_typos(names: list[str]) -> None:
    assert labels.check("classify", texts(*names), []) == ()


def test_examples_of_another_task_are_refused() -> None:
    with pytest.raises(DataError, match=r"a.csv, line 2: a LabeledExample, but task 'tag' learns from TaggedExample"):
        labels.check("tag", texts(*"xy"), [])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            [f"{i}.25" for i in range(10)],
            r"a.csv, line 2: 10 labels for 10 .*is this a number to predict\? That is not",
        ),
        ([str(i % 6) for i in range(10)], r"6 labels for 10 .*a number to predict"),
        ([f"id-{i}" for i in range(10)], r"10 labels for 10 .*give labels that come again, .* with --label"),
    ],
)
def test_labels_that_do_not_come_again_are_refused(names: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        labels.check("classify", texts(*names), [])


@pytest.mark.parametrize(
    "names", [[str(i % 5) for i in range(10)], [f"id-{i % 9}" for i in range(10)], [str(i) for i in range(9)]]
)
def test_labels_that_may_be_classes_are_taken(names: list[str]) -> None:
    assert labels.check("classify", texts(*names), []) == ()


def test_a_span_that_goes_on_without_having_begun_is_noted_with_its_line() -> None:
    tags = ("I-per", "O", "B-per", "I-per", "I-per", "I-loc")
    sentence = TaggedExample(tokens=tuple("abcdef"), tags=tags, place=FileLocation("a.conll", 4, tuple(range(4, 10))))
    assert labels.check("tag", [sentence], []) == (
        "I- without B- before it, 2 times, first I-per (a.conll, line 4): taken for the beginning of a span, as "
        "conlleval does",
    )
