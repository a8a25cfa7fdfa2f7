"""Checks of labels and tokens: what is refused, and which notes the user gets."""

import pytest

from training.data.checks import check_labels, check_tokens, note_invisible, note_rare
from training.data.examples import DataError, FileLocation, JointExample, LabeledExample, TaggedExample


def texts(*labels: str, start: int = 2, file: str = "a.csv") -> list[LabeledExample]:
    return [
        LabeledExample(text="t", label=label, place=FileLocation(file, line))
        for line, label in enumerate(labels, start)
    ]


def sentence(*words: str) -> TaggedExample:
    place = FileLocation("a.tsv", 3, range(3, 3 + len(words)))
    return TaggedExample(tokens=words, tags=("O",) * len(words), place=place)


def test_single_label_is_refused_with_its_lines() -> None:
    with pytest.raises(DataError, match=r"a\.csv, line 2: .*line 6 .*'x'.*--label"):
        check_labels("classify", texts(*"xxxxx"), texts("y"))


def test_single_tag_is_refused_with_the_option_for_another_column() -> None:
    one_tag = TaggedExample(tokens=("a", "b"), tags=("X", "X"), place=FileLocation("a.conll", 4, (4, 5)))
    with pytest.raises(DataError, match=r"a\.conll, line 4: .*'X'.*--tag-column"):
        check_labels("tag", [one_tag], [])


def test_development_data_without_a_span_is_noted() -> None:
    train = [TaggedExample(tokens=("a", "b"), tags=("O", "B-x"))]
    (note,) = check_labels("tag", train, [sentence("c")])
    assert "--dev" in note
    assert check_labels("tag", train, train) == ()


def test_unseen_labels_are_noted_with_their_lines() -> None:
    (note,) = check_labels("classify", texts(*"xy"), texts(*"xzqz", file="dev.csv"))
    assert note.endswith(": q (dev.csv, line 4), z (dev.csv, line 3)")


def test_merged_labels_are_not_unseen() -> None:
    assert check_labels("classify", texts(*"xy"), texts(*"xz"), answered="z") == ()


def test_unseen_tag_is_noted_with_the_line_of_its_token() -> None:
    train = [JointExample(tokens=("a", "b"), tags=("O", "X"), label=label) for label in "pq"]
    place = FileLocation("d.conll", 3, (3, 4, 6))
    dev = [JointExample(tokens=("a", "b", "c"), tags=("O", "X", "Y"), label="p", place=place)]
    (note,) = check_labels("joint", train, dev)
    assert note.endswith(": Y (d.conll, line 6)")


def test_long_list_of_unseen_labels_is_cut() -> None:
    (note,) = check_labels("classify", texts(*"xy"), texts(*"abcdefghijkl"))
    assert note.endswith("j (a.csv, line 11) and 2 more")


@pytest.mark.parametrize("typo", ["postive", "positivve", "pozitive", "positiev"])
def test_label_one_edit_from_a_frequent_one_is_noted(typo: str) -> None:
    (note,) = check_labels("classify", texts(*["positive"] * 5, "negative", typo), [])
    assert all(part in note for part in (f"{typo!r} (once in a.csv, line 8)", "'positive' (5 times)"))


@pytest.mark.parametrize("typo", ["Spam", "spa m", "SPAM"])
def test_label_that_differs_in_case_or_spaces_is_noted(typo: str) -> None:
    (note,) = check_labels("classify", texts("ham", "spam", typo, "spam", typo, "spam"), [])
    assert all(part in note for part in (f"{typo!r} (2 times, first in a.csv, line 4)", "'spam' (3 times)"))


def test_long_list_of_typos_is_cut() -> None:
    doubles = [name for number in range(12) for name in (f"Name{number}", f"name{number}", f"name{number}")]
    notes = check_labels("classify", texts(*doubles), [])
    assert len(notes) == 11
    assert notes[-1].startswith("2 more")


@pytest.mark.parametrize(
    "labels",
    [
        ["positive"] * 5 + ["postive"] * 2,  # twice
        ["positive"] * 4 + ["postive"],  # both are rare
        ["NNS"] * 9 + ["NNPS"],  # short
        ["item1"] * 9 + ["item2"],  # numbered
        ["B-place"] * 9 + ["I-place"],  # of one kind
        ["positive"] * 9 + ["pasitiva"],  # two edits
    ],
)
def test_distinct_labels_are_not_typos(labels: list[str]) -> None:
    assert check_labels("classify", texts(*labels), []) == ()


