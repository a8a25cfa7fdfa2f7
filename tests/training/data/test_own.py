"""Users' own files: what is read, and that each refusal names the file, the line and the remedy."""

import csv
from pathlib import Path

import pytest

from training.data.custom_data import Columns, hold_out, read, read_labelled, read_tagged, read_text
from training.data.examples import (
    DataError,
    FileLocation,
    JointExample,
    LabeledExample,
    SeriesExample,
    TaggedExample,
    where,
)

THE_DOG = TaggedExample(tokens=("The", "dog"), tags=("DET", "NOUN"))


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        "The\tDET\ndog\tNOUN\n",
        "The DET\ndog NOUN",
        "The   X  DET\ndog   Y  NOUN\n",
        "\ufeffThe\tDET\ndog\tNOUN\n",
        "The\tDET\r\ndog\tNOUN\r\n\r\n",
        "The\tDET\rdog\tNOUN\r",
        "-DOCSTART- -X- O O\n\nThe DET\ndog NOUN\n",
        "# a comment\n\n\nThe\tDET\ndog\tNOUN\n\t\n\t\n",
        "# comment\nThe DET\n# text\ndog NOUN\n",
        "The\tDET\r\ndog\tNOUN\n\r\n",
        "The\tDET\ndog NOUN\n",
        "# label = statement\nThe DET\ndog NOUN\n",
    ],
)
def test_a_sentence_is_read_from_conll_of_any_build(tmp_path: Path, content: str) -> None:
    assert read_tagged(written(tmp_path, "a.conll", content)) == [THE_DOG]


@pytest.mark.parametrize("between", ["\t", " "])
def test_a_hashtag_is_a_token(tmp_path: Path, between: str) -> None:
    tweet = "# a tweet of mine\nlove O\nit O\n#paris O\n".replace(" O", f"{between}O")
    assert read_tagged(written(tmp_path, "a.conll", tweet))[0].tokens == ("love", "it", "#paris")


def test_a_no_break_space_is_part_of_its_token(tmp_path: Path) -> None:
    path = written(tmp_path, "a.conll", "10\u00a0000 NUM\npeople NOUN\n")
    assert read_tagged(path)[0].tokens == ("10\u00a0000", "people")


def test_between_tabs_a_token_may_hold_spaces(tmp_path: Path) -> None:
    assert read_tagged(written(tmp_path, "a.conll", "in\tO\nNew York\tLOC\n"))[0].tokens == ("in", "New York")


def test_sentences_and_their_tokens_know_their_lines(tmp_path: Path) -> None:
    path = written(tmp_path, "a.conll", "-DOCSTART- O\n\n# c\nThe DET\ndog NOUN\n\na DET\n# note\ncat NOUN\n")
    first, second = read_tagged(path)
    assert (where(first), where(first, 1)) == (f"{path}, line 4", f"{path}, line 5")
    assert (where(second), where(second, 1)) == (f"{path}, line 7", f"{path}, line 9")


def test_a_place_is_no_part_of_what_an_example_is() -> None:
    here, there = (LabeledExample(text="a", label="b", place=FileLocation("c", line)) for line in (1, 2))
    assert here == there
    assert len({here, there}) == 1
    assert (where(here), where(LabeledExample(text="a", label="b"))) == ("c, line 1", "")


CONLLU = "# text = du Chien\n1-2\tdu\t_\t_\t_\t_\t_\t_\t_\t_\n1\tde\tde\tADP\tP\t_\t0\t_\t_\t_\n" + (
    "2\tle\tle\tDET\tD\t_\t0\t_\t_\t_\n2.1\tx\tx\tX\tX\t_\t_\t_\t_\t_\n3\tChien\tchien\tNOUN\tN\t_\t0\t_\t_\t_\n\n"
)


