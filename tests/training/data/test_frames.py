"""Readers of series of frames with one label, or one for each frame: JSON lines, tables and .ts files."""

from pathlib import Path

import pytest

from tests.support.tiny_files import write
from training.data.examples import DataError, SeriesExample, TaggedSeries, where
from training.data.frames import read_frames, read_tagged_frames

SERIES = [SeriesExample(frames=((1.0, -2.5), (3.0, 4.0)), label="a"), SeriesExample(frames=((5.0, 0.06),), label="b")]
JSONL = '{"frames": [[1, -2.5], [3, 4.0]], "label": "a"}\n\n{"frames": [[5, 6e-2]], "label": "b", "id": 7}\n'
CSV = "id,step,x,label,y\n1,0,1,a,-2.5\n1,1,3,a,4\n\n2,0,5,b,0.06\n"
TS = "#by hand\n@problemName two\n@timeStamps false\n@classLabel true a b\n@data\n1,3:-2.5,4.0:a\n5:6e-2:b\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", JSONL),
        ("a.csv", CSV),
        ("a.tsv", CSV.replace(",", "\t")),
        ("a.txt", CSV.replace(",", ";")),
        ("a.ts", TS),
    ],
)
def test_file_formats_give_the_same_series(tmp_path: Path, name: str, content: str) -> None:
    assert read_frames(write(tmp_path, name, content)) == SERIES


def test_series_and_frames_know_their_lines(tmp_path: Path) -> None:
    for name, content, lines in (("a.jsonl", JSONL, (1, 3)), ("a.csv", CSV, (2, 5)), ("a.ts", TS, (6, 7))):
        path = write(tmp_path, name, content)
        assert [where(each) for each in read_frames(path)] == [f"{path}, line {line}" for line in lines]
    first, _ = read_frames(write(tmp_path, "a.csv", CSV))
    assert where(first, 1).endswith("a.csv, line 3")


def test_json_keys_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"points": [[1]], "who": 3}')
    assert read_frames(path, frames="points", label="who") == [SeriesExample(frames=((1.0,),), label="3")]


def test_series_column_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", CSV.replace("id,step", "run,step"))
    assert read_frames(path, series="run") == SERIES
    with pytest.raises(DataError, match=r"line 4: series '1' .*line 2.*'run'"):
        read_frames(write(tmp_path, "b.csv", "run,x,label\n1,2,a\n2,2,b\n1,2,a\n"), series="run")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ('{"frames": [[1, NaN]], "label": "a"}', r"a\.jsonl, line 1: number 1 of frame 0 is nan"),
        ('{"frames": [[1], [1e999]], "label": "a"}', r"line 1: number 0 of frame 1 is inf"),
        ('{"frames": [[1], [1e39]], "label": "a"}', r"line 1: number 0 of frame 1 is 1e\+39"),
        ('{"frames": [[true]], "label": "a"}', r"line 1: number 0 of frame 0 is True"),
        ('{"frames": [["x"]], "label": "a"}', r"line 1: number 0 of frame 0 is 'x'"),
        ('{"frames": [[null]], "label": "a"}', r"line 1: number 0 of frame 0 is None"),
        ('{"frames": [[1, 2], [3]], "label": "a"}', r"line 1: frame 1 has 1 numbers.* line 1\).* 2"),
        ('{"frames": [[1]], "label": "a"}\n{"frames": [[1, 2]], "label": "a"}', r"line 2: frame 0 has 2 numbers"),
        ('{"frames": [1, 2], "label": "a"}', r"line 1: 'frames' is '\[1, 2\]'"),
        ('{"frames": [], "label": "a"}', r"line 1: 'frames' is '\[\]'"),
        ('{"frames": [[]], "label": "a"}', r"line 1: 'frames' is '\[\[\]\]'"),
        ('{"frames": [[1]], "label": ""}', r"line 1: 'label' is ''"),
        ('{"points": [[1]], "label": "a"}', r"line 1: no column 'frames'.*'points', 'label'.*--text NAME"),
    ],
)
def test_wrong_series_in_json_is_refused_with_its_line(tmp_path: Path, content: str, error: str) -> None:
    with pytest.raises(DataError, match=error):
        read_frames(write(tmp_path, "a.jsonl", content))


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("id,x,label\n1,2,a\n1,,a\n", r"a\.csv, line 3: 'x' is ''"),
        ("id,x,label\n1,2,a\n1,2,b\n", r"line 3: series '1' .*'b'.*'a' in line 2"),
        ("id,x,label\n1,2,a\n2,2,b\n1,2,a\n", r"line 4: series '1' .*line 2.*'id'"),
        ("x,label\n2,a\n", r"line 1: no column 'id'.*--series NAME"),
        ("id,x\n1,2\n", r"line 1: no column 'label'"),
        ("id,step,label\n1,2,a\n", r"line 1: .*'id' and 'label'"),
        ("id,x,label\n1,2\n", r"line 2: 2 columns.* 3"),
        ("id,x,label\n", r"a\.csv: no series"),
    ],
)
def test_wrong_table_of_frames_is_refused_with_its_line(tmp_path: Path, content: str, error: str) -> None:
    with pytest.raises(DataError, match=error):
        read_frames(write(tmp_path, "a.csv", content))