def test_examples_of_another_task_are_refused() -> None:
    with pytest.raises(DataError, match=r"a\.csv, line 2: .*LabeledExample.*'tag'.*TaggedExample"):
        check_labels("tag", texts(*"xy"), [])


@pytest.mark.parametrize(
    "labels", [[f"{i}.25" for i in range(10)], [str(i % 6) for i in range(10)], [f"id-{i}" for i in range(10)]]
)
def test_labels_that_do_not_repeat_are_refused(labels: list[str]) -> None:
    with pytest.raises(DataError, match=rf"a\.csv, line 2: {len(set(labels))} labels for 10 .*--label"):
        check_labels("classify", texts(*labels), [])


@pytest.mark.parametrize(
    "labels", [[str(i % 5) for i in range(10)], [f"id-{i % 9}" for i in range(10)], [str(i) for i in range(9)]]
)
def test_labels_that_repeat_are_accepted(labels: list[str]) -> None:
    assert check_labels("classify", texts(*labels), []) == ()


def test_span_without_b_is_noted_with_its_line() -> None:
    tags = ("I-per", "O", "B-per", "I-per", "I-per", "I-loc")
    place = FileLocation("a.conll", 4, tuple(range(4, 10)))
    (note,) = check_labels("tag", [TaggedExample(tokens=tuple("abcdef"), tags=tags, place=place)], [])
    assert "2 times" in note
    assert "I-per (a.conll, line 4)" in note


@pytest.mark.parametrize("first", [0, 1])
def test_tokens_that_are_positions_are_refused(first: int) -> None:
    numbered = [sentence(*map(str, range(first, last))) for last in (4, 3, 6)]
    with pytest.raises(DataError, match=r"a\.tsv, line 3: .*--token-column 1"):
        check_tokens(numbered)


@pytest.mark.parametrize("numbers", [[sentence("1"), sentence("1")], [sentence("1", "2"), sentence("1", "3")]])
def test_other_numeric_tokens_are_noted(numbers: list[TaggedExample]) -> None:
    (note,) = check_tokens(numbers)
    assert "--token-column" in note


def test_numbers_among_words_are_not_noted() -> None:
    assert check_tokens([sentence("1", "2"), sentence("chapter", "2")]) == ()


@pytest.mark.parametrize("label", ["nan", "None", "NULL", "N/A"])
def test_label_that_may_be_a_missing_value_is_noted(label: str) -> None:
    (note,) = check_labels("classify", texts("x", "y", label, label), [])
    assert f"label {label!r} (2 times, first in a.csv, line 4)" in note


@pytest.mark.parametrize("label", ['"pos"', "'pos'", "\u201cpos\u201d"])
def test_label_in_quotes_is_noted(label: str) -> None:
    (note,) = check_labels("classify", texts("x", "y", label), [])
    assert f"label {label!r} (once in a.csv, line 4)" in note
    assert "quotes" in note


def test_rare_labels_are_noted_with_the_remedy() -> None:
    (note,) = note_rare(texts(*["usual"] * 95, *["rare"] * 5))
    assert "'rare' (5)" in note
    assert "training.class_weights=balanced" in note


def test_labels_of_similar_frequency_are_not_rare() -> None:
    assert list(note_rare(texts(*["usual"] * 80, *["other"] * 20))) == []


@pytest.mark.parametrize("character", ["\ufeff", "\u200b", "\x00", "\x0c", "\x85", "\xad"])
def test_invisible_character_is_noted_escaped_with_its_line(character: str) -> None:
    hidden = TaggedExample(tokens=("in", f"{character}Paris"), tags=("O", "O"), place=FileLocation("a.tsv", 3, (3, 4)))
    (note,) = note_invisible([sentence("The", "dog"), hidden])
    assert f"{character + 'Paris'!r} (a.tsv, line 4)" in note
    text = LabeledExample(text="so " * 99 + character, label="x", place=FileLocation("a.csv", 5))
    (note,) = note_invisible([text])
    assert 5 < note.count("so") < 9
    assert repr(character)[1:-1] in note


def test_no_break_space_is_noted_in_a_label_only() -> None:
    place = FileLocation("a.csv", 2)
    text = LabeledExample(text="10\xa0000 \U0001f469\u200d\U0001f52c\n", label="x", place=place)
    assert list(note_invisible([text])) == []
    (note,) = note_invisible([LabeledExample(text="a", label="x\xa0y", place=place)])
    assert "'x\\xa0y' (a.csv, line 2)" in note