def test_conllu_is_read_word_by_word_with_universal_tags_or_those_of_a_named_column(tmp_path: Path) -> None:
    path = written(tmp_path, "a.conllu", CONLLU)
    assert read_tagged(path) == [TaggedExample(tokens=("de", "le", "Chien"), tags=("ADP", "DET", "NOUN"))]
    assert read_tagged(path, token_column="lemma", tag_column="XPOS") == [
        TaggedExample(tokens=("de", "le", "chien"), tags=("P", "D", "N"))
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("The\tDET\ndog\n", r"a.conll, line 2: 1 columns, but 2 in line 1; put one tab"),
        ("The\tDET\ndog\t\n", r"line 2: column -1 is empty"),
        ("The\ndog\n", r"line 1: no column 0, there are 1: 'The'"),
        ("\n# nothing\n", r"no sentence found; expected a token and its tag"),
        ("", r"the file is empty"),
        (b"caf\xe9\tNOUN\n", r"line 1, byte 4: 0xe9 is not utf-8; .* --encoding cp1252 .*encoding = 'cp1252'"),
        (b"The\tDET\r\ncaf\xe9\tNOUN\n", r"line 2, byte 4"),
        ("The\tDET\r\nd\tNOUN\n".encode("utf-16-le"), r"line 1: a NUL .*--encoding utf-16-le"),
        ("The\tDET\r\nd\tNOUN\n".encode("utf-16-be"), r"line 1: a NUL .*--encoding utf-16-be"),
        ("The\tÖET\r\n".encode("utf-16-le"), r"0xd6 is not utf-8; it looks like UTF-16 .*--encoding utf-16-le"),
        (b"The\tDET\r\nd\0g\tNOUN\n", r"line 2: a NUL character, .*; remove it, or name"),
        ("The,DET\ndog,NOUN\n", r"line 1: no column 0, there are 1: 'The,DET'.*turn each comma .* into a tab"),
    ],
)
def test_a_wrong_conll_file_is_refused_with_its_line_and_the_remedy(
    tmp_path: Path, content: str | bytes, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        read_tagged(written(tmp_path, "a.conll", content))


def test_a_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 5, there are 2"):
        read_tagged(written(tmp_path, "a.conll", "The\tDET\n"), tag_column=5)
    with pytest.raises(DataError, match=r"no column 'ner'; CoNLL-U has ID, FORM"):
        read_tagged(written(tmp_path, "a.conllu", CONLLU), tag_column="ner")


def test_a_named_encoding_is_used(tmp_path: Path) -> None:
    path = written(tmp_path, "a.conll", b"caf\xe9\tNOUN\n")
    assert read_tagged(path, encoding="latin-1")[0].tokens == ("café",)
    with pytest.raises(DataError, match="unknown encoding 'latin-99'"):
        read_tagged(path, encoding="latin-99")
    with pytest.raises(DataError, match=r"line 1, byte 4: 0xe9 is not ascii; name the encoding .*--encoding NAME"):
        read_tagged(path, encoding="ascii")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_an_encoding_that_the_file_itself_marks_need_not_be_named(tmp_path: Path, encoding: str) -> None:
    path = written(tmp_path, "a.conll", "café\tNOUN\r\n".encode(encoding))
    assert read_tagged(path)[0].tokens == ("café",)
    assert read_tagged(path, encoding="UTF8")[0].tokens == ("café",)


def test_a_part_in_another_encoding_is_told_from_a_whole_file_in_one(tmp_path: Path) -> None:
    mixed = "text,label\ncafé,a\nnaïve,b\nköln,a\n".encode() + "über,b\n".encode("cp1252")
    with pytest.raises(DataError, match=r"line 5, byte 1: 0xfc is not utf-8, though most of the file is \(1 such"):
        read_labelled(written(tmp_path, "a.csv", mixed))
    whole = "text,label\ncafé,a\nnaïve,b\n".encode("cp1252")
    with pytest.raises(DataError, match=r"line 2, byte 4: .* save the file as UTF-8, .*--encoding cp1252"):
        read_labelled(written(tmp_path, "a.csv", whole))


GOOD_FILM = LabeledExample(text='a "good", film', label="pos")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,label\n"a ""good"", film",pos\n'),
        ("a.csv", 'id;label;text\r\n7;pos;"a ""good"", film"\r\n\r\n'),
        ("a.csv", '\ufeff"text","label"\n"a ""good"", film","pos"\n'),
        ("a.tsv", 'label\ttext\npos\ta "good", film\n'),
        ("a.tsv", 'label\ttext\npos\t"a ""good"", film"\n'),
        ("a.tsv", 'label\ttext\n"pos"\t"a ""good"", film"\n'),
        ("a.txt", 'label|text\npos|"a ""good"", film"\n'),
        ("a.jsonl", '{"text": "a \\"good\\", film", "label": "pos", "id": 7}\n\n'),
    ],
)
def test_a_row_is_read_from_tables_of_any_build(tmp_path: Path, name: str, content: str) -> None:
    assert read_labelled(written(tmp_path, name, content)) == [GOOD_FILM]


