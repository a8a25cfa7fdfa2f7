"""Readers of tagged sentences in CoNLL files, JSON, and tables with one token per row."""

from pathlib import Path

import pytest

from tests.support.tiny_files import write
from training.data.examples import DataError, FileLocation, JointExample, LabeledExample, TaggedExample, where
from training.data.tagged import read_tagged, read_tagged_json, read_token_table

THE_DOG = TaggedExample(tokens=("The", "dog"), tags=("DET", "NOUN"))


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
        "The\tDET\t\ndog\tNOUN\t\n",
        "The\tDET\ndog\tNOUN\t\n\t\t\n",
        "The\tDET\t\t\ndog\tNOUN\n",
        "The DET\t\ndog NOUN \t\n",
        " # comment\nThe DET\ndog NOUN\n",
        "#\thttps://example.org\t[2009-10-17]\nThe\tDET\ndog\tNOUN\n",
        "#\t[2009-10-17]\nThe\tDET\ndog\tNOUN\n",
        "# id 7\tdomain=en\nThe\tDET\ndog\tNOUN\n",
    ],
)
def test_conll_variants_give_the_same_sentence(tmp_path: Path, content: str) -> None:
    assert read_tagged(write(tmp_path, "a.conll", content)) == [THE_DOG]


@pytest.mark.parametrize("between", ["\t", " "])
def test_hashtag_with_a_known_tag_is_a_token(tmp_path: Path, between: str) -> None:
    tweet = "# a tweet of mine\nlove O\nit O\n#paris O\n".replace(" O", f"{between}O")
    assert read_tagged(write(tmp_path, "a.conll", tweet))[0].tokens == ("love", "it", "#paris")


@pytest.mark.parametrize("comment", ["http://example.org\t[2009-10-17]", "n-tv\tO", "[2009-10-17]"])
def test_hash_alone_is_a_comment_where_tokens_are_numbered(tmp_path: Path, comment: str) -> None:
    path = write(tmp_path, "a.tsv", f"#\t{comment}\n1\tAufgrund\tO\n2\tBerlin\tB-LOC\n\n" * 2)
    assert (
        read_tagged(path, token_column=1)
        == [
            TaggedExample(tokens=("Aufgrund", "Berlin"), tags=("O", "B-LOC")),
        ]
        * 2
    )


@pytest.mark.parametrize("hashtag", ["#paris\tO", "#paris\tB-new", "#\tO", "# 1\tO"])
def test_token_that_starts_with_a_hash_stays_a_token(tmp_path: Path, hashtag: str) -> None:
    path = write(tmp_path, "a.conll", f"in\tO\n{hashtag}\nnow\tX\n")
    assert read_tagged(path)[0].tokens == ("in", hashtag.split("\t")[0], "now")


def test_optional_last_column_may_be_empty(tmp_path: Path) -> None:
    path = write(tmp_path, "a.conll", "The\tDET\t\ndog\tNOUN\tanimal\n")
    assert read_tagged(path, tag_column=1) == [THE_DOG]


def test_no_break_space_is_part_of_a_token(tmp_path: Path) -> None:
    path = write(tmp_path, "a.conll", "10\u00a0000 NUM\npeople NOUN\n")
    assert read_tagged(path)[0].tokens == ("10\u00a0000", "people")


def test_tab_separated_tokens_may_contain_spaces(tmp_path: Path) -> None:
    assert read_tagged(write(tmp_path, "a.conll", "in\tO\nNew York\tLOC\n"))[0].tokens == ("in", "New York")


def test_sentences_and_tokens_know_their_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "a.conll", "-DOCSTART- O\n\n# c\nThe DET\ndog NOUN\n\na DET\n# note\ncat NOUN\n")
    first, second = read_tagged(path)
    assert (where(first), where(first, 1)) == (f"{path}, line 4", f"{path}, line 5")
    assert (where(second), where(second, 1)) == (f"{path}, line 7", f"{path}, line 9")


def test_examples_with_different_locations_are_equal() -> None:
    here, there = (LabeledExample(text="a", label="b", place=FileLocation("c", line)) for line in (1, 2))
    assert here == there
    assert len({here, there}) == 1
    assert (where(here), where(LabeledExample(text="a", label="b"))) == ("c, line 1", "")


