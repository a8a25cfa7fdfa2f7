"""Readers of labeled texts: CSV, TSV, JSON lines and FASTA."""

import csv
from pathlib import Path

import pytest

from tests.support.tiny_files import write
from training.data.examples import DataError, LabeledExample
from training.data.labeled import read_bases, read_labeled

GOOD_FILM = LabeledExample(text='a "good", film', label="pos")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,label\n"a ""good"", film",pos\n'),
        ("a.csv", 'id;label;text\r\n7;pos;"a ""good"", film"\r\n\r\n'),
        ("a.csv", '\ufeff"text","label"\n"a ""good"", film","pos"\n'),
        ("a.txt", '__label__pos a "good", film\n\n'),
        ("a.csv", '__label__pos\ta "good", film\n'),
        ("a.csv", 'text, label\n"a ""good"", film", "pos"\n'),
        ("a.csv", 'label ,  "text"\n pos, "a ""good"", film"\n'),
        ("a.csv", 'text,label,,\n"a ""good"", film",pos,,\n'),
        ("a.csv", 'text,label\n"a ""good"", film",pos,\n'),
        ("a.csv", 'sep=;\r\nlabel;text\r\npos;"a ""good"", film"\r\n'),
        ("a.csv", '"sep=|"\nlabel|text\npos|"a ""good"", film"\n'),
        ("a.csv", 'sep=\t\nlabel\ttext\npos\ta "good", film\n'),
        ("a.tsv", 'label\ttext\n"pos"\t "a ""good"", film"\n'),
        ("a.tsv", 'label\ttext\t\npos\ta "good", film\t\n'),
        ("a.tsv", 'label\ttext\npos\ta "good", film\t\n'),
        ("a.json", '[\n{"text": "a \\"good\\", film", "label": "pos"}\n]\n'),
        ("a.json", '\n[{"text": "a \\"good\\", film",\n"label": ["pos"]}]'),
        ("a.tsv", 'label\ttext\npos\ta "good", film\n'),
        ("a.tsv", 'label\ttext\npos\t"a ""good"", film"\n'),
        ("a.tsv", 'label\ttext\n"pos"\t"a ""good"", film"\n'),
        ("a.txt", 'label|text\npos|"a ""good"", film"\n'),
        ("a.jsonl", '{"text": "a \\"good\\", film", "label": "pos", "id": 7}\n\n'),
    ],
)
def test_table_variants_give_the_same_row(tmp_path: Path, name: str, content: str) -> None:
    assert read_labeled(write(tmp_path, name, content)) == [GOOD_FILM]


def test_quoted_tab_is_read_as_csv_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t").writerows([("text", "label"), ('one\t"two"', "x")])
    assert read_labeled(path) == [LabeledExample(text='one\t"two"', label="x")]


@pytest.mark.parametrize("text", ['"never closed', '"so" they say', 'she said "yes"', '"', '""" and more'])
def test_tsv_quotes_that_do_not_close_a_cell_are_text(tmp_path: Path, text: str) -> None:
    assert read_labeled(write(tmp_path, "a.tsv", f"text\tlabel\n{text}\tx\n"))[0].text == text


LONG = "so " * 50_000


@pytest.mark.parametrize("cell", [LONG, f'"{LONG}"', f'"{LONG}\n{LONG}"'])
def test_cell_over_the_limit_is_refused_with_its_size(tmp_path: Path, cell: str) -> None:
    path = write(tmp_path, "a.csv", f"text,label\nfine,x\n{cell},y\n")
    with pytest.raises(DataError, match=rf"line 3: .*{len(cell):,} .*131,072.*\.jsonl"):
        read_labeled(path)


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "review;stars;text\nbad;1;x\n")
    assert read_labeled(path, text="review", label="stars") == [LabeledExample(text="bad", label="1")]


def test_text_may_span_lines_in_csv_and_be_tokens_in_json(tmp_path: Path) -> None:
    assert read_labeled(write(tmp_path, "a.csv", 'text,label\n"two\r\nlines",x\n'))[0].text == "two\nlines"
    tokens = write(tmp_path, "a.jsonl", '{"text": ["a", "b"], "label": 3}')
    assert read_labeled(tokens) == [LabeledExample(text=("a", "b"), label="3")]


@pytest.mark.parametrize(("number", "label"), [("1", "1"), ("1.0", "1.0"), ("-2.5", "-2.5"), ("true", "true")])
def test_number_is_the_same_label_in_json_and_in_a_table(tmp_path: Path, number: str, label: str) -> None:
    for name, content in (
        ("a.csv", f"text,label\na,{number}\n"),
        ("a.jsonl", f'{{"text": "a", "label": {number}}}\n'),
    ):
        assert read_labeled(write(tmp_path, name, content))[0].label == label