def test_a_quoted_tab_is_read_as_csv_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t").writerows([("text", "label"), ('one\t"two"', "x")])
    assert read_labelled(path) == [LabeledExample(text='one\t"two"', label="x")]


@pytest.mark.parametrize("text", ['"never closed', '"so" they say', 'she said "yes"', '"', '""" and more'])
def test_quotes_of_a_tsv_that_do_not_close_a_cell_are_text(tmp_path: Path, text: str) -> None:
    assert read_labelled(written(tmp_path, "a.tsv", f"text\tlabel\n{text}\tx\n"))[0].text == text


LONG = "so " * 50_000


@pytest.mark.parametrize("cell", [LONG, f'"{LONG}"', f'"{LONG}\n{LONG}"'])
def test_a_cell_over_the_limit_is_refused_with_its_size_and_the_limit(tmp_path: Path, cell: str) -> None:
    path = written(tmp_path, "a.csv", f"text,label\nfine,x\n{cell},y\n")
    said = rf"line 3: a cell of {len(cell):,} characters, and the limit of a table is 131,072: .*\.jsonl.*double quote"
    with pytest.raises(DataError, match=said):
        read_labelled(path)


def test_columns_have_the_names_that_the_user_says(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "review;stars;text\nbad;1;x\n")
    assert read_labelled(path, text="review", label="stars") == [LabeledExample(text="bad", label="1")]