CONLLU = "# text = du Chien\n1-2\tdu\t_\t_\t_\t_\t_\t_\t_\t_\n1\tde\tde\tADP\tP\t_\t0\t_\t_\t_\n" + (
    "2\tle\tle\tDET\tD\t_\t0\t_\t_\t_\n2.1\tx\tx\tX\tX\t_\t_\t_\t_\t_\n3\tChien\tchien\tNOUN\tN\t_\t0\t_\t_\t_\n\n"
)


def test_conllu_gives_form_and_upos_unless_columns_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a.conllu", CONLLU)
    assert read_tagged(path) == [TaggedExample(tokens=("de", "le", "Chien"), tags=("ADP", "DET", "NOUN"))]
    assert read_tagged(path, token_column="lemma", tag_column="XPOS") == [
        TaggedExample(tokens=("de", "le", "chien"), tags=("P", "D", "N"))
    ]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("The\tDET\ndog\n", r"a\.conll, line 2: 1 columns"),
        ("The\tDET\ndog\t\n", r"a\.conll, line 2: column -1 .*--tag-column"),
        ("The\tDET\n\tNOUN\n", r"a\.conll, line 2: column 0 .*--token-column"),
        ("The\ndog\n", r"a\.conll, line 1: no column 0.*'The'"),
        ("The\tDET\n\ufeff\ndog\tNOUN\n", r"a\.conll, line 2: 1 columns, .*'\\ufeff'"),
        ("The\tDET\ndog\tX\n\u200b\n", r"a\.conll, line 3: 1 columns, .*'\\u200b'"),
        ("The\tDET\ndog\xa0NOUN\n", r"a\.conll, line 2: 1 columns, .*'dog\\xa0NOUN'"),
        ("The\xa0DET\ndog\xa0NOUN\n", r"a\.conll, line 1: no column 0.*'The\\xa0DET'"),
        ("The,DET\ndog,NOUN\n", r"a\.conll, line 1: no column 0.*'The,DET'.*comma"),
        ("\n# nothing\n", r"a\.conll: no sentence"),
    ],
)
def test_wrong_conll_is_refused_with_its_line(tmp_path: Path, content: str, error: str) -> None:
    with pytest.raises(DataError, match=error):
        read_tagged(write(tmp_path, "a.conll", content))


def test_missing_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 5"):
        read_tagged(write(tmp_path, "a.conll", "The\tDET\n"), tag_column=5)
    with pytest.raises(DataError, match=r"no column 'ner'.*FORM"):
        read_tagged(write(tmp_path, "a.conllu", CONLLU), tag_column="ner")
    with pytest.raises(DataError, match=r"'ner'.*\.conllu"):
        read_tagged(write(tmp_path, "a.conll", "The\tDET\n"), tag_column="ner")


@pytest.mark.parametrize("key", ["label", "intent", "mood"])
def test_comment_before_a_sentence_is_its_label(tmp_path: Path, key: str) -> None:
    content = f"#{key}=ask \nWho O\n? O\n\n# {key} = say it\n# text = x\nI B-me\n"
    assert read_tagged(write(tmp_path, "a.conll", content), label="mood") == [
        JointExample(tokens=("Who", "?"), tags=("O", "O"), label="ask"),
        JointExample(tokens=("I",), tags=("B-me",), label="say it"),
    ]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("# label = x\na O\n\nb O\nc O\n", r"a\.conll, line 4: .*# label ="),
        ("# label = \na O\n", r"a\.conll, line 2: .*# label ="),
        ("# label = x\na O\n# label = y\nb O\n", r"a\.conll, line 3: .*line 2"),
    ],
)
def test_sentence_without_a_label_is_refused_with_its_line(tmp_path: Path, content: str, error: str) -> None:
    with pytest.raises(DataError, match=error):
        read_tagged(write(tmp_path, "a.conll", content), label="label")


IN_PARIS = TaggedExample(tokens=("in", "Paris", ",", "Texas"), tags=("O", "B-LOC", "O", "B-LOC"))


