"""Published data sets: their readers on small files, and the real files where SEQSERVE_DATA names them."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from training.data.examples import (
    DataError,
    JointExample,
    LabeledExample,
    SeriesExample,
    TaggedExample,
    TaggedSeries,
    where,
)
from training.data.fetch import PUBLISHED
from training.data.published import load, parse_tree

with_real_data = pytest.mark.skipif("SEQSERVE_DATA" not in os.environ, reason="SEQSERVE_DATA names no data folder")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder that SEQSERVE_DATA names, with one folder a data set."""
    monkeypatch.setenv("SEQSERVE_DATA", str(tmp_path))
    for name, entry in PUBLISHED.items():
        for file in entry.files:
            (tmp_path / (entry.folder or name) / file.name).parent.mkdir(parents=True, exist_ok=True)
    return tmp_path


def test_tree_gives_every_phrase_unescaped() -> None:
    assert parse_tree(r"(3 (2 -LRB-) (4 (1 ``) (2 good\/bad)))") == [
        (2, ("(",)),
        (1, ('"',)),
        (2, ("good/bad",)),
        (4, ('"', "good/bad")),
        (3, ("(", '"', "good/bad")),
    ]
    assert parse_tree(r"(2 (2 `) (2 '') (2 f\*\*\*) (2 -RRB-))")[-1] == (2, ("'", '"', "f***", ")"))


@pytest.mark.parametrize("tree", ["(3 (2 a)", "a", "(5 a)", "(3 a))b"])
def test_wrong_tree_is_refused_with_its_line(shelf: Path, tree: str) -> None:
    (shelf / "sst/train.txt").write_text(f"(3 a)\n{tree}\n")
    (shelf / "sst/dev.txt").write_text("(3 a)\n")
    with pytest.raises(DataError, match=r"train\.txt, line 2: "):
        load("sst")


def test_sst_trains_on_distinct_phrases(shelf: Path) -> None:
    (shelf / "sst/train.txt").write_text("(4 (2 very) (3 good))\n(1 (3 good) (0 grief))\n(2 (2 so) (2 what))\n")
    (shelf / "sst/dev.txt").write_text("(0 (2 very) (1 bad))\n(2 so)\n")
    very_good = LabeledExample(text=("very", "good"), label="positive")
    good_grief = LabeledExample(text=("good", "grief"), label="negative")
    phrases = load("sst")
    assert [" ".join(phrase.text) for phrase in phrases.train] == ["good", "very good", "grief", "good grief"]
    assert phrases.dev == [LabeledExample(text=("very", "bad"), label="negative")]
    assert load({"name": "sst", "phrases": False}).train == [very_good, good_grief]


def test_sst_fine_has_five_labels(shelf: Path) -> None:
    (shelf / "sst/train.txt").write_text("(4 (2 very) (3 good))\n(2 (2 so) (2 what))\n")
    (shelf / "sst/dev.txt").write_text("(0 (2 very) (1 bad))\n(2 so)\n")
    fine = load({"name": "sst", "fine": True})
    assert [(phrase.label, " ".join(phrase.text)) for phrase in fine.train] == [
        ("2", "very"),
        ("3", "good"),
        ("4", "very good"),
        ("2", "so"),
        ("2", "what"),
        ("2", "so what"),
    ]
    assert [phrase.label for phrase in fine.dev] == ["0", "2"]
    assert where(fine.dev[1]).endswith("dev.txt, line 2")
    assert len(load({"name": "sst", "fine": True, "phrases": False}).train) == 2


def test_sst_everyday_sentences_are_for_training_and_not_in_the_checklist(shelf: Path) -> None:
    (shelf / "sst/train.txt").write_text("(4 (2 very) (3 good))\n")
    (shelf / "sst/dev.txt").write_text("(0 (2 very) (1 bad))\n")
    everyday = load({"name": "sst", "everyday": True})
    labels = {" ".join(phrase.text): phrase.label for phrase in everyday.train}
    assert (labels["not dull"], labels["not great"], len(everyday.dev)) == ("positive", "negative", 1)
    assert {"never boring", "not bad", "awesome"}.isdisjoint(labels)