def test_a_text_may_run_over_lines_in_csv_and_be_tokens_in_json(tmp_path: Path) -> None:
    assert read_labelled(written(tmp_path, "a.csv", 'text,label\n"two\r\nlines",x\n'))[0].text == "two\nlines"
    tokens = written(tmp_path, "a.jsonl", '{"text": ["a", "b"], "label": 3}')
    assert read_labelled(tokens) == [LabeledExample(text=("a", "b"), label="3")]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "review,stars\nx,1\n", r"a.csv, line 1: no column 'text'; there are 'review', 'stars'.*is no header"),
        ("a.csv", "text,label\na, b,pos\n", r"line 2: 3 columns, but the header has 2; put a text that holds ','"),
        ("a.csv", 'text,label\nfine,pos\n"never closed,neg\n', r"line 3: .* close every double quote"),
        ("a.csv", "text,label\nfine,pos\nbad,\n", r"line 3: 'label' is ''; fill in a label"),
        ("a.csv", 'text,label\n"two\nlines",x\n" ",neg\n', r"line 4: 'text' is ' '; fill in a text"),
        ("a.csv", "text,label\n", r"no row below the header"),
        ("a.tsv", "text\tlabel\nno tab here\n", r"line 2: 1 columns, but the header has 2; .* on one line .*csv"),
        ("a.jsonl", '{"text": "a", "label": "b"}\n{"text": \n', r"a.jsonl, line 2: not JSON"),
        ("a.json", '[\n{"text": "a", "label": "b"}\n]', r"line 1: not JSON .* one whole object a line"),
        ("a.jsonl", '["a", "b"]', r"line 1: list, not an object"),
        ("a.jsonl", '{"txt": "a", "label": "b"}', r"line 1: no column 'text'; there are 'txt', 'label'"),
        ("a.jsonl", '{"text": "a", "label": null}', r"line 1: 'label' is None"),
        ("a.jsonl", '{"text": ["a", 1], "label": "b"}', r"line 1: 'text' is \['a', 1\]"),
        ("a.jsonl", '{"text": "a", "label": 1.5}', r"line 1: 'label' is 1.5"),
        (
            "a.jsonl",
            '{"text": "a", "label": 1}\n{"text": "\\ud83d", "label": 1}',
            r"line 2: 'text' holds \\ud83d, half",
        ),
        ("a.csv", "text,label,text\na,b,c\n", r"line 1: 2 columns are called 'text'"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line_and_the_remedy(
    tmp_path: Path, name: str, content: str, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        read_labelled(written(tmp_path, name, content))


def test_plain_text_keeps_everything_but_its_line_endings(tmp_path: Path) -> None:
    assert read_text(written(tmp_path, "a.txt", "\ufeffOne\r\n\u2028two\r\n\r\n")) == "One\n\u2028two\n\n"
    with pytest.raises(DataError, match=r"b.txt: cannot be read \(No such file"):
        read_text(tmp_path / "b.txt")


TOKENS = '{"tokens": ["a", "b"], "tags": ["O", "X"], "kind": "ask"}\n'


@pytest.mark.parametrize(
    ("name", "content", "task", "codec", "example"),
    [
        ("a.conll", "a O\nb X\n", "tag", "words", TaggedExample(tokens=("a", "b"), tags=("O", "X"))),
        ("a.jsonl", TOKENS, "tag", "words", TaggedExample(tokens=("a", "b"), tags=("O", "X"))),
        (
            "a.conll",
            "# kind = ask\na O\nb X\n",
            "joint",
            "words",
            JointExample(tokens=("a", "b"), tags=("O", "X"), label="ask"),
        ),
        ("a.JSONL", TOKENS, "joint", "words", JointExample(tokens=("a", "b"), tags=("O", "X"), label="ask")),
        ("a.csv", "text,kind\nhello,ask\n", "classify", "words", LabeledExample(text="hello", label="ask")),
        ("a.fa", ">1 ask\nACGT\n", "classify", "dna", LabeledExample(text="ACGT", label="ask")),
        ("a.csv", "id,x,kind\n1,2,ask\n", "classify", "frames", SeriesExample(frames=((2,),), label="ask")),
    ],
)
def test_task_input_and_suffix_choose_the_reader(
    tmp_path: Path, name: str, content: str, task: str, codec: str, example: object
) -> None:
    path = written(tmp_path, name, content)
    assert read(path, task, codec, Columns(label="kind")) == [example]
    assert where(read(path, task, codec, Columns(label="kind"))[0]).startswith(f"{path}, line ")


def test_labels_of_the_whole_have_their_share_in_what_is_held_out() -> None:
    rows = [LabeledExample(text="t", label="rare" if i % 10 == 0 else "usual") for i in range(100)]
    train, dev = hold_out(rows, dev_share=0.2, seed=1)
    assert [sum(row.label == "rare" for row in part) for part in (train, dev)] == [8, 2]
    assert hold_out("abcde", dev_share=0.2, seed=1) == ("abcd", "e")
    sentences = [TaggedExample(tokens=("a",), tags=("O",))] * 10
    assert tuple(map(len, hold_out(sentences, dev_share=0.2, seed=1))) == (8, 2)


def test_a_file_without_blank_lines_is_told_so() -> None:
    with pytest.raises(DataError, match="one sentence only, of 3 tokens: put a blank line after each sentence"):
        hold_out([TaggedExample(tokens=("a",) * 3, tags=("O",) * 3)], dev_share=0.1, seed=1)
