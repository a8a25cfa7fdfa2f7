"""DNA with labels: tables and FASTA, and the line of every letter that is no base."""

from pathlib import Path

import pytest

from tests.training.data.test_own import written
from training.data.examples import DataError, LabeledExample
from training.data.labeled import read_bases

BASES = [LabeledExample(text="ACGTNacgu-", label="EI"), LabeledExample(text="GG", label="N")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label\n ACGTNacgu-,EI\nGG ,N\n"),
        ("a.jsonl", '{"text": "ACGTNacgu-", "label": "EI"}\n{"text": "GG", "label": "N"}'),
        ("a.fa", ">one EI\nACGTN\nacgu-\n\n>two of them N\r\nGG\n"),
        ("a.fasta", ";a comment\n>one EI\nACGTNacgu-\n;\n>x N\nGG"),
    ],
)
def test_bases_are_read_from_tables_and_fasta(tmp_path: Path, name: str, content: str) -> None:
    assert read_bases(written(tmp_path, name, content)) == BASES


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "text,label\nACGT,x\nACXT,y\n", r"a.csv, line 3: letter 3, 'X', is no base; allowed are A C G T"),
        ("a.fa", ">one x\nACGT\nAC GT\n", r"a.fa, line 3: letter 3, ' ', is no base"),
        ("a.fa", ">one\nACGT\n", r'line 1: \'>one\' has no label; write ">name label"'),
        ("a.fa", "ACGT\n>one x\nA\n", r"line 1: bases before any header"),
        ("a.fa", ">one x\nA\n>two y\n>three z\nA\n", r"line 3: no sequence below this header"),
        ("a.fa", "; nothing\n", r"no sequence found"),
        (
            "a.jsonl",
            '{"text": ["A", "C"], "label": "x"}',
            r"line 1: 'text' is a list; write the bases .* as one string",
        ),
    ],
)
def test_what_is_no_base_is_refused_with_its_line(tmp_path: Path, name: str, content: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_bases(written(tmp_path, name, content))
