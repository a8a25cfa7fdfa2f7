"""Pairs from tables, JSON and parallel files."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.tiny_files import write
from training.data.examples import DataError, PairExample, where
from training.data.pairs import read_captions, read_pairs, read_parallel

EXPECTED = [PairExample(source="A dog.", target="Ein Hund."), PairExample(source="Two", target="Zwei")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mine.tsv", "source\ttarget\nA dog.\t Ein Hund. \nTwo\tZwei\n"),
        ("mine.csv", "target,source\nEin Hund.,A dog.\nZwei,Two\n"),
        ("mine.jsonl", '{"source": "A dog.", "target": "Ein Hund."}\n{"source": "Two", "target": "Zwei"}\n'),
    ],
)
def test_tables_and_json_are_read(tmp_path: Path, name: str, content: str) -> None:
    found = read_pairs(write(tmp_path, name, content))
    assert found == EXPECTED
    assert where(found[1]).endswith("2" if name.endswith("l") else "3")


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path, "mine.tsv", "en\tde\nA dog.\tEin Hund.\nTwo\tZwei\n")
    assert read_pairs(path, source="en", target="de") == EXPECTED


def test_parallel_files_are_read_line_by_line(tmp_path: Path) -> None:
    paths = write(tmp_path, "mine.en", "A dog.\nTwo\n"), write(tmp_path, "mine.de", "Ein Hund.\nZwei\n")
    assert read_parallel(*paths) == EXPECTED


@pytest.mark.parametrize("target", ["Ein Hund.\n", "Ein Hund.\n\nZwei\n", "\nZwei\n"])
def test_parallel_files_that_do_not_fit_are_refused(tmp_path: Path, target: str) -> None:
    source = write(tmp_path, "mine.en", "A dog.\nTwo\n")
    with pytest.raises(DataError):
        read_parallel(source, write(tmp_path, "mine.de", target))


@pytest.mark.parametrize("row", ["A dog.\t", "\tEin Hund."])
def test_a_pair_without_a_text_is_refused(tmp_path: Path, row: str) -> None:
    with pytest.raises(DataError, match="line 2"):
        read_pairs(write(tmp_path, "mine.tsv", f"source\ttarget\n{row}\n"))


VECTORS = np.arange(12, dtype=np.float64).reshape(3, 2, 2)


def vectors(tmp_path: Path, array: object = VECTORS) -> Path:
    path = tmp_path / "x.npz"
    np.savez(path, array)
    return path


def test_captions_of_a_text_file_go_with_the_vectors_in_order(tmp_path: Path) -> None:
    found = read_captions(vectors(tmp_path), write(tmp_path, "y.txt", "one\ntwo\nthree\n"))
    assert [pair.target for pair in found] == ["one", "two", "three"]
    assert found[1].source == ((4.0, 5.0), (6.0, 7.0))


def test_a_vector_can_have_several_captions(tmp_path: Path) -> None:
    lines = [{"caption": "a", "index": 2}, {"caption": "b", "index": 2}, {"caption": "c"}]
    captions = write(tmp_path, "y.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    found = read_captions(vectors(tmp_path, VECTORS[:, 0]), captions)
    assert [pair.source for pair in found] == [((8.0, 9.0),)] * 3


@pytest.mark.parametrize(
    "line", ['{"caption": "a", "index": 3}', '{"caption": "a", "index": "b"}', '{"text": "a"}', "{}"]
)
def test_captions_without_a_vector_or_a_text_are_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(DataError, match="line 1"):
        read_captions(vectors(tmp_path), write(tmp_path, "y.jsonl", line))


@pytest.mark.parametrize("array", [VECTORS[0, 0], np.array([["a"]]), VECTORS * 1e300, np.array([[None]])])
def test_other_arrays_than_vectors_are_refused(tmp_path: Path, array: object) -> None:
    with pytest.raises(DataError, match=r"x\.npz"), np.errstate(over="ignore"):
        read_captions(vectors(tmp_path, array), write(tmp_path, "y.txt", "one\n"))


def test_a_file_that_is_not_of_numpy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.npz"):
        read_captions(write(tmp_path, "x.npz", "text"), write(tmp_path, "y.txt", "one\n"))