def test_blanks_before_a_text_stay_where_no_quote_follows(tmp_path: Path) -> None:
    assert read_labeled(write(tmp_path, "a.csv", "label,text\nx,  two\n"))[0].text == "  two"


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.csv", "review,stars\nx,1\n", r"a\.csv, line 1: no column 'text'.*'review', 'stars'.*--text"),
        ("a.csv", "text,label\na, b,pos\n", r"line 2: 3 columns.* 2: 'a, b,pos'"),
        ("a.csv", "text,label\na,b\n\ufeffc\n", r"line 3: 1 columns.*'\\ufeffc'"),
        ("a.csv", "text,label\na,b\ntext,label\nc,d\n", r"line 3: the header again"),
        ("a.csv", 'text,label\n"a" ,b\n', r"line 2: .*blank"),
        ("a.txt", "__label__x a\n__label__x __label__y b\n", r"a\.txt, line 2: 2 labels"),
        ("a.txt", "__label__x a\nb\n", r"a\.txt, line 2: 0 labels"),
        ("a.txt", "__label__x\n", r"a\.txt, line 1: 'text' is ''"),
        ("a.csv", "sep=;\n", r"a\.csv: no header"),
        ("a.csv", 'text,label\nfine,pos\n"never closed,neg\n', r"line 3: "),
        ("a.csv", "text,label\nfine,pos\nbad,\n", r"line 3: 'label' is ''"),
        ("a.csv", 'text,label\n"two\nlines",x\n" ",neg\n', r"line 4: 'text' is ' '"),
        ("a.csv", "text,label\n", r"a\.csv: no row"),
        ("a.csv", "text,label,text\na,b,c\n", r"line 1: 2 columns are called 'text'"),
        ("a.tsv", "text\tlabel\nno tab here\n", r"line 2: 1 columns.* 2.*\.csv"),
        ("a.jsonl", '{"text": "a", "label": "b"}\n{"text": \n', r"a\.jsonl, line 2: "),
        ("a.json", '[\n{"text": "a", "label": "b"}\n{"text": "a", "label": "b"}]', r"a\.json, line 3: no comma"),
        ("a.json", '[\n{"text": "a", "label": "b"},\n{"text: 1}]', r"a\.json, line 3: not JSON"),
        ("a.json", '[{"text": "a",\n"label": "b"},\n{"text": "a", "label": null}]', r"line 3: 'label' is None"),
        ("a.json", '[{"text": "a", "label": "b"}', r"line 1: no comma"),
        ("a.json", "[]", r"a\.json: no row"),
        ("a.json", '{"data": [\n{"text": "a", "label": "b"}]}', r"line 1: .*one object with the keys 'data'"),
        ("a.jsonl", '["a", "b"]', r"line 1: str, not an object"),
        ("a.jsonl", '{"text": "a", "label": "b"}\n["a", "b"]', r"line 2: list, not an object"),
        ("a.jsonl", '{"text": "a", "label": ["b", "c"]}', r"line 1: 'label' is \['b', 'c'\]; give one"),
        ("a.jsonl", '{"txt": "a", "label": "b"}', r"line 1: no column 'text'.*'txt', 'label'"),
        ("a.jsonl", '{"text": "a", "label": null}', r"line 1: 'label' is None"),
        ("a.jsonl", '{"text": ["a", 1], "label": "b"}', r"line 1: 'text' is \['a', 1\]"),
        ("a.jsonl", '{"text": "a", "label": NaN}', r"line 1: 'label' is nan"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "\\ud83d", "label": 1}', r"line 2: 'text' .*\\ud83d"),
    ],
)
def test_wrong_table_is_refused_with_its_line(tmp_path: Path, name: str, content: str, error: str) -> None:
    with pytest.raises(DataError, match=error):
        read_labeled(write(tmp_path, name, content))


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
    assert read_bases(write(tmp_path, name, content)) == BASES


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.csv", "text,label\nACGT,x\nACXT,y\n", r"a\.csv, line 3: letter 3 is 'X'"),
        ("a.fa", ">one x\nACGT\nAC GT\n", r"a\.fa, line 3: letter 3 is ' '"),
        ("a.fa", ">one\nACGT\n", r"line 1: '>one' .*>name label"),
        ("a.fa", "ACGT\n>one x\nA\n", r"line 1: .*>name label"),
        ("a.fa", ">one x\nA\n>two y\n>three z\nA\n", r"line 3: "),
        ("a.fa", "; nothing\n", r"a\.fa: no sequence"),
        ("a.jsonl", '{"text": ["A", "C"], "label": "x"}', r"line 1: 'text' is a list"),
    ],
)
def test_letter_that_is_not_a_base_is_refused_with_its_line(
    tmp_path: Path, name: str, content: str, error: str
) -> None:
    with pytest.raises(DataError, match=error):
        read_bases(write(tmp_path, name, content))