def test_native_names_are_in_fewer_lists(shelf: Path) -> None:
    for file in PUBLISHED["names"].files:
        (shelf / "names" / file.name).write_text(f"Of{file.name}\n")
    english = ("Garcia", "Byrne", "Smith", *"abcdefg")
    (shelf / "names/English.txt").write_text("".join(f"{name}\n" for name in english))
    (shelf / "names/Spanish.txt").write_text("García\nLopez\n")
    (shelf / "names/Irish.txt").write_text("Byrne\nDoyle\n")
    (shelf / "names/Scottish.txt").write_text("Smith\nMacleod\n")
    splits, native = load("names"), load({"name": "names", "native": True})
    left_out = {(name.text, name.label) for name in splits.train if name not in native.train}
    assert left_out == {("Garcia", "English"), ("Byrne", "English"), ("Smith", "Scottish")}
    assert native.dev == splits.dev


def test_snips_target_chooses_slots_intents_or_both(shelf: Path) -> None:
    for part in ("train", "valid"):
        folder = shelf / "snips" / part
        (folder / "seq.in").write_text("play  jazz \nrate it\n")
        (folder / "seq.out").write_text("O B-genre \nO O\n")
        (folder / "label").write_text("PlayMusic\nRateBook\n")
    assert load("snips").train[0] == TaggedExample(tokens=("play", "jazz"), tags=("O", "B-genre"))
    intents = load({"name": "snips", "target": "intent"})
    assert intents.dev[1] == LabeledExample(text=("rate", "it"), label="RateBook")
    both = load({"name": "snips", "target": "joint"}).train[0]
    assert both == JointExample(tokens=("play", "jazz"), tags=("O", "B-genre"), label="PlayMusic")
    assert where(both).endswith("train/seq.in, line 1")
    with pytest.raises(DataError, match="target is 'slot'"):
        load({"name": "snips", "target": "slot"})


def test_snips_files_of_unequal_length_are_refused(shelf: Path) -> None:
    for name, content in {"seq.in": "a b\nc\n", "seq.out": "O\nO\n", "label": "x\ny\n"}.items():
        (shelf / "snips/train" / name).write_text(content)
        (shelf / "snips/valid" / name).write_text("O\n")
    with pytest.raises(DataError, match=r"seq\.in, line 1: 2 words but 1 tags"):
        load("snips")
    (shelf / "snips/train/label").write_text("x\n")
    with pytest.raises(DataError, match=r"2 rows in seq\.in, 2 rows in seq\.out, 1 rows in label"):
        load("snips")


UNER_TRAIN = """# newdoc id = a
# text = Al-Zaman #1
1\tAl\tB-ORG\t-\tstephen
2\tZaman\tI-ORG\t-\tstephen
3\t#\tO

# text = Iraqi forces
1\tIraqi\tB-OTH\t-\tstephen
2\tforces\tI-O\t-\tstephen
"""


def test_universal_ner_has_rows_of_two_widths_and_kinds_that_mean_outside(shelf: Path) -> None:
    (shelf / "ner/uner-ewt-train.iob2").write_text(UNER_TRAIN)
    (shelf / "ner/uner-ewt-dev.iob2").write_text("1\tParis\tB-LOC\t-\t-\n")
    splits = load("uner-ewt")
    assert splits.train == [
        TaggedExample(tokens=("Al", "Zaman", "#"), tags=("B-ORG", "I-ORG", "O")),
        TaggedExample(tokens=("Iraqi", "forces"), tags=("O", "O")),
    ]
    assert where(splits.train[1], 1).endswith("uner-ewt-train.iob2, line 9")
    assert splits.dev == [TaggedExample(tokens=("Paris",), tags=("B-LOC",))]


def test_row_without_a_tag_is_refused_with_its_line(shelf: Path) -> None:
    (shelf / "ner/uner-ewt-train.iob2").write_text("1\tParis\tB-LOC\n2\tis\n")
    (shelf / "ner/uner-ewt-dev.iob2").write_text("1\tParis\tB-LOC\n")
    with pytest.raises(DataError, match=r"uner-ewt-train\.iob2, line 2: 2 columns"):
        load("uner-ewt")


def test_broad_twitter_corpus_loses_accounts_and_rows_without_a_token(shelf: Path) -> None:
    tweets = ["@\tB-PER\nann\tB-PER\n#\tO\nUN\tB-ORG\n", "in\tO\n\tO\n \tO\nNew\tB-LOC\nYork\tI-LOC\n"]
    for name in "abefgh":
        (shelf / f"ner/btc-{name}.conll").write_text("\n".join([*tweets, f"tweet\tO\n{name}\tO\n"]))
    splits = load("btc")
    read = [*splits.train, *splits.dev]
    assert len(read) == 8  # 2 that are repeated in all files, and 6 others
    assert TaggedExample(tokens=("@", "ann", "#", "UN"), tags=("O", "O", "O", "B-ORG")) in read
    assert TaggedExample(tokens=("in", "New", "York"), tags=("O", "B-LOC", "I-LOC")) in read