@pytest.mark.parametrize(
    "row",
    [
        '{"tokens": ["in", "Paris", ",", "Texas"], "tags": ["O", "B-LOC", "O", "B-LOC"]}',
        '{"id": "7", "tokens": ["in", "Paris", ",", "Texas"], "ner_tags": ["O", "B-LOC", "O", "B-LOC"]}',
        '{"id": 7, "text": "in Paris, Texas", "label": [[3, 8, "LOC"], [10, 15, "LOC"]]}',
        '{"text": "in Paris, Texas", "labels": [[10, 15, "LOC"], [3, 8, "LOC"]], "meta": {}}',
        '{"text": "in Paris, Texas", "label": [[2, 8, "LOC"], [9, 15, "LOC"]]}',
        '{"text": "in Paris, Texas", "entities": [{"id": 1, "label": "LOC", "start_offset": 3, "end_offset": 8}, '
        '{"label": "LOC", "start_offset": 10, "end_offset": 15}], "relations": []}',
        '{"text": "in Paris, Texas", "tokens": [{"text": "in", "id": 0}], "spans": '
        '[{"start": 3, "end": 8, "token_start": 1, "label": "LOC"}, {"start": 10, "end": 15, "label": "LOC"}]}',
    ],
)
def test_formats_of_annotation_tools_give_the_same_sentence(tmp_path: Path, row: str) -> None:
    assert read_tagged_json(write(tmp_path, "a.jsonl", row)) == [IN_PARIS]


def test_keys_of_json_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"words": ["a"], "pos": ["X"], "tags": ["Y"]}')
    assert read_tagged_json(path, tokens="words", tags="pos") == [TaggedExample(tokens=("a",), tags=("X",))]


def test_spans_use_the_tokenizer_of_the_recipe(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"text": "AT&T ok", "label": [[0, 4, "ORG"]]}')
    tags = {kind: read_tagged_json(path, tokenizer=kind)[0].tags for kind in ("words", "whitespace", "characters")}
    assert tags["words"] == ("B-ORG", "I-ORG", "I-ORG", "O")
    assert tags["whitespace"] == ("B-ORG", "O")
    assert tags["characters"] == ("B-ORG", "I-ORG", "I-ORG", "I-ORG", "O", "O", "O")


def test_text_without_spans_is_a_sentence(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"text": "so what", "label": []}')
    assert read_tagged_json(path) == [TaggedExample(tokens=("so", "what"), tags=("O", "O"))]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ('{"tokens": ["a"], "tags": ["O", "O"]}', r"a\.jsonl, line 1: 1 tokens but 2 tags"),
        ('\n{"tokens": ["a"]}', r"line 2: no key 'tags'.*'tokens'"),
        ('{"tokens": [], "tags": []}', r"line 1: 'tokens' is '\[\]'"),
        ('{"tokens": ["a", " "], "tags": ["O", "O"]}', r"line 1: entry 1 of 'tokens' is ' '"),
        ('{"tokens": ["a", "b"], "tags": ["O", null]}', r"line 1: entry 1 of 'tags' is None"),
        (
            '{"tokens": ["a"], "ner_tags": [3]}',
            r"line 1: entry 0 of 'ner_tags' is the number 3.*features\['ner_tags'\]",
        ),
        ('{"words": ["a"], "pos": ["X"]}', r"line 1: no key 'tokens'.*'words', 'pos'.*--tokens"),
        ('{"tokens": ["a"], "pos": ["X"]}', r"line 1: no key 'tags'.*--tags"),
        ('{"text": "in Paris", "label": [[3, 6, "LOC"]]}', r"line 1: span 0, 'Par' from 3 to 6.*'Paris', from 3 to 8"),
        ('{"text": "in Paris", "label": [[3, 9, "LOC"]]}', r"line 1: span 0 .*0 to 8"),
        ('{"text": "in Paris", "label": [["3", "8", "LOC"]]}', r"line 1: span 0 "),
        ('{"text": "in Paris", "label": [[3, 8, "LOC"], [0, 8, "X"]]}', r"line 1: span 1, .* overlaps"),
        ('{"text": "in Paris", "label": [[2, 3, "LOC"]]}', r"line 1: span 0 .*blank"),
        ('{"text": "in Paris", "label": ["LOC"]}', r"line 1: span 0 is 'LOC'"),
    ],
)
def test_wrong_sentence_in_json_is_refused_with_its_line(tmp_path: Path, content: str, error: str) -> None:
    with pytest.raises(DataError, match=error):
        read_tagged_json(write(tmp_path, "a.jsonl", content))


def test_joint_json_without_a_label_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"tokens": ["a"], "tags": ["O"], "kind": "ask"}\n')
    with pytest.raises(DataError, match=r"line 1: no column 'label'.*'kind'.*--label"):
        read_tagged_json(path, label="label")


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


def test_columns_of_a_table_can_be_named(tmp_path: Path) -> None:
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
