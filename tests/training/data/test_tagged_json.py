"""The reader of tagged sentences in JSON: tokens with tags, and texts with spans."""

from pathlib import Path

import pytest

from tests.support.tiny_files import write
from training.data.examples import DataError, TaggedExample
from training.data.tagged_json import read_tagged_json

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


def test_keys_can_be_named(tmp_path: Path) -> None:
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