def test_wikigold_becomes_iob2(shelf: Path) -> None:
    rows = "Ann I-PER\nLee I-PER\nin O\n\nOslo I-LOC\nUN I-ORG\n\n"
    (shelf / "ner/wikigold.conll").write_text(rows + "".join(f"word O\n{i} O\n\n" for i in range(8)))
    splits = load("wikigold")
    read = [*splits.train, *splits.dev]
    assert (len(splits.train), len(splits.dev)) == (9, 1)
    assert TaggedExample(tokens=("Ann", "Lee", "in"), tags=("B-PER", "I-PER", "O")) in read
    assert TaggedExample(tokens=("Oslo", "UN"), tags=("B-LOC", "B-ORG")) in read


def test_splice_drops_repeated_sequences(shelf: Path) -> None:
    draw = random.Random(0)
    rows = [f"{draw.choice(['EI', 'IE', 'N'])}, X-{i}, {''.join(draw.choices('ACGT', k=60))}\n" for i in range(20)]
    (shelf / "splice/train.txt").write_text("".join([*rows, rows[3].replace("X-3", "Y")]))
    splits = load("splice")
    assert (len(splits.train), len(splits.dev)) == (18, 2)
    label, _, bases = rows[0].strip().split(", ")
    assert LabeledExample(text=bases, label=label) in (*splits.train, *splits.dev)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("EI, X, ACGT", r"line 2: .*EI, IE, N.*60"),
        (f"EX, X, {'A' * 60}", r"line 2: .*EI, IE, N"),
        (f"EI, {'A' * 60}", r"line 2: .*EI, IE, N"),
        (f"EI, X, {'A' * 59}Z", r"line 2: letter 60 is 'Z'"),
    ],
)
def test_wrong_splice_line_is_refused(shelf: Path, line: str, error: str) -> None:
    (shelf / "splice/train.txt").write_text(f"EI, X, {'A' * 60}\n{line}\n")
    with pytest.raises(DataError, match=error):
        load("splice")


def test_nottingham_splits_are_whole_files(shelf: Path) -> None:
    (shelf / "nottingham-abc/train.abc").write_text("X: 1\n|a|\n\nX: 2\n|b|\n")
    (shelf / "nottingham-abc/dev.abc").write_text("X: 3\n|c|\n")
    splits = load("nottingham-abc")
    assert (splits.train, splits.dev) == ("X: 1\n|a|\n\nX: 2\n|b|\n", "X: 3\n|c|\n")


@pytest.mark.parametrize("name", ["trec", "names"])
def test_repeated_examples_are_dropped_before_the_split(shelf: Path, name: str) -> None:
    for file in PUBLISHED[name].files:
        count = 12 if file == PUBLISHED[name].files[0] else 1
        rows = [f"0 what is {file.name} {i % 10} ?\n" for i in range(count)]
        (shelf / name / file.name).write_text("".join(rows))
    splits = load(name)
    assert len({*splits.train, *splits.dev}) == len(splits.train) + len(splits.dev) == 9 + len(PUBLISHED[name].files)


def test_source_has_checksums_and_notes_changed_files(shelf: Path) -> None:
    (shelf / "tinyshakespeare/train.txt").write_bytes(b"0123456789")
    splits = load("tinyshakespeare")
    assert (splits.train, splits.dev) == ("012345678", "9")
    assert splits.source.files == {"train.txt": "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"}
    assert "train.txt" in splits.source.note


def test_unknown_name_option_or_value_is_refused() -> None:
    with pytest.raises(DataError, match=r"'imdb'.*ud-ewt, "):
        load("imdb")
    with pytest.raises(DataError, match=r"'phrase'.*phrases"):
        load({"name": "sst", "phrase": False})
    with pytest.raises(DataError, match="name"):
        load({"phrases": False})
    with pytest.raises(DataError, match="fine is 'no'"):
        load({"name": "sst", "fine": "no"})
    with pytest.raises(DataError, match="target is True"):
        load({"name": "snips", "target": True})


def write_gesture_video(folder: Path, name: str, processed: int, *, columns: int = 2) -> None:
    joints = [joint + axis for joint in ("lh", "rh", "h", "s", "lw", "rw") for axis in "xyz"]
    rows = [",".join([*(f"{frame + number / 8}" for number in range(18)), "7", "Rest"]) for frame in range(6)]
    (folder / f"{name}_raw.csv").write_text("\n".join([",".join([*joints, "timestamp", "phase"]), *rows]) + "\n")
    moving = [",".join(map(str, range(frame, frame + columns))) + ",D" for frame in range(processed)]
    header = ",".join([*map(str, range(columns)), "Phase"])
    (folder / f"{name}_va3.csv").write_text("\r".join([header, *moving]) + "\r")


