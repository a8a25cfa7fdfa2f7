"""Pairs from tables, JSON and parallel files."""

from pathlib import Path

import pytest

from tests.support.tiny_files import write
from training.data.examples import DataError, PairExample, where
from training.data.pairs import read_pairs, read_parallel

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
