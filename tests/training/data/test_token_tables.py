"""The reader of tagged sentences in tables with one token per row."""

from pathlib import Path

import pytest

from tests.support.tiny_files import write
from training.data.examples import DataError, TaggedExample, where
from training.data.token_tables import read_token_table

KAGGLE = 'Sentence #,Word,POS,Tag\nSentence: 1,The,DT,O\n,"10,000",CD,O\n,"""","""",O\nSentence: 2,London,NNP,B-geo\n'
SENTENCES = [
    TaggedExample(tokens=("The", "10,000", '"'), tags=("O", "O", "O")),
    TaggedExample(tokens=("London",), tags=("B-geo",)),
]


def test_kaggle_table_gives_its_sentences_with_their_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "ner_dataset.csv", KAGGLE)
    found = read_token_table(path)
    assert found == SENTENCES
    assert (where(found[0], 2), where(found[1])) == (f"{path}, line 4", f"{path}, line 5")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "sentence_id;token;label\n1;London;B-geo\n2;is;O\n2;big;O\n"),
        ("a.tsv", "Sentence\tword\ttag\n0\tLondon\tB-geo\n1\tis\tO\n1\tbig\tO\n"),
    ],
)
def test_sentences_may_have_their_number_in_every_row(tmp_path: Path, name: str, content: str) -> None:
    found = read_token_table(write(tmp_path, name, content))
    assert found == [SENTENCES[1], TaggedExample(tokens=("is", "big"), tags=("O", "O"))]


def test_columns_can_be_named(tmp_path: Path) -> None:
    found = read_token_table(write(tmp_path, "a.csv", KAGGLE), token_column="word", tag_column="POS")
    assert found is not None
    assert found[1].tags == ("NNP",)


@pytest.mark.parametrize("content", ["The,DET\n", '" PUNCT\nThe DET\n', "# Word,Tag\nThe DET\n", "Word Tag\nThe DET\n"])
def test_file_without_a_header_is_not_a_table(tmp_path: Path, content: str) -> None:
    assert read_token_table(write(tmp_path, "a.csv", content)) is None


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("Word,Tag\nThe,O\n", r"a\.csv, line 1: no column numbers the sentences.*'Word', 'Tag'.*'sentence #'"),
        ("sentence,word,tag\n1,The,\n", r"a\.csv, line 2: 'tag' is ''"),
        ("sentence,word,tag\n1,The,O\n1, ,O\n", r"a\.csv, line 3: 'word' is ' '"),
        ("sentence,word,tag\n", r"a\.csv: no row"),
        (
            "Sentence #,Sentence,POS,Tag\n1,The dog,DT NN,O O\n",
            r"a\.csv: .*'Sentence #,Sentence,POS,Tag'.*--token-column",
        ),
    ],
)
def test_wrong_table_of_tokens_is_refused_with_its_line(tmp_path: Path, content: str, error: str) -> None:
    with pytest.raises(DataError, match=error):
        read_token_table(write(tmp_path, "a.csv", content))