@pytest.mark.parametrize(
    ("before", "after", "error"),
    [
        ("5:6e-2:b", "5:?:b", r"a.ts, line 7: value 0 of feature 1 is '\?'"),
        ("5:6e-2:b", "5:6e-2:c", r"line 7: .*'c'.*@classLabel.*a, b"),
        ("5:6e-2:b", "5,6:6e-2:b", r"line 7: .*2, 1 values"),
        ("5:6e-2:b", "5:b", r"line 7: frame 0 has 1 numbers.*line 6\).* 2"),
        ("5:6e-2:b", "b", r"line 7: no value"),
        ("@timeStamps false", "@timeStamps true", r"@timeStamps true"),
        ("@classLabel true a b", "@classLabel false", r"@classLabel true"),
        ("@data\n", "", r"no line @data"),
    ],
)
def test_wrong_ts_file_is_refused_with_its_line(tmp_path: Path, before: str, after: str, error: str) -> None:
    with pytest.raises(DataError, match=error):
        read_frames(write(tmp_path, "a.ts", TS.replace(before, after)))


TAGGED = [
    TaggedSeries(frames=((1.0, -2.5), (3.0, 4.0)), tags=("rest", "walk")),
    TaggedSeries(frames=((5.0, 0.06),), tags=("1",)),
]
TAGGED_JSONL = (
    '{"frames": [[1, -2.5], [3, 4.0]], "labels": ["rest", " walk"]}\n{"frames": [[5, 6e-2]], "labels": [1]}\n'
)
TAGGED_CSV = "id,step,x,labels,y\n1,0,1,rest,-2.5\n1,1,3,walk,4\n\n2,0,5,1,0.06\n"


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", TAGGED_JSONL), ("a.csv", TAGGED_CSV)])
def test_file_formats_give_the_same_labels_of_frames(tmp_path: Path, name: str, content: str) -> None:
    assert read_tagged_frames(write(tmp_path, name, content)) == TAGGED


def test_columns_and_keys_of_labeled_frames_can_be_named(tmp_path: Path) -> None:
    table = write(tmp_path, "a.csv", TAGGED_CSV.replace("id,", "video,").replace("labels", "phase"))
    assert read_tagged_frames(table, series="video", labels="phase") == TAGGED
    lines = write(tmp_path, "a.jsonl", TAGGED_JSONL.replace("labels", "phase").replace("frames", "points"))
    assert read_tagged_frames(lines, frames="points", labels="phase") == TAGGED


def test_part_of_a_series_keeps_its_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", TAGGED_CSV)
    whole, _ = read_tagged_frames(path)
    assert whole.part(1) == TaggedSeries(frames=((3.0, 4.0),), tags=("walk",))
    assert where(whole.part(1), 0) == where(whole, 1) == f"{path}, line 3"


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.csv", "id,x,labels\n1,2,a\n1,3,\n", r"a\.csv, line 3: 'labels' is ''"),
        ("a.csv", "id,x,labels\n1,2,a\n1,?,b\n", r"line 3: 'x' is '\?'"),
        ("a.csv", "id,x,label\n1,2,a\n", r"line 1: no column 'labels'.*--label NAME"),
        ("a.csv", "id,x,labels\n1,2,a\n2,2,b\n1,2,a\n", r"line 4: series '1' .*line 2"),
        ("a.jsonl", '{"frames": [[1], [2]], "labels": ["a"]}', r"line 1: 1 labels for 2 frames"),
        ("a.jsonl", '{"frames": [[1]], "labels": "a"}', r"line 1: 'labels' is 'a'"),
        ("a.jsonl", '{"frames": [[1], [2]], "labels": ["a", null]}', r"line 1, label 1: 'labels' is None"),
        ("a.jsonl", '{"frames": [[1], [2, 3]], "labels": ["a", "b"]}', r"line 1: frame 1 has 2 numbers"),
        ("a.ts", TS, r"a\.ts: "),
    ],
)
def test_wrong_labels_of_frames_are_refused_with_their_line(
    tmp_path: Path, name: str, content: str, error: str
) -> None:
    with pytest.raises(DataError, match=error):
        read_tagged_frames(write(tmp_path, name, content))
