"""Sentences with a label of the whole: comments in CoNLL, keys in JSON lines."""

from pathlib import Path

import pytest

from tests.training.data.test_own import TOKENS, written
from training.data.conll import read_joint
from training.data.custom_data import read
from training.data.examples import DataError, JointExample


@pytest.mark.parametrize("key", ["label", "intent", "mood"])
def test_a_comment_before_a_sentence_is_its_label(tmp_path: Path, key: str) -> None:
    content = f"#{key}=ask \nWho O\n? O\n\n# {key} = say it\n# text = x\nI B-me\n"
    found = read_joint(written(tmp_path, "a.conll", content), label="mood")
    assert found == [
        JointExample(tokens=("Who", "?"), tags=("O", "O"), label="ask"),
        JointExample(tokens=("I",), tags=("B-me",), label="say it"),
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("# label = x\na O\n\nb O\nc O\n", r"a.conll, line 4: this sentence has no label; write \"# label = …\""),
        ("# label = \na O\n", r"line 2: this sentence has no label"),
        ("# label = x\na O\n# label = y\nb O\n", r"line 3: a label inside the sentence that starts in line 2"),
    ],
)
def test_a_sentence_without_its_label_is_refused_with_its_line(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_joint(written(tmp_path, "a.conll", content))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"tokens": ["a"], "tags": ["O", "O"]}', r"a.jsonl, line 1: 1 tokens but 2 tags"),
        ('\n{"tokens": ["a"]}', r"line 2: no key 'tags'; there are 'tokens'"),
        ('{"tokens": [], "tags": []}', r"line 1: 'tokens' is '\[\]'; give a list of at least one"),
        ('{"tokens": ["a", " "], "tags": ["O", "O"]}', r"line 1: entry 1 of 'tokens' is ' '"),
        ('{"tokens": ["a", "b"], "tags": ["O", null]}', r"line 1: entry 1 of 'tags' is None"),
    ],
)
def test_a_wrong_sentence_in_json_is_refused_with_its_line(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(written(tmp_path, "a.jsonl", content), "tag", "words")


def test_a_joint_sentence_in_json_needs_its_label(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: no column 'label'; there are 'tokens', 'tags', 'kind'.*--label"):
        read(written(tmp_path, "a.jsonl", TOKENS), "joint", "words")