def test_gesture_frames_join_positions_relative_to_the_spine_and_velocities(shelf: Path) -> None:
    for name in ("a1", "a2", "b1", "a3", "b3"):
        write_gesture_video(shelf / "gesture-phases", name, processed=2)
    first = load("gesture-phases").train[0]
    spine = (9, 10, 11)
    positions = tuple((number - spine[number % 3]) / 8 for number in range(18) if number not in spine)
    assert first == TaggedSeries(frames=((*positions, 0.0, 1.0), (*positions, 1.0, 2.0)), tags=("Rest", "Rest"))
    assert [where(first, step).rpartition(" ")[2] for step in range(2)] == ["6", "7"]
    write_gesture_video(shelf / "gesture-phases", "b3", processed=3)
    with pytest.raises(DataError, match=r"b3_va3\.csv: 3 frames"):
        load("gesture-phases")


def test_wrong_movement_is_refused_with_its_line(shelf: Path) -> None:
    (shelf / "libras/train.data").write_text(f"classLast,90,15,comma\n{'0.5,' * 90}1\n0.5,2\n")
    with pytest.raises(DataError, match=r"train\.data, line 3: 1 numbers"):
        load("libras")


def test_reading_data_needs_no_torch() -> None:
    program = "import sys, training.data.published; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@with_real_data
@pytest.mark.parametrize(
    ("name", "train", "dev"),
    [
        ("ud-ewt", 12_544, 2_001),
        ("wnut17", 3_394, 1_009),
        ("uner-ewt", 12_543, 2_001),
        ("btc", 8_385, 932),
        ("wikigold", 1_518, 169),
        ("snips", 13_084, 700),
        ("sst", 77_616, 872),
        ("trec", 4_843, 538),
        ("names", 16_211, 1_801),
        ("splice", 2_452, 272),
        ("gesture-phases", 3, 2),
        ("japanese-vowels", 243, 27),
        ("libras", 208, 23),
        ("tinyshakespeare", 903_469, 100_385),
        ("nottingham-abc", 356_894, 43_165),
    ],
)
def test_real_data_has_its_known_counts(name: str, train: int, dev: int) -> None:
    splits = load(name)
    assert (len(splits.train), len(splits.dev)) == (train, dev)
    assert splits.source.note == ""
    if name == "ud-ewt":
        assert sum(len(sentence.tokens) for sentence in splits.train) == 204_577
        assert len({tag for sentence in splits.train for tag in sentence.tags}) == 17


@with_real_data
def test_real_vowels_are_series_of_twelve_numbers() -> None:
    splits = load("japanese-vowels")
    assert all(isinstance(each, SeriesExample) for each in splits.train)
    assert {len(frame) for each in splits.train for frame in each.frames} == {12}
    lengths = [len(each.frames) for each in (*splits.train, *splits.dev)]
    assert (min(lengths), max(lengths)) == (7, 26)
    assert sorted(each.label for each in splits.dev) == sorted("123456789" * 3)


@with_real_data
def test_real_gestures_have_a_phase_for_each_frame() -> None:
    splits = load("gesture-phases")
    videos = [*splits.train, *splits.dev]
    assert all(isinstance(each, TaggedSeries) for each in videos)
    assert [len(each.frames) for each in videos] == [1_743, 1_260, 1_069, 1_830, 1_420]
    assert {len(frame) for each in videos for frame in each.frames} == {47}
    phases = {"Hold", "Preparation", "Rest", "Retraction", "Stroke"}
    assert {frozenset(each.tags) for each in videos} == {frozenset(phases)}


@with_real_data
def test_real_movements_are_distinct_series_of_points() -> None:
    splits = load("libras")
    movements = [*splits.train, *splits.dev]
    assert {(len(each.frames), len(each.frames[0])) for each in movements} == {(45, 2)}
    assert len({each.label for each in movements}) == 15
    assert len(set(movements)) == len(movements)


@with_real_data
def test_real_treebank_labels_and_real_tunes() -> None:
    fine = load({"name": "sst", "fine": True, "phrases": False})
    assert (len(fine.train), len(fine.dev)) == (8_534, 1_101)
    assert {phrase.label for phrase in fine.train} == set("01234")
    tunes = load("nottingham-abc")
    assert [text.strip("\n").count("\n\n") + 1 for text in (tunes.train, tunes.dev)] == [828, 103]
