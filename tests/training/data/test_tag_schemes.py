"""Tag schemes: which files are converted to IOB2, how, and what the user is told."""

import pytest

from training.data.examples import FileLocation, TaggedExample
from training.data.tag_schemes import are_iob2, convert, rename_kinds

IOB2 = ["O", "B-PER", "I-PER", "I-PER", "B-PER", "B-LOC", "I-LOC", "O"]


def sentence(tags: list[str]) -> TaggedExample:
    lines = tuple(range(1, len(tags) + 1))
    return TaggedExample(tokens=("w",) * len(tags), tags=tuple(tags), place=FileLocation("a.conll", 1, lines))


def converted(tags: list[str], *more: list[str], scheme: str = "auto") -> tuple[list[str], tuple[str, ...]]:
    (train, _), notes = convert([[sentence(tags), *map(sentence, more)], []], scheme)  # type: ignore[arg-type]
    return list(train[0].tags), notes


@pytest.mark.parametrize(
    ("name", "tags"),
    [
        ("BIOES", ["O", "B-PER", "I-PER", "E-PER", "S-PER", "B-LOC", "E-LOC", "O"]),
        ("BILOU", ["O", "B-PER", "I-PER", "L-PER", "U-PER", "B-LOC", "L-LOC", "O"]),
        ("BMES", ["O", "B-PER", "M-PER", "E-PER", "S-PER", "B-LOC", "E-LOC", "O"]),
        ("BMES", ["O", "B-PER", "M-PER", "E-PER", "W-PER", "B-LOC", "E-LOC", "O"]),
        ("IOE", ["O", "I-PER", "I-PER", "E-PER", "E-PER", "I-LOC", "E-LOC", "O"]),
        ("IOE", ["O", "I-PER", "I-PER", "E-PER", "I-PER", "I-LOC", "I-LOC", "O"]),
        ("IOB", ["O", "B_PER", "I_PER", "I_PER", "B_PER", "B_LOC", "I_LOC", "O"]),
        ("IOB", ["o", "b-PER", "i-PER", "i-PER", "b-PER", "b-LOC", "i-LOC", "o"]),
        ("IOB", ["O", "PER-B", "PER-I", "PER-I", "PER-B", "LOC-B", "LOC-I", "O"]),
        ("IOB", ["_", "B-PER", "I-PER", "I-PER", "B-PER", "B-LOC", "I-LOC", "_"]),
        ("IOB", ["NONE", "B-PER", "I-PER", "I-PER", "B-PER", "B-LOC", "I-LOC", "NONE"]),
    ],
)
def test_schemes_give_the_same_iob2_tags_and_a_note(name: str, tags: list[str]) -> None:
    found, (note,) = converted(tags)
    assert found == IOB2
    assert f"the tags are {name}" in note
    assert "data.tag_scheme=none" in note


@pytest.mark.parametrize(
    ("tags", "iob2"),
    [
        (["B", "M", "E", "S", "B", "E"], ["B-SPAN", "I-SPAN", "I-SPAN", "B-SPAN", "B-SPAN", "I-SPAN"]),
        (["O", "B", "I", "O"], ["O", "B-SPAN", "I-SPAN", "O"]),
    ],
)
def test_positions_without_a_kind_are_spans(tags: list[str], iob2: list[str]) -> None:
    assert converted(tags)[0] == iob2
    assert are_iob2(iob2)


@pytest.mark.parametrize("tags", [IOB2, ["O", "I-PER", "I-PER", "B-PER"], ["B-x", "I-x", "B-y"]])
def test_iob_tags_stay_as_they_are(tags: list[str]) -> None:
    assert converted(tags) == (tags, ())


@pytest.mark.parametrize(
    ("stray", "read_as"),
    [("0", "O"), ("o", "O"), ("DATE", "O"), ("B", "O"), ("B-O", "O"), ("LOC", "B-LOC"), ("loc", "B-LOC")],
)
def test_stray_tag_in_a_file_of_spans_is_noted_with_its_line(stray: str, read_as: str) -> None:
    found, (note,) = converted(["B-LOC", "I-LOC", "O", stray, "O"], IOB2)
    assert found == ["B-LOC", "I-LOC", "O", read_as, "O"]
    assert f"tag {stray!r} (once in a.conll, line 4)" in note


def test_stray_tag_continues_a_span_of_its_kind() -> None:
    assert converted(["B-LOC", "LOC", "O"])[0] == ["B-LOC", "I-LOC", "O"]


def test_known_kind_without_a_position_is_a_span_however_frequent() -> None:
    assert converted(["B-LOC", "I-LOC", "O", "LOC", "O", "LOC", "LOC"])[0][3:] == ["B-LOC", "O", "B-LOC", "I-LOC"]


def test_long_list_of_stray_tags_is_cut() -> None:
    _, notes = converted([f"x{i}" for i in range(9)], *[IOB2] * 99)
    assert len(notes) == 6
    assert notes[-1].startswith("4 more")


@pytest.mark.parametrize(
    "tags",
    [
        ["DET", "NOUN", "VERB"],
        ["NN-PL", "B-", "S-BAR", "NN"],
        ["E", "I", "E"],
        ["H", "E", "B", "T"],
        ["VERB-S", "NOUN-P", "DET"],
    ],
)
def test_tags_of_another_meaning_stay_as_they_are(tags: list[str]) -> None:
    assert converted(tags)[0] == tags


def test_mixed_tags_that_are_not_converted_are_noted_with_their_line() -> None:
    tags = ["B-PER", "I-PER", "O", "DATE", "DATE", "DATE"]
    found, (note,) = converted(tags)
    assert found == tags
    assert "'DATE' (3 times, first in a.conll, line 4)" in note


def test_kinds_without_a_position_become_spans_on_request() -> None:
    tags = ["O", "PER", "PER", "LOC", "O", "O", "O"]
    found, (note,) = converted(tags)
    assert found == tags
    assert "data.tag_scheme=io" in note
    assert converted(tags, scheme="io") == (["O", "B-PER", "I-PER", "B-LOC", "O", "O", "O"], ())


def test_conversion_can_be_turned_off() -> None:
    tags = ["B-PER", "E-PER", "O"]
    assert converted(tags, scheme="none") == (tags, ())


def test_renamed_kinds_keep_their_spans_and_others_become_outside() -> None:
    tags = ["B-person", "I-person", "B-product", "I-product", "B-group", "B-corporation", "O"]
    (renamed,) = rename_kinds([sentence(tags)], {"person": "PER", "group": "ORG", "corporation": "ORG"})
    assert renamed.tags == ("B-PER", "I-PER", "O", "O", "B-ORG", "B-ORG", "O")
